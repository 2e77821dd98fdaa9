"""What the recommended settings may lose against the best ones, over all contexts of a search."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.estimators import DRAW_SEED, SAME, Floats, Trials
from analysis.joint import surface

POINTS = 100.0
"""Points in one unit of the objective."""


class Loss(NamedTuple):
    """In points: 0.01 of the objective."""

    expected: float
    """Posterior mean of the mean loss over contexts."""
    upper: float
    """What that mean loss stays below, with the confidence asked for."""


def expected_loss(contexts: Sequence[Trials], confidence: float) -> Loss | None:
    """What following the recommendations of a search loses, as a mean over its contexts.

        loss = max_x m(x) - m(x̂),    x̂ = argmax_x E m(x)

    m is drawn from the posterior of the response surface, by which answers are recommended, and
    so holds under the same conditions. Where all trials of a context scored the same, nothing is
    lost.

    Args:
        contexts: the complete trials of each.
        confidence: probability that the mean loss is below `Loss.upper`, in (0, 1).

    Returns:
        None while a context has too few trials for an answer.
    """
    answers = surface(contexts, 0.9)
    losses = [np.zeros(1) if answer.reason == SAME else answer.loss for answer in answers]
    sound = [loss for loss in losses if loss is not None]
    return mean_loss(sound, confidence) if len(sound) == len(losses) else None


def mean_loss(losses: Sequence[Floats], confidence: float) -> Loss:
    """The mean over contexts, whose errors are taken as independent.

    Args:
        losses: draws of each, at least one, in the same order whenever they are compared.
        confidence: probability that the mean loss is below `Loss.upper`, in (0, 1).
    """
    # The estimator's draws are the same numbers in every context: dealt out anew, they are
    # independent of each other.
    size = max(map(len, losses))
    dealt = [
        np.random.default_rng((DRAW_SEED, index)).permutation(np.broadcast_to(draws, size))
        for index, draws in enumerate(losses)
    ]
    points = POINTS * np.mean(dealt, axis=0)
    return Loss(float(points.mean()), float(np.quantile(points, confidence)))
