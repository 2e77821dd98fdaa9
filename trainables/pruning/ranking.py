"""The plain choice: one end of the ranking."""

import torch
from torch import Tensor

from trainables.datasets import generator


def hardest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest of scores `[n]`, highest first.

    Ties are broken by an order drawn once for all: sources come sorted by class, and the many
    samples without a forgetting event, say, must not be kept for their class.
    """
    order = torch.randperm(len(scores), generator=generator("ties"))
    return order[torch.argsort(scores[order], descending=True, stable=True)][:count]


def easiest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` lowest of scores `[n]`, lowest first; ties as in `hardest`."""
    return hardest(-scores, count)
