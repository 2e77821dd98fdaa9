"""Random pruning: every subset of a size is equally likely."""

import torch
from torch import Tensor

from trainables.datasets import generator


def draw_scores(samples: int, seed: int) -> Tensor:
    """A random ranking as scores, float32 `[samples]`, without ties.

    Unlike the other methods' scores it belongs to the trial's seed, so that the spread
    over seeds contains the luck of the draw. One ranking serves every fraction: with a
    common seed the subset of a smaller fraction lies within that of a larger one.
    """
    return torch.randperm(samples, generator=generator("subset", seed)).float()
