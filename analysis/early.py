"""What can be told early: from which epoch on ranks agree with the end, and what stopping costs.

Learning curves come in groups: `[k, T]` scores after each of T epochs, of k trials that differ in
what is tuned and share their context and seed. The number of epochs may differ from group to
group; positions are therefore shares of the budget, in (0, 1].
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.estimators import Floats

THRESHOLD = 0.9
"""Rank correlation with the end from which on ranks count as settled."""
FEWEST_GROUPS = 10
"""Below that, a mean rank correlation of groups of three says too little."""
POSITIONS = 100
"""Positions that are looked at, at most."""


class Agreement(NamedTuple):
    """How far ranks at some position agree with those at the end."""

    share: Floats
    """Positions as shares of the budget, ascending up to 1, `[s]`."""
    correlation: Floats
    """Mean Spearman rank correlation with the end over the groups, in [-1, 1], `[s]`."""
    groups: int


def rank_agreement(curves: Sequence[Floats]) -> Agreement:
    """Compare the ranks inside each group with those at its end.

    A group whose scores all end the same has no ranks and is left out; where all are the same on
    the way its correlation is 0. A group for which a position falls on its last epoch says
    nothing of that position.

    Args:
        curves: groups of `[k, T]`, k ≥ 2.
    """
    usable = [group for group in curves if np.ptp(group[:, -1]) > 0]
    longest = max((group.shape[1] for group in usable), default=1)
    steps = min(longest, POSITIONS)
    share = np.arange(1, steps + 1) / steps
    total, count = np.zeros(steps), np.zeros(steps)
    for group in usable:
        # A share of k/T is meant to be epoch k, whatever its last digit.
        epochs = np.maximum(np.ceil(share * group.shape[1] - 1e-9), 1).astype(np.int64)
        inside = epochs < group.shape[1]
        total += np.where(inside, _spearman(group[:, epochs - 1], group[:, -1:]), 0.0)
        count += inside
    correlation = np.where(count > 0, total / np.maximum(count, 1), 1.0)
    return Agreement(share, correlation, len(usable))


def settled_share(agreement: Agreement, threshold: float = THRESHOLD) -> float:
    """The earliest position at which, and at all later ones, ranks agree: 1 if only at the end."""
    below = np.flatnonzero(agreement.correlation < threshold)
    return float(agreement.share[below[-1] + 1 if len(below) else 0])


def _spearman(scores: Floats, end: Floats) -> Floats:
    """Rank correlation of each column of `[k, s]` with `[k, 1]`, ties sharing their mean rank."""
    a, b = _centred_ranks(scores), _centred_ranks(end)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    correlation: Floats = (a * b).sum(axis=0) / np.where(norm > 0, norm, 1.0)
    return correlation


def _centred_ranks(scores: Floats) -> Floats:
    others = scores[None]
    own = scores[:, None]
    ranks: Floats = ((own > others) + 0.5 * (own == others)).sum(axis=1)
    centred: Floats = ranks - ranks.mean(axis=0)
    return centred


class Missed(NamedTuple):
    """What stopping at one rung would have cost trials that were all run to their end."""

    groups: int
    missed: int
    """Groups whose best trial at the end would have been stopped."""
    points: float
    """Mean over all groups of the best score less the best one among those that go on, times
    100."""


def missed_best(curves: Sequence[Floats], rungs: Sequence[int], quantile: float) -> Missed:
    """How often the best at the end would have been stopped at a rung.

    Each trial is compared as if it came last: it is stopped if its score is below that quantile
    of the others', as asynchronous successive halving does it.

    Args:
        curves: groups of `[k, T]`, k ≥ 2, of trials that were not stopped.
        rungs: the epoch of each group's rung, from 1.
        quantile: in [0, 1]; 1 - 1/reduction_factor, or ½ for a median rule.
    """
    missed, lost = 0, 0.0
    for group, epoch in zip(curves, rungs, strict=True):
        at, end = group[:, epoch - 1], group[:, -1]
        bars = [np.quantile(np.delete(at, i), quantile) for i in range(len(at))]
        best_left = end[at >= bars].max()  # the best at the rung is never below its bar
        missed += bool(best_left < end.max())
        lost += 100 * float(end.max() - best_left)
    return Missed(len(curves), missed, lost / max(len(curves), 1))


def spared(trained: Floats, whole: Floats, stopped: Floats) -> float:
    """Share of the training that stopping early spared, of what would have been trained without.

    Args:
        trained: epochs × kept samples that each trial was trained on, `[n]`.
        whole: the same for its full budget, `[n]`.
        stopped: whether it was stopped early, `[n]`.
    """
    saved = float(((whole - trained) * stopped).sum())
    total = float(trained.sum()) + saved
    return saved / total if total else 0.0
