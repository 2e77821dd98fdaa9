"""What the recommended settings may lose against the best ones, over all contexts of a search."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.estimators import DRAW_SEED, Floats, Trials, quadratic

POINTS = 100.0
"""Points in one unit of the objective."""


class Loss(NamedTuple):
    """In points: 0.01 of the objective."""

    expected: float
    """Posterior mean of the mean loss over contexts."""
    upper: float
    """What that mean loss stays below, with the confidence asked for."""


def context_loss(trials: Trials) -> Floats | None:
    """Draws of what following the recommendation of one context loses, in units of the score.

        loss = max_x m(x) - m(x̂),    x̂ = argmax_x E m(x)

    m is drawn from the posterior behind the intervals of `quadratic`, and so holds under the same
    conditions: above all, if the mean score is quadratic in the KD weight.

    Args:
        trials: the complete ones.

    Returns:
        `[draws]`; None where there are too few trials for an answer. Where all scored the same,
        nothing is lost.
    """
    return quadratic(trials, 0.9).loss if len(trials.score) else None


def mean_loss(losses: Sequence[Floats], confidence: float) -> Loss:
    """The mean over contexts, whose errors are taken as independent.

    Args:
        losses: from `context_loss`, at least one, in the same order whenever they are compared.
        confidence: probability that the mean loss is below `Loss.upper`, in (0, 1).
    """
    # The estimator's draws are the same numbers in every context: dealt out anew, they are
    # independent of each other.
    dealt = [
        np.random.default_rng((DRAW_SEED, index)).permutation(draws)
        for index, draws in enumerate(losses)
    ]
    points = POINTS * np.mean(dealt, axis=0)
    return Loss(float(points.mean()), float(np.quantile(points, confidence)))
