"""Every pruning method by name."""

from typing import Protocol

from torch import Tensor

from trainables import parts
from trainables.config import Pruning, Recipe, is_own
from trainables.datasets import Splits
from trainables.pruning import aum, el2n, forgetting, grand
from trainables.pruning.proxies import Progress


class Scoring(Protocol):
    """What a method of fixed scores is: one function, `package.module:function` if it is a user's.

    It is called once per seed, maybe on different machines at a time; scores are averaged over
    the seeds. `proxies.proxy_training` and `proxies.early_proxy` give it networks to score by.
    """

    def __call__(
        self,
        splits: Splits,
        architecture: str,
        recipe: Recipe,
        index: int,
        options: Pruning,
        progress: Progress | None = None,
    ) -> Tensor:
        """One seed's scores of all n training samples.

        The same arguments, the same scores: whatever is random derives from `index`.

        Args:
            splits: of the data set; scores follow the order of `splits.images` and know the
                labels as given (`splits.labels`), noise included.
            architecture: the student's.
            recipe: the student's, on all the data.
            index: which of the seeds, from 0.
            options: conventions that some methods have; a user's method gets the defaults.
            progress: to be called with the epochs done and their total, if it is given.

        Returns:
            `[n]`, finite, higher = harder.
        """
        ...


METHODS: dict[str, Scoring | None] = {
    "random": None,  # drawn by each trial's seed, so there is nothing to prepare
    "forgetting": forgetting.score,
    "el2n": el2n.score,
    "grand": grand.score,
    "aum": aum.score,
    "ccs": None,  # another choice by the scores of a method above
}

SUMMED = frozenset({"forgetting"})
"""Methods whose scores are summed over seeds; those of the others are averaged."""


def find(name: str) -> Scoring:
    """The scoring function of a method, or a user's own.

    Raises:
        ValueError: the method is unknown or has no fixed scores, or a user's cannot be imported.
    """
    if is_own(name):
        return parts.find(name, "a scoring function")
    scoring = METHODS.get(name)
    if scoring is None:
        known = ", ".join(name for name, function in METHODS.items() if function)
        raise ValueError(
            f"method {name!r} has no fixed scores; those that have: {known}, and a user's own, "
            "package.module:function"
        )
    return scoring
