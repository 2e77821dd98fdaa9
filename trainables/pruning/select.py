"""From scores and a fraction to the samples that are kept."""

from pathlib import Path

import torch
from torch import Tensor

from trainables.config import TrialConfig, scores_spec
from trainables.datasets import Splits
from trainables.pruning import random, scores
from trainables.sizes import count_kept


def kept_samples(config: TrialConfig, splits: Splits, cache_folder: Path) -> Tensor:
    """Indices of the training samples that a trial keeps, int64 `[k]`, sorted."""
    if config.method == "random":
        ranking = random.draw_scores(len(splits.labels), config.seed)
    else:
        ranking = scores.load_scores(scores_spec(config), cache_folder)
    return keep(ranking, config.fraction)


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
