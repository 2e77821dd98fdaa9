"""What a trial is worth: by how much its result should raise what is recommended.

The knowledge gradient of a candidate is the expected rise, summed over contexts, of the
recommended settings' posterior mean,

    KG(x) = Σ_c E[max_j (a_j + b_j Z)] - max_j a_j,    Z ~ N(0, 1),

with a the posterior mean of the settings of a context and b its change per standard
deviation of what the trial returns (`Surface.lookahead`). The maximum is a convex, piecewise
linear function of Z, so its expectation is exact: a sum over its kinks.

Source: Frazier, Powell and Dayanik, The knowledge-gradient policy for correlated normal beliefs,
INFORMS Journal on Computing 21 (2009).
"""

import numpy as np

from analysis.settings import Floats, Ints, Settings
from analysis.surface import BLOCK, Surface

NEGLIGIBLE = 0.03
"""Contexts that a candidate moves by less than this part of what it moves most are passed over."""
FAR = 5.0
"""Kinks further out, in standard deviations, add nothing."""


def knowledge_gradient(
    surface: Surface,
    candidates: Settings,
    seeds: Ints,
    targets: Settings,
    cost: Floats | None = None,
) -> Floats:
    """Expected rise of the recommendations' mean per unit of cost.

    Args:
        surface: pending trials included.
        candidates: k places where a trial could run.
        seeds: `[k]`, of these trials.
        targets: the settings that may be recommended, of all contexts that count; the best of
            each context is taken.
        cost: `[k]`, > 0, in any unit; 1 if missing.

    Returns:
        `[k]`, >= 0, in units of the score per unit of cost.
    """
    columns = _columns(targets.context)
    mean = surface.mean(targets)[columns]
    change = surface.lookahead(candidates, seeds, targets)
    blocks = (change[at : at + BLOCK] for at in range(0, len(candidates), BLOCK))
    total = np.concatenate([_rise_of_all(mean, block[:, columns]) for block in blocks])
    return total if cost is None else total / cost


def _rise_of_all(mean: Floats, change: Floats) -> Floats:
    """The expected rise, summed over contexts, for every candidate, `[k]`.

    Args:
        mean: `[contexts, j]`.
        change: `[k, contexts, j]`; is overwritten.
    """
    best = mean.argmax(axis=1)
    change -= np.take_along_axis(change, best[None, :, None], axis=2)
    behind = mean.max(axis=1, keepdims=True) - mean
    moved = np.abs(change)
    spread = moved.max(axis=2)
    may_win = (FAR * moved > behind).any(axis=2)
    rows, contexts = np.nonzero(may_win & (spread > NEGLIGIBLE * spread.max(axis=1, keepdims=True)))
    rise = expected_rise(mean[contexts], change[rows, contexts])
    total: Floats = np.bincount(rows, rise, len(change)).astype(np.float64)
    return total


def expected_rise(mean: Floats, change: Floats) -> Floats:
    """E[max_j (a_j + b_j Z)] - max_j a_j, exactly, for every row.

    Walks along the upper envelope of the lines a + b z from the smallest slope to the largest;
    each kink at z adds (change of slope) · (φ(z) - |z| Φ(-|z|)).

    Args:
        mean: a, `[rows, j]`.
        change: b, `[rows, j]`.

    Returns:
        `[rows]`, >= 0.
    """
    total = np.zeros(len(mean))
    rows = np.arange(len(mean))
    a, b = mean, change
    # Of lines with the smallest slope, the highest.
    lowest = b == b.min(axis=1, keepdims=True)
    here = np.where(lowest, a, -np.inf).argmax(axis=1)
    while len(rows):
        at = np.arange(len(rows))
        steeper = b - b[at, here][:, None]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            z = np.where(steeper > 0, (a[at, here][:, None] - a) / steeper, np.inf)
        nearest = z.min(axis=1)
        going = nearest < FAR
        there = np.where(z <= nearest[:, None], steeper, -np.inf).argmax(axis=1)
        total[rows] += np.where(going, steeper[at, there] * _partial(nearest), 0.0)
        rows, a, b, here = rows[going], a[going], b[going], there[going]
    return total


def _partial(z: Floats) -> Floats:
    """E[(Z - |z|)+] of a standard normal Z."""
    from scipy.special import ndtr  # noqa: PLC0415  (a third of a second, only for proposals)

    distance = np.minimum(np.abs(z), 2 * FAR)
    density = np.exp(-0.5 * distance**2) / np.sqrt(2 * np.pi)
    partial: Floats = np.maximum(density - distance * ndtr(-distance), 0.0)
    return partial


def _columns(contexts: Ints) -> Ints:
    """Positions of each context's targets, `[contexts, most]`: short rows repeat their first."""
    _, index, count = np.unique(contexts, return_inverse=True, return_counts=True)
    order = np.argsort(index, kind="stable")
    begin = np.cumsum(count) - count
    step = np.arange(count.max(initial=0))
    inside = np.where(step < count[:, None], step, 0)
    columns: Ints = order[begin[:, None] + inside]
    return columns
