"""The best setting of a context, from the posterior of its response: point, intervals, loss.

Draws of the response on a grid of KD weights, for each combination of the other tuned values, give
the distribution of the best KD weight and of what it gains. The point is the maximum of the
posterior mean, never the best trial seen.

Intervals are for the mean over seeds, given the one teacher and set of pruning scores that all
trials share.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.estimators import TOLERANCE, Estimate
from analysis.settings import Floats, Ints, Settings
from analysis.surface import Surface

KD_WEIGHTS = 41
"""Points of the grid over the KD weight."""
DRAWS = 2000
DRAW_SEED = 20_230_611
"""Fixed: the same trials give the same interval."""
FREEDOM = 5
KD_WEIGHT_SCALE = 1.1
SCORE_SCALE = 1.8
"""Intervals are those of a multivariate t with so many degrees of freedom, of the posterior's scale
times these: for the best KD weight and what missing it costs, and for scores and gains. A
context's noise and seed effects are estimated from few seeds; a gain contains a seed's effects in
full, the place of the maximum hardly. Chosen with `benchmarks/coverage.py`."""
MOST_OPTIONS = 12
"""Combinations of the other tuned values whose curves are drawn jointly at most."""
CAUTION = 2.0
"""Standard deviations by which a combination may be underrated and still be drawn."""


@dataclass(frozen=True)
class Optimum:
    """What is best in a context, in units of the score."""

    at: Settings
    """The recommended settings, one place."""
    option: int
    """Position among the options."""
    kd_weight: Estimate
    flat: tuple[float, float]
    """The KD weights around it whose mean is within `TOLERANCE` of its."""
    loss: Floats
    """Draws of how much better the best setting is than the recommended one, `[draws]`, >= 0."""


@dataclass(frozen=True)
class Worth:
    """What a setting is worth, in units of the score."""

    score: Estimate
    score_without_kd: float
    """At KD weight 0, everything else as recommended."""
    gain: Estimate
    """Over KD weight 0."""
    gain_over_1: Estimate
    """Over KD weight 1."""


def find_worth(surface: Surface, at: Settings, level: float = 0.9) -> Worth:
    """What the response is at one place, and what that gains over plain training and over 1.

    Args:
        surface: fitted to all contexts.
        at: one place.
        level: probability inside an interval, in (0, 1).
    """
    compared = at.take([0, 0, 0]).replace(kd_weight=[at.kd_weight[0], 0.0, 1.0])
    center, covariance = surface.posterior(compared)
    deviations, wider = _deviations(covariance)
    draws = center + SCORE_SCALE * deviations * wider[:, None]
    tails = [(1 - level) / 2, (1 + level) / 2]

    def over(reference: int | None = None) -> Estimate:
        value, drawn = float(center[0]), draws[:, 0]
        if reference is not None:
            value, drawn = value - float(center[reference]), drawn - draws[:, reference]
        low, high = np.quantile(drawn, tails)
        return Estimate(value, float(low), float(high))

    return Worth(over(), float(center[1]), gain=over(1), gain_over_1=over(2))


def find_optimum(
    surface: Surface,
    options: Settings,
    kd_weight_range: tuple[float, float] = (0.0, 1.0),
    level: float = 0.9,
) -> Optimum:
    """The best setting of one context.

    Args:
        surface: fitted to all contexts.
        options: the combinations of tuned values to choose from, all of the context; their KD
            weights are not used.
        kd_weight_range: lowest and highest KD weight to recommend.
        level: probability inside an interval, in (0, 1).
    """
    low, high = kd_weight_range
    weights = np.unique(np.concatenate([np.linspace(low, high, KD_WEIGHTS), [0.0, 1.0]]))
    allowed = (weights >= low) & (weights <= high)
    lines = surface.mean(_grid(options, weights)).reshape(len(options), -1)
    means = np.where(allowed, lines, -np.inf)
    chosen = int(means.max(axis=1).argmax())
    kept = _contenders(surface, options, weights[means.argmax(axis=1)], chosen)
    at = options.take([chosen])
    line = lines[chosen]
    peak = means[[chosen]].argmax(axis=1)
    best = float(np.clip(_vertices(weights, line[None], peak)[0], low, high))
    at = at.replace(kd_weight=[best])

    # Drawn jointly: the recommended place, then the curves of all that may be better, its first.
    center, covariance = surface.posterior(
        Settings.concatenate([at, _grid(options.take(kept), weights)])
    )
    deviations, wider = _deviations(covariance)
    draws = center + KD_WEIGHT_SCALE * deviations * wider[:, None]
    loss = _loss(draws, np.tile(allowed, len(kept)))
    curves = draws[:, 1:].reshape(DRAWS, -1, len(weights))
    masked = np.where(allowed, curves, -np.inf).reshape(DRAWS, -1)
    winner = masked.argmax(axis=1)
    rows = np.arange(DRAWS)
    winners = curves[rows, winner // len(weights)]
    tops = np.clip(_vertices(weights, winners, winner % len(weights)), low, high)
    earliest, latest = np.quantile(tops, [(1 - level) / 2, (1 + level) / 2])
    return Optimum(
        at=at,
        option=chosen,
        # The distribution of the best can be lopsided: keep the point inside.
        kd_weight=Estimate(best, min(best, float(earliest)), max(best, float(latest))),
        flat=_flat(weights[allowed], line[allowed], best, float(center[0])),
        loss=loss,
    )


def _grid(options: Settings, weights: Floats) -> Settings:
    """Every option at every KD weight, option by option."""
    rows = np.repeat(np.arange(len(options)), len(weights))
    return options.take(rows).replace(kd_weight=np.tile(weights, len(options)))


def _contenders(surface: Surface, options: Settings, tops: Floats, chosen: int) -> Ints:
    """The options most likely to hold the best setting, the chosen one first.

    Args:
        surface: of all contexts.
        options: to choose from, `[n]`.
        tops: the best KD weight of each, `[n]`.
        chosen: the option of the highest mean.
    """
    if len(options) == 1:
        return np.array([chosen])
    mean, covariance = surface.posterior(options.replace(kd_weight=tops))
    variance = covariance.diagonal()
    difference = variance + variance[chosen] - 2 * covariance[chosen]
    hope = mean + CAUTION * np.sqrt(np.maximum(difference, 0.0))
    hope[chosen] = np.inf
    kept: Ints = np.argsort(-hope, kind="stable")[:MOST_OPTIONS]
    return kept


def _loss(draws: Floats, allowed: NDArray[np.bool_]) -> Floats:
    """How far the first place is below the best allowed one of the rest, draw by draw."""
    best = np.where(allowed, draws[:, 1:], -np.inf).max(axis=1)
    lost: Floats = np.maximum(best - draws[:, 0], 0.0)
    return lost


def _deviations(covariance: Floats) -> tuple[Floats, Floats]:
    """Normal draws around 0, `[DRAWS, m]`, and the factors that make them t-distributed.

    Draws come in pairs of opposite sign, so that their mean is exact.

    The covariance of a smooth curve has a low rank: a pivoted factor finds it.
    """
    from scipy.linalg.lapack import dpstrf  # noqa: PLC0415  (with the surface, not before)

    tiny = 1e-13 * max(float(covariance.diagonal().max()), 1e-300)
    factor, pivot, rank, _ = dpstrf(covariance, lower=1, tol=tiny)
    lower = np.tril(factor)[:, :rank]
    rng = np.random.default_rng(DRAW_SEED)
    wider = np.sqrt(FREEDOM / rng.chisquare(FREEDOM, DRAWS // 2))
    normal = rng.standard_normal((DRAWS // 2, rank))
    half = np.empty((DRAWS // 2, len(covariance)))
    half[:, pivot - 1] = normal @ lower.T
    return np.concatenate([half, -half]), np.tile(wider, 2)


def _vertices(weights: Floats, curves: Floats, peaks: Ints) -> Floats:
    """Where the parabola through a curve's highest point and its neighbours is highest.

    Args:
        weights: ascending, `[w]`.
        curves: `[n, w]`.
        peaks: position of each curve's highest point, `[n]`; at an end it stands as it is.
    """
    middle = np.clip(peaks, 1, len(weights) - 2)
    rows = np.arange(len(curves))
    x0, x1, x2 = (weights[middle + k] for k in (-1, 0, 1))
    y0, y1, y2 = (curves[rows, middle + k] for k in (-1, 0, 1))
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    bend = (right - left) / (x2 - x0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        vertex = 0.5 * (x0 + x1) - 0.5 * left / bend
    usable = (peaks == middle) & (bend < 0)
    return np.where(usable, np.clip(vertex, x0, x2), weights[peaks])


def _flat(weights: Floats, line: Floats, best: float, height: float) -> tuple[float, float]:
    """The KD weights around the best whose mean is within `TOLERANCE` of its height."""
    lack = height - TOLERANCE - line
    ends = []
    for side in (weights < best, weights > best):
        x, y = weights[side], lack[side]
        if side[0]:
            x, y = x[::-1], y[::-1]
        x, y = np.append(best, x), np.append(-TOLERANCE, y)
        beyond = np.flatnonzero(y > 0)
        if len(beyond):
            k = int(beyond[0])
            ends.append(float(x[k - 1] - y[k - 1] * (x[k] - x[k - 1]) / (y[k] - y[k - 1])))
        else:
            ends.append(float(x[-1]))
    return ends[0], ends[1]
