"""Every pruning method by name."""

from typing import Protocol

from torch import Tensor

from trainables.config import Recipe
from trainables.datasets import Splits
from trainables.pruning import el2n, forgetting
from trainables.pruning.proxies import Progress


class Scoring(Protocol):
    """What a method of fixed scores is: one function."""

    def __call__(
        self,
        splits: Splits,
        architecture: str,
        recipe: Recipe,
        seeds: int,
        progress: Progress | None = None,
    ) -> Tensor:
        """Scores, finite float32 `[n]`, higher = harder; the same arguments, the same scores."""
        ...


METHODS: dict[str, Scoring | None] = {
    "random": None,  # drawn by each trial's seed, so there is nothing to prepare
    "el2n": el2n.score,
    "forgetting": forgetting.score,
}
