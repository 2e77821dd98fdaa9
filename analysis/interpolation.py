"""What runs with a common seed say of KD weights between theirs: interpolated logits.

Runs of one context and seed differ in their KD weight alone, and their validation logits move
smoothly with it. A polynomial through the logits of two or three such runs says what a run
between them would answer, and one temperature what that is worth. How far this can be believed is
measured wherever three runs share a seed: leave the middle one out and predict it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.likelihood import scaled_nll

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Logits = NDArray[np.floating]

DEGREE = 2
"""Of the polynomial, at most."""
MAX_AMPLIFICATION = 1.5
"""Largest sum of squared weights: runs too close together carry no curve, only their noise."""
POINTS = 3
"""KD weights read off between the outermost anchors."""
NEAREST = 0.05
"""No reading nearer to an anchor: the run itself says that better."""


def basis(anchors: ArrayLike, at: ArrayLike) -> Floats:
    """Weights of the anchors' logits in the logits at other KD weights, `[m, k]`.

    Least squares by the polynomial of the highest degree, at most 2, whose weights do not blow
    noise up: with two or three well spaced anchors, Lagrange's interpolation.

    Args:
        anchors: k distinct KD weights.
        at: m KD weights.
    """
    known, wanted = np.asarray(anchors, np.float64), np.asarray(at, np.float64)
    for degree in range(min(DEGREE, len(known) - 1), -1, -1):
        inverse = np.linalg.pinv(np.vander(known, degree + 1))
        weights: Floats = np.vander(wanted, degree + 1) @ inverse
        if not weights.size or (weights**2).sum(axis=1).max() <= MAX_AMPLIFICATION:
            break
    return weights


def interpolated_nll(
    logits: Logits, labels: NDArray[np.integer], anchors: ArrayLike, at: ArrayLike
) -> Floats:
    """Scaled negative log-likelihood of the logits interpolated at KD weights, `[m]`, in nats.

    Args:
        logits: `[k, v, classes]`, of runs with a common seed.
        labels: `[v]`.
        anchors: the runs' KD weights, `[k]`, distinct.
        at: m KD weights.
    """
    weights = basis(anchors, at)
    mixed = np.einsum("mk,kvc->mvc", weights, logits.astype(np.float64), optimize=True)
    return scaled_nll(mixed, labels)


def gap(anchors: ArrayLike, at: ArrayLike) -> Floats:
    """`4 (α - a)(b - α)` between the anchors a and b around α: the shape of the error, `[m]`.

    The error of linear interpolation is half the second derivative times the same product. 0 at an
    anchor, at most 1, negative outside.
    """
    known, wanted = np.unique(np.asarray(anchors, np.float64)), np.asarray(at, np.float64)
    after = np.clip(np.searchsorted(known, wanted), 1, len(known) - 1)
    product: Floats = 4 * (wanted - known[after - 1]) * (known[after] - wanted)
    return product


@dataclass(frozen=True, eq=False)
class Reading:
    """What one group of runs (a context and a seed) says; small, to be kept while no run joins."""

    kd_weight: Floats
    """`[p]`, between the runs'; empty if nothing can be said."""
    nll: Floats
    """`[p]`, in nats."""
    gap: Floats
    """`[p]`, see `gap`."""
    level: float
    """Mean scaled negative log-likelihood of the runs: the unit of errors."""
    left_out_gap: Floats
    """`[r]`, of runs predicted from the others."""
    left_out_error: Floats
    """`[r]`, predicted less measured, in units of `level`."""


