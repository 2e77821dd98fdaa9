"""The formulas of schedules: kept fraction f → KD weight, one function per family.

Needs NumPy alone and nothing of this package: a copy travels with registered models.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def clipped_log_linear(fraction: Floats, *, intercept: float, slope: float) -> Floats:
    """clip(a + b ln f, 0, 1)."""
    return np.clip(intercept + slope * np.log(fraction), 0.0, 1.0)


def logistic(fraction: Floats, *, intercept: float, slope: float) -> Floats:
    """1 / (1 + exp(−(a + b ln f)))."""
    half: Floats = 0.5 + 0.5 * np.tanh(0.5 * (intercept + slope * np.log(fraction)))
    return half


def interpolated(
    fraction: Floats, *, fractions: Sequence[float], values: Sequence[float]
) -> Floats:
    """Straight lines in ln f between knots, and level beyond them.

    Args:
        fraction: where to evaluate, in any shape.
        fractions: of the knots, ascending.
        values: at the knots.
    """
    between: Floats = np.interp(np.log(fraction), np.log(fractions), values)
    return between


LAWS: dict[str, Callable[..., Floats]] = {
    "clipped-log-linear": clipped_log_linear,
    "logistic": logistic,
    "isotonic": interpolated,
    "surface": interpolated,
}
"""By family, the simplest first. Parameters are passed by name, as a schedule's file has them."""
SIMPLEST = next(iter(LAWS))


def band(knots: Mapping[str, Any] | None, fraction: Floats) -> tuple[Floats, Floats]:
    """Low and high of a band, in the shape of the fractions.

    Args:
        knots: `fractions`, ascending, with `low` and `high`. Below them anything is possible.
        fraction: where to evaluate. Without knots nothing is known (NaN).
    """
    if knots is None:
        unknown = np.full(np.shape(fraction), np.nan)
        return unknown, unknown
    below = outside(fraction, knots["fractions"][0], 1.0)
    low, high = (
        interpolated(fraction, fractions=knots["fractions"], values=knots[end])
        for end in ("low", "high")
    )
    return np.where(below, 0.0, low), np.where(below, 1.0, high)


def outside(fraction: Floats, low: float, high: float) -> NDArray[np.bool_]:
    """Which fractions lie beyond a range: 0.1 that went through text and back is still 0.1."""
    slack = 1e-9
    beyond: NDArray[np.bool_] = (fraction < low * (1 - slack)) | (fraction > high * (1 + slack))
    return beyond
