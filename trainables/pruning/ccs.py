"""CCS: samples of every difficulty but the hardest, as evenly as their numbers allow."""

import torch
from torch import Tensor

from trainables.pruning.ranking import easiest
from trainables.sizes import count_share


def choose(
    scores: Tensor, count: int, *, strata: int, hardest_share: float, rng: torch.Generator
) -> Tensor:
    """Draw from strata of equal width in the score, the same from each where there is enough.

    The hardest samples, often mislabelled ones, are left out: `hardest_share` of all of them, or
    as many as can be spared if `count` leaves no room for that. The range of the rest is divided
    into `strata`. From the smallest stratum to the largest (of equals the easier first), each
    gives `min(its size, ⌊budget left / strata left⌋)`, so that what a division leaves over goes
    to the larger ones and the total is exact.

    Args:
        scores: `[n]`, finite, higher = harder.
        count: how many of the n to choose.
        strata: ranges of equal width, closed below, the last one above as well.
        hardest_share: in [0, 1), rounded half up to whole samples.
        rng: draws the members of each stratum.

    Returns:
        int64 `[count]`, in no order.

    Source:
        Zheng et al. 2023, algorithm 1, with its hard cutoff rate β as `hardest_share` (rounded
        down there).
    """
    samples = len(scores)
    rest = easiest(scores, max(count, samples - count_share(samples, hardest_share)))
    rest = rest[torch.randperm(len(rest), generator=rng)]
    values = scores[rest].double()
    above = values - values.min() if len(values) else values
    # Multiplied first: whole numbers, as counts of events are, then fall where they belong.
    width = above.max() if above.any() else torch.ones(())
    stratum = (above * strata / width).long().clamp(max=strata - 1)
    sizes = torch.bincount(stratum, minlength=strata)
    chosen, budget = [], count
    for done, which in enumerate(torch.argsort(sizes, stable=True).tolist()):
        places = min(int(sizes[which]), budget // (strata - done))
        chosen.append(rest[stratum == which][:places])
        budget -= places
    return torch.cat(chosen)
