"""From scores and a fraction to the samples that are kept."""

import torch
from torch import Tensor

from trainables.sizes import count_kept


def keep(scores: Tensor, fraction: float) -> Tensor:
    """Indices of the hardest samples.

    Args:
        scores: `[n]`, higher = harder; ties are broken by the lower index.
        fraction: part to keep, in (0, 1].

    Returns:
        int64 `[count_kept(n, fraction)]`, sorted.

    Raises:
        ValueError: a score is not a number or infinite.
    """
    if not torch.isfinite(scores).all():
        raise ValueError("scores must be finite")
    ranking = torch.argsort(scores, descending=True, stable=True)
    return ranking[: count_kept(len(scores), fraction)].sort().values
