"""Bands of schedules: between what the best KD weight is expected to lie at any fraction.

A parametric bootstrap. The answers of the curve are drawn anew around the fitted law, each with the
error that its interval states and, in common, with the misfit of the law: what its residuals have
beyond those errors. The law is fitted to every draw, and misfit is added where it is asked.

The errors of answers are taken as independent. Two answers show no misfit, and an isotonic law,
which follows its answers, shows too little of it.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from analysis.document import Band
from analysis.families import MIN_WIDTH, Evidence, Parameters, isotonic
from analysis.laws import LAWS
from analysis.settings import Floats

DRAWS = 400
DRAW_SEED = 20_230_611
"""Fixed: the same answers give the same band."""
STEPS = 30
"""Of the damped Gauss-Newton iteration that fits a line to every draw."""
DIGITS = 4
"""Decimals of a band's knots in the document."""


def fit_band(family: str, parameters: Parameters, evidence: Evidence, level: float) -> Band:
    """The band of a fitted law.

    Args:
        family: a name of `BANDS`.
        parameters: of the law.
        evidence: what it was fitted to; the knots of the band are its grid.
        level: probability inside, in (0, 1), at each fraction by itself; the level of the
            answers' intervals too.
    """
    low, high = BANDS[family](family, parameters, evidence, level)
    center = LAWS[family](evidence.grid, **parameters)
    return Band(
        level=level,
        fractions=tuple(evidence.grid.tolist()),
        low=tuple(np.floor(np.minimum(low, center) * 10**DIGITS) / 10**DIGITS),
        high=tuple(np.minimum(np.ceil(np.maximum(high, center) * 10**DIGITS) / 10**DIGITS, 1.0)),
    )


def _of_line(
    family: str, parameters: Parameters, evidence: Evidence, level: float
) -> tuple[Floats, Floats]:
    drawn, misfit = _drawn(family, parameters, evidence, level)
    lines = _fit_all(family, parameters, evidence, drawn)
    law = LAWS[family](evidence.grid, intercept=lines[:, :1], slope=lines[:, 1:])
    return _quantiles(law, misfit, level)


def _of_isotonic(
    family: str, parameters: Parameters, evidence: Evidence, level: float
) -> tuple[Floats, Floats]:
    drawn, misfit = _drawn(family, parameters, evidence, level)
    refitted = [isotonic(evidence.redrawn(each)) for each in drawn]
    laws = np.array([LAWS[family](evidence.grid, **each) for each in refitted])
    low, high = _quantiles(laws, misfit, level)
    # All that is known beyond the ends is that the law is monotone.
    rising = parameters["values"][-1] > parameters["values"][0]
    below = evidence.grid < evidence.fraction[0]
    above = evidence.grid > evidence.fraction[-1]
    low[below if rising else above] = 0.0
    high[above if rising else below] = 1.0
    return low, high


def _of_surface(
    family: str, parameters: Parameters, evidence: Evidence, level: float
) -> tuple[Floats, Floats]:
    if evidence.predict is None:
        raise ValueError("a surface's band needs the surface")
    found = [evidence.predict(fraction) for fraction in evidence.grid.tolist()]
    return np.array([each.low for each in found]), np.array([each.high for each in found])


BANDS: dict[str, Callable[[str, Parameters, Evidence, float], tuple[Floats, Floats]]] = {
    "clipped-log-linear": _of_line,
    "logistic": _of_line,
    "isotonic": _of_isotonic,
    "surface": _of_surface,
}


def _drawn(
    family: str, parameters: Parameters, evidence: Evidence, level: float
) -> tuple[Floats, Floats]:
    """Answers drawn around the law, `[draws, n]`, and misfits to add elsewhere, `[draws, 1]`."""
    # An interval cut off at 0 or 1 says nothing on that side: take the longer one for both.
    reach = np.maximum(evidence.high - evidence.kd_weight, evidence.kd_weight - evidence.low)
    error = np.maximum(reach, MIN_WIDTH / 2) / ndtri((1 + level) / 2)
    fitted = LAWS[family](evidence.fraction, **parameters)
    residual = evidence.kd_weight - fitted
    spare = len(residual) - 2
    beyond = 0.0 if spare < 1 else float(residual @ residual) / spare - float(np.mean(error**2))
    misfit = np.sqrt(max(beyond, 0.0))
    rng = np.random.default_rng(DRAW_SEED)
    normal = rng.standard_normal((DRAWS, len(fitted)))
    drawn = np.clip(fitted + np.hypot(error, misfit) * normal, 0.0, 1.0)
    return drawn, misfit * rng.standard_normal((DRAWS, 1))


def _quantiles(laws: Floats, misfit: Floats, level: float) -> tuple[Floats, Floats]:
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.clip(laws + misfit, 0.0, 1.0), tails, axis=0)
    return low, high


def _fit_all(family: str, parameters: Parameters, evidence: Evidence, drawn: Floats) -> Floats:
    """Intercept and slope of the law fitted to every draw, `[draws, 2]`: all at once.

    Damped Gauss-Newton from the law fitted to the answers themselves; a step that does not make
    the fit better is not taken.
    """
    law, width, log = LAWS[family], evidence.width, np.log(evidence.fraction)
    start = np.array([parameters["intercept"], parameters["slope"]])
    lines = np.tile(start, (len(drawn), 1))
    damping = np.full(len(drawn), 1e-3)

    def misfits(at: Floats) -> Floats:
        fitted = law(evidence.fraction, intercept=at[:, :1], slope=at[:, 1:])
        residual: Floats = (drawn - fitted) / width
        return residual

    residual = misfits(lines)
    for _ in range(STEPS):
        h = 1e-4
        rise = [law(evidence.fraction, intercept=lines[:, :1] + d, slope=lines[:, 1:])
                for d in (h, -h)]  # fmt: skip
        tilt = (rise[0] - rise[1]) / (2 * h) / width
        jacobian = np.stack([tilt, tilt * log], axis=2)
        normal = np.einsum("dni,dnj->dij", jacobian, jacobian)
        scale = damping * (np.trace(normal, axis1=1, axis2=2) + 1e-3)
        normal += scale[:, None, None] * np.eye(2)
        step = np.linalg.solve(normal, np.einsum("dni,dn->di", jacobian, residual)[..., None])
        tried = lines + step[..., 0]
        after = misfits(tried)
        better = (after**2).sum(axis=1) < (residual**2).sum(axis=1)
        lines[better], residual[better] = tried[better], after[better]
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-6, 1e6)
    return lines