def read(
    logits: Logits, labels: NDArray[np.integer], kd_weight: ArrayLike, points: int = POINTS
) -> Reading:
    """Interpolate one group, and measure the error where three runs or more allow it.

    Only runs with a positive KD weight are anchors: from 0, where no teacher acts, to a little
    teaching the logits bend sharply.

    Args:
        logits: `[k, v, classes]`, of runs of one context and seed.
        labels: `[v]`.
        kd_weight: `[k]`; of runs at the same KD weight the first counts.
        points: number of KD weights to read off, evenly between the outermost runs.
    """
    weights, first = np.unique(np.asarray(kd_weight, np.float64), return_index=True)
    known, kept = weights[weights > 0], logits[first[weights > 0]]
    nothing = np.empty(0)
    if len(known) < 2:  # noqa: PLR2004  (a line needs two)
        return Reading(nothing, nothing, nothing, np.nan, nothing, nothing)
    own = scaled_nll(kept, labels)
    level = float(own.mean())
    at = np.linspace(known[0], known[-1], points + 2)[1:-1]
    at = at[np.abs(at[:, None] - known).min(axis=1) >= NEAREST]
    gaps, errors = [], []
    for i in range(1, len(known) - 1):
        others = np.arange(len(known)) != i
        predicted = interpolated_nll(kept[others], labels, known[others], known[[i]])
        gaps.append(gap(known[others], known[[i]])[0])
        errors.append((predicted[0] - own[i]) / level)
    return Reading(
        at,
        interpolated_nll(kept, labels, known, at),
        gap(known, at),
        level,
        np.array(gaps),
        np.array(errors),
    )


class InterpolationError(NamedTuple):
    """Error of an interpolated likelihood per `gap`, in units of the runs' mean likelihood."""

    bias: float
    """Mean: below 0 where mixed logits flatter, as those of an ensemble do."""
    spread: float
    """Standard deviation about it, the left-out runs' own noise included."""
    left_out: int
    """Runs left out and predicted; 0 if the figures are the defaults."""


MIN_LEFT_OUT = 4
"""Predicted runs that a measured error takes."""
DEFAULT_ERROR = InterpolationError(-0.1, 0.15, 0)
"""About what small networks on digits show (`benchmarks/signals.py`)."""


def measure_error(readings: Sequence[Reading]) -> InterpolationError:
    """Pool the left-out runs of all groups.

    The bias is the least-squares slope of the errors on the gaps. Its own variance counts as
    spread.
    """
    gaps = np.concatenate([np.empty(0), *(each.left_out_gap for each in readings)])
    errors = np.concatenate([np.empty(0), *(each.left_out_error for each in readings)])
    if len(gaps) < MIN_LEFT_OUT:
        return DEFAULT_ERROR
    squares = float((gaps**2).sum())
    bias = float((gaps * errors).sum()) / squares
    # Every error counts alike: near an anchor it is mostly the left-out run's own noise.
    variance = float(((errors - bias * gaps) ** 2).sum()) / squares
    variance *= len(gaps) / (len(gaps) - 1)
    return InterpolationError(bias, float(np.sqrt(variance * (1 + 1 / len(gaps)))), len(gaps))


class PseudoObservations(NamedTuple):
    """Readings as further observations of the surface, `[n]` each."""

    context: Ints
    seed: Ints
    kd_weight: Floats
    value: Floats
    """Negative scaled negative log-likelihood, higher is better, bias taken off."""
    extra_noise: Floats
    """Variance on top of a run's own, of `value`."""


def pseudo_observations(
    context: ArrayLike,
    seed: ArrayLike,
    readings: Sequence[Reading],
    error: InterpolationError | None = None,
) -> PseudoObservations:
    """Turn the readings of groups into observations.

    The errors of a group's readings are nearly one and the same. The surface takes them for
    independent, so each gets the variance times their number: together they weigh as one.

    Args:
        context: index of each group's context.
        seed: of each group.
        readings: as long.
        error: measured from `readings` if None.
    """
    error = measure_error(readings) if error is None else error
    counts = [len(each.kd_weight) for each in readings]
    gaps = np.concatenate([np.empty(0), *(each.gap for each in readings)])
    nll = np.concatenate([np.empty(0), *(each.nll for each in readings)])
    unit = np.repeat(np.array([each.level for each in readings], np.float64), counts)
    return PseudoObservations(
        np.repeat(np.asarray(context, np.int64), counts),
        np.repeat(np.asarray(seed, np.int64), counts),
        np.concatenate([np.empty(0), *(each.kd_weight for each in readings)]),
        error.bias * gaps * unit - nll,
        (error.spread * gaps * unit) ** 2 * np.repeat(np.array(counts, np.float64), counts),
    )
