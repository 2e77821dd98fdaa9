"""Fits of each family of schedules: the answers at some fractions → a law's parameters."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression, least_squares

from analysis.estimators import Estimate
from analysis.laws import LAWS
from analysis.settings import Floats

MIN_WIDTH = 0.02
"""Narrowest interval that a weight is computed from: an exact point must not rule alone."""
STEEPEST = 10.0
"""Largest intercept and slope of a logistic: answers at 0 and 1 would drive them to infinity."""
INSIDE = 0.02
"""Answers are drawn so far inside (0, 1) to find where a logistic fit starts."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a law for one method and teacher is fitted to.

    Args:
        fraction: ascending, `[n]`, two or more.
        kd_weight: the answers there, `[n]`.
        low: of their intervals, `[n]`.
        high: likewise.
        grid: ascending fractions at which a law of knots may have some.
        predict: the surface's best KD weight at a fraction; None where there is no surface.
    """

    fraction: Floats
    kd_weight: Floats
    low: Floats
    high: Floats
    grid: Floats
    predict: Callable[[float], Estimate] | None = None

    @property
    def width(self) -> Floats:
        """Of the intervals, `[n]`, what answers are weighted by."""
        return np.maximum(self.high - self.low, MIN_WIDTH)

    def redrawn(self, kd_weight: Floats) -> "Evidence":
        """With other answers, as certain as these."""
        shift = kd_weight - self.kd_weight
        return replace(self, kd_weight=kd_weight, low=self.low + shift, high=self.high + shift)


Parameters = dict[str, Any]


def clipped_log_linear(evidence: Evidence) -> Parameters:
    """Least squares with the clip inside the fit.

    Answers at 0 or 1 bend the line only until it reaches them.
    """
    fraction, weight, width = evidence.fraction, evidence.kd_weight, evidence.width
    # The clip makes flat stretches where a search would stay: start from the line through all
    # answers and from that through those inside, and keep the better end.
    inside = (weight > 0.0) & (weight < 1.0)
    starts = [_line(fraction, weight, width)]
    if 2 <= inside.sum() < len(weight):  # noqa: PLR2004  (points of a line)
        starts.append(_line(fraction[inside], weight[inside], width[inside]))
    return _least_squares("clipped-log-linear", evidence, starts)


def logistic(evidence: Evidence) -> Parameters:
    """Least squares, from the line through the answers' logits."""
    clear = np.clip(evidence.kd_weight, INSIDE, 1 - INSIDE)
    logits = np.log(clear / (1 - clear))
    return _least_squares(
        "logistic", evidence, [_line(evidence.fraction, logits, evidence.width)], STEEPEST
    )


def isotonic(evidence: Evidence) -> Parameters:
    """Monotone in the fraction, rising or falling as fits the answers better."""
    weights = evidence.width**-2

    def fitted(increasing: bool) -> tuple[float, Floats]:
        values: Floats = isotonic_regression(
            evidence.kd_weight, weights=weights, increasing=increasing
        ).x
        return float(weights @ (values - evidence.kd_weight) ** 2), values

    _, values = min((fitted(increasing=False), fitted(increasing=True)), key=lambda fit: fit[0])
    return {
        "fractions": evidence.fraction.tolist(),
        "values": np.clip(values, 0.0, 1.0).tolist(),
    }


def surface(evidence: Evidence) -> Parameters:
    """The maximum of the response surface at every fraction of the grid."""
    if evidence.predict is None:
        raise ValueError("a surface's law needs the surface")
    values = [evidence.predict(fraction).value for fraction in evidence.grid.tolist()]
    return {"fractions": evidence.grid.tolist(), "values": values}


FAMILIES: dict[str, Callable[[Evidence], Parameters]] = {
    "clipped-log-linear": clipped_log_linear,
    "logistic": logistic,
    "isotonic": isotonic,
    "surface": surface,
}
"""By name, as in `LAWS`, the simplest first."""


def _line(fraction: Floats, value: Floats, width: Floats) -> Floats:
    """Intercept and slope of the straight line in ln f."""
    basis = np.column_stack([np.ones_like(fraction), np.log(fraction)])
    solved = np.linalg.lstsq(basis / width[:, None], value / width, rcond=None)[0]
    return np.asarray(solved, dtype=np.float64)


def _least_squares(
    family: str, evidence: Evidence, starts: list[Floats], bound: float = np.inf
) -> Parameters:
    law = LAWS[family]

    def misfit(line: Floats) -> Floats:
        fitted = law(evidence.fraction, intercept=line[0], slope=line[1])
        residual: Floats = (fitted - evidence.kd_weight) / evidence.width
        return residual

    ends = [
        least_squares(misfit, np.clip(start, -bound, bound), bounds=(-bound, bound))
        for start in starts
    ]
    best = min(ends, key=lambda end: float(end.cost)).x
    return {"intercept": float(best[0]), "slope": float(best[1])}
