"""From scores and a fraction to the samples that are kept."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from trainables.config import FILE, ScoresFile, TrialConfig, scores_spec
from trainables.datasets import Splits, generator
from trainables.pruning import ccs, file, random, scores
from trainables.pruning.ranking import easiest, hardest
from trainables.sizes import count_kept

Choice = Callable[[Tensor, int], Tensor]
"""Scores `[n]` and a count to the indices, int64 `[count]`, of those chosen."""


def kept_samples(config: TrialConfig, splits: Splits, cache_folder: Path) -> Tensor:
    """Indices of the training samples that a trial keeps, int64 `[k]`, sorted.

    Raises:
        ValueError: the method is unknown, or the user's scores are not what they should be.
    """
    options = config.pruning
    choose: Choice = hardest if options.keep == "hardest" else easiest
    if config.method == "ccs":  # it has no end to keep: every stratum gives its part
        choose = partial(
            ccs.choose,
            strata=options.strata,
            hardest_share=options.hardest_share,
            rng=generator("strata", config.seed),
        )
    return keep(
        _scores(config, len(splits.labels), cache_folder),
        config.fraction,
        choose,
        splits.labels if options.balanced else None,
    )


def _scores(config: TrialConfig, samples: int, cache_folder: Path) -> Tensor:
    if config.method == "random":
        return random.draw_scores(samples, config.seed)
    if config.method.startswith(FILE):
        brought = config.scores_file or ScoresFile(file=config.method.removeprefix(FILE))
        return file.read_scores(brought, samples)
    return scores.load_scores(scores_spec(config), cache_folder)


def keep(
    scores: Tensor, fraction: float, choose: Choice = hardest, balanced: Tensor | None = None
) -> Tensor:
    """Indices of the samples kept.

    Args:
        scores: `[n]`, higher = harder.
        fraction: part to keep, in (0, 1].
        choose: which they are; of each class if `balanced`.
        balanced: labels, int64 `[n]`, to keep every class in proportion; None if the choice
            alone decides, which may lose classes.

    Returns:
        int64 `[count_kept(n, fraction)]`, sorted.

    Raises:
        ValueError: a score is not a number or infinite.
    """
    if not torch.isfinite(scores).all():
        raise ValueError("scores must be finite")
    count = count_kept(len(scores), fraction)
    if balanced is None:
        return choose(scores, count).sort().values
    chosen = []
    for label, places in enumerate(proportional(balanced, count)):
        members = torch.nonzero(balanced == label).flatten()
        chosen.append(members[choose(scores[members], places)])
    return torch.cat(chosen).sort().values


def proportional(labels: Tensor, count: int) -> list[int]:
    """Divide `count` places among the classes by their sizes.

    Each class gets its share rounded down; the places left go to the largest remainders
    (Hamilton's method; of equals to the lower class), so that the total is exact.

    Args:
        labels: int64 `[n]`.
        count: at most n.

    Returns:
        Places of each class up to the largest label.
    """
    shares = torch.bincount(labels) * count  # in n-ths of a place: whole numbers have no rounding
    places = shares // len(labels)
    by_remainder = torch.argsort(shares % len(labels), descending=True, stable=True)
    places[by_remainder[: count - int(places.sum())]] += 1
    return [int(each) for each in places]


def lost_classes(kept: Tensor, labels: Tensor) -> int:
    """How many classes of the labels, int64 `[n]`, have no sample among the kept `[k]`."""
    return len(torch.unique(labels)) - len(torch.unique(labels[kept]))
