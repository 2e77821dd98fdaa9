"""Estimators of the best setting: complete trials in, an answer per context out.

Three estimators of the same quantities. `surface` fits one response surface to all contexts
(module `joint`). The other two take one context at a time: `quadratic` fits a parabola over the
KD weight and recommends the maximum of the fitted mean; `grid` compares the means of the settings
that were run. None recommends the best trial seen: the maximum of noisy values is biased upwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DRAWS = 4000
"""Posterior draws behind an interval."""
DRAW_SEED = 20_230_611
"""Fixed: the same trials give the same interval."""
SAME = "all complete trials scored the same: no KD weight is better than another"
MIN_KD_WEIGHTS = 3
"""Distinct KD weights that a parabola needs."""
SPARE_TRIALS = 2
"""Complete trials beyond the number of coefficients, so that there is noise to measure."""
TEMPERATURES = 21
"""Temperatures tried, evenly in the logarithm, between the smallest and largest one run."""
TOLERANCE = 0.001
"""A score lower by less than this counts as equally good: 0.1 points of accuracy."""
MAX_LEVERAGE = 1.0
"""No trial's own leverage is larger: a setting above it lies beyond all that was run."""
NEEDS_TEACHER = ("temperature", "teacher", "teacher_fraction")
"""Parameters without effect at KD weight 0."""


class Estimate(NamedTuple):
    """A number with its interval."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan


UNKNOWN = Estimate()


@dataclass(frozen=True)
class Trials:
    """The complete trials of one context.

    Args:
        kd_weight: `[n]`, in [0, 1].
        score: `[n]`, finite, higher is better.
        seed: `[n]`.
        others: the other tuned parameters by name, `[n]` each.
        kd_weight_range: lowest and highest KD weight to recommend; 0 was run even if outside.
        fixed: what is the same for all trials of the context, by name.
        nll: negative log-likelihood of the validation logits after one fitted temperature, `[n]`,
            in nats, NaN where there is none; None for problems without logits.
    """

    kd_weight: Floats
    score: Floats
    seed: NDArray[np.int64]
    others: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    kd_weight_range: tuple[float, float] = (0.0, 1.0)
    fixed: dict[str, object] = field(default_factory=dict)
    nll: Floats | None = None


@dataclass(frozen=True)
class Answer:
    """What the trials say about a context, or the `reason` why they say nothing."""

    reason: str | None = None
    kd_weight: Estimate = UNKNOWN
    score: Estimate = UNKNOWN
    score_without_kd: float = np.nan
    gain: Estimate = UNKNOWN
    """Over KD weight 0."""
    gain_over_1: Estimate = UNKNOWN
    """Over KD weight 1."""
    flat: tuple[float, float] = (np.nan, np.nan)
    """The KD weights around the best that are less than `TOLERANCE` worse."""
    loss: Floats | None = None
    """Draws from the posterior of how much better the best setting is than the recommended one,
    `[draws]`, at least 0 (None for `grid`)."""
    others: dict[str, object] = field(default_factory=dict)
    """The other tuned parameters' recommended values; those without effect are left out."""
    line: Callable[[Floats], tuple[Floats, Floats, Floats]] | None = None
    """KD weights `[k]` → fitted mean, low, high `[k]` (None for `grid`)."""
    signal: str | None = None
    """What `surface` learned the KD weight from, in words (see `signal`)."""

    @property
    def expected_loss(self) -> float:
        """How much better the best setting is expected to be than the recommended one."""
        return np.nan if self.loss is None else float(self.loss.mean())


Estimator = Callable[[Sequence[Trials], float], list[Answer]]
"""The trials of every context and the level of the intervals → an answer each."""


def lacking(trials: Trials) -> str | None:
    """Why a curve over the KD weight cannot be fitted, if it cannot."""
    weights = len(np.unique(trials.kd_weight))
    if weights == 0:
        return "no complete trial"
    if weights < MIN_KD_WEIGHTS:
        return f"needs {MIN_KD_WEIGHTS} KD weights with complete trials, has {weights}"
    return SAME if is_constant(trials) else None


def is_constant(trials: Trials) -> bool:
    """Whether all scored the same: whatever is recommended, nothing is lost."""
    tiny = 1e-12 * max(1.0, float(np.abs(trials.score).max(initial=0.0)))
    return bool(np.ptp(trials.score) <= tiny)


def quadratic(trials: Trials, level: float) -> Answer:
    """Fit a parabola over the KD weight α and take the maximum of the fitted mean.

        mean(α, s) = b0 + b1 α + b2 α² + b3·method + α (b4 log τ + b5 log² τ + b6·teacher) + seed

    The terms after b2 are there only where those parameters were tuned; the temperature and
    the teacher act through α because at α = 0 they have no effect. A seed with two or more
    trials gets an intercept of its own, so that KD weights are compared within seeds; seeds run
    once share one. Where too few trials are left for that, the seeds' differences count as noise.

    The maximum is over the KD weights that may be recommended and over the settings that the
    trials determine: those whose fitted mean has a leverage x'(X'X)⁻¹x of at most 1 at their own
    best KD weight. A combination never run near enough would win by its error alone.

    Intervals are equal-tailed, from draws of the coefficients' posterior under a flat prior (a
    multivariate t). They hold if the mean is quadratic in α, for the seeds that were run and
    for the one teacher and set of pruning scores that all trials share.

    Args:
        trials: at least three distinct KD weights and two trials more than coefficients.
        level: probability inside an interval, in (0, 1).
    """
    if (reason := lacking(trials)) is not None:
        return Answer(reason)
    shift, slope, settings = _features(trials)
    mean_terms = _terms(trials.kd_weight, shift.rows, slope.rows)
    seeds = _seed_terms(trials.seed)
    n, p = mean_terms.shape
    design = np.hstack([mean_terms, seeds])
    if not _determined(design):
        design = mean_terms  # too few trials to tell the seeds apart
    if not _determined(design):
        needed = p + SPARE_TRIALS
        if n < needed:
            return Answer(f"needs {needed} complete trials, has {n}")
        return Answer(f"the {n} complete trials cannot tell the {p} coefficients apart")
    center, draws = _posterior(design, trials.score)
    center, draws = center[:p], draws[:, :p]

    bounds = trials.kd_weight_range
    tops, heights = _maxima(center[None], shift.options, slope.options, bounds)
    leverage = _leverage(design, _terms(tops[0], shift.options, slope.options))
    kept = np.flatnonzero(leverage <= MAX_LEVERAGE + 1e-9)
    if not len(kept):
        return Answer("the complete trials do not determine any setting well enough")
    chosen = int(kept[heights[0, kept].argmax()])
    best = float(tops[0, chosen])
    tops, heights = _maxima(draws, shift.options[kept], slope.options[kept], bounds)
    sampled = tops[np.arange(len(draws)), heights.argmax(axis=1)]
    highest = heights.max(axis=1)
    tails = [(1 - level) / 2, (1 + level) / 2]

    def at(kd_weight: Floats) -> Floats:
        rows = np.full(len(kd_weight), chosen)
        return _terms(kd_weight, shift.options[rows], slope.options[rows])

    def estimate(terms: Floats) -> Estimate:
        low, high = np.quantile(draws @ terms, tails)
        return Estimate(float(center @ terms), float(low), float(high))

    def line(kd_weight: Floats) -> tuple[Floats, Floats, Floats]:
        low, high = np.quantile(draws @ at(kd_weight).T, tails, axis=0)
        return at(kd_weight) @ center, low, high

    there, without, alone = at(np.array([best, 0.0, 1.0]))
    low, high = np.quantile(sampled, tails)
    return Answer(
        # A flat or upward parabola's maximum jumps between the ends: keep the point inside.
        kd_weight=Estimate(best, min(best, float(low)), max(best, float(high))),
        score=estimate(there),
        score_without_kd=float(center @ without),
        gain=estimate(there - without),
        gain_over_1=estimate(there - alone),
        flat=_flat(at(weights := np.linspace(*bounds, 1001)) @ center, weights),
        loss=np.maximum(highest - draws @ there, 0.0),  # rounding may leave -1e-17
        others=with_effect(settings[chosen], best),
        line=line,
    )


def grid(trials: Trials, level: float) -> Answer:
    """Compare the means of the settings that were run, each with two or more complete trials.

    Only settings inside `Trials.kd_weight_range` are recommended.

    The interval of the KD weight spans the settings whose mean is not clearly below the best
    one's (a t-test at `level` with the pooled variance within settings); the gain is a paired
    t-interval over the seeds run at both. Its score is the largest of several noisy means and
    so biased upwards a little: `quadratic` is not.

    Args:
        trials: settings repeated over seeds.
        level: probability inside an interval, in (0, 1).
    """
    from scipy.special import stdtrit  # noqa: PLC0415  (a third of a second, only for this one)

    names = list(trials.others)
    keys = list(zip(trials.kd_weight, *trials.others.values(), strict=True))
    cells = {
        key: [i for i, other in enumerate(keys) if other == key] for key in dict.fromkeys(keys)
    }
    cells = {key: rows for key, rows in cells.items() if len(rows) > 1}
    if not cells:
        return Answer("no KD weight has two complete trials")
    means = {key: float(trials.score[rows].mean()) for key, rows in cells.items()}
    lowest, highest = trials.kd_weight_range
    inside = [key for key in cells if lowest - 1e-9 <= key[0] <= highest + 1e-9]
    if not inside:
        return Answer(f"no KD weight in [{lowest:g}, {highest:g}] has two complete trials")
    top = max(inside, key=lambda key: means[key])
    spare = sum(len(rows) - 1 for rows in cells.values())
    squares = sum(float(((trials.score[rows] - means[k]) ** 2).sum()) for k, rows in cells.items())
    quantile = float(stdtrit(spare, (1 + level) / 2))
    noise = quantile * np.sqrt(squares / spare)
    near = [
        key[0]
        for key in inside
        if means[top] - means[key] <= noise * np.sqrt(1 / len(cells[key]) + 1 / len(cells[top]))
    ]
    half = noise / np.sqrt(len(cells[top]))
    without = trials.score[trials.kd_weight == 0.0]
    return Answer(
        kd_weight=Estimate(float(top[0]), float(min(near)), float(max(near))),
        score=Estimate(means[top], means[top] - half, means[top] + half),
        score_without_kd=float(without.mean()) if len(without) else np.nan,
        gain=_paired(trials, cells[top], level, 0.0),
        gain_over_1=_paired(trials, cells[top], level, 1.0),
        others=with_effect(dict(zip(names, top[1:], strict=True)), float(top[0])),
    )


def _surface(contexts: Sequence[Trials], level: float) -> list[Answer]:
    from analysis.joint import surface  # noqa: PLC0415  (scipy, only where it is asked for)

    return surface(contexts, level)


def _each(estimate: Callable[[Trials, float], Answer]) -> Estimator:
    """An estimator of one context for all."""
    return lambda contexts, level: [
        estimate(trials, level) if len(trials.score) else Answer("no complete trial")
        for trials in contexts
    ]


ESTIMATORS: dict[str, Estimator] = {
    "surface": _surface,
    "quadratic": _each(quadratic),
    "grid": _each(grid),
}
DEFAULT = "surface"
LEVEL = 0.9
"""Probability inside an interval, unless another is asked for."""


class _Part(NamedTuple):
    """Features of the trials `[n, q]` and of the settings to choose from `[settings, q]`."""

    rows: Floats
    options: Floats


def _features(trials: Trials) -> tuple[_Part, _Part, list[dict[str, object]]]:
    """Features that shift the mean, those that act through α, and the settings' values."""
    columns: dict[str, tuple[Floats, Floats]] = {}
    values: dict[str, list[object]] = {}
    for name, column in trials.others.items():
        levels = np.unique(column)
        if name == "temperature":
            log = np.log(column.astype(np.float64))
            tried = np.linspace(log.min(), log.max(), TEMPERATURES if len(levels) > 1 else 1)
            powers = np.arange(1, min(len(levels), MIN_KD_WEIGHTS))
            width = float(np.ptp(log)) or 1.0
            center = float(log.mean())
            columns[name] = (
                ((log - center) / width)[:, None] ** powers,
                ((tried - center) / width)[:, None] ** powers,
            )
            values[name] = np.exp(tried).tolist()
        else:
            columns[name] = (
                (column[:, None] == levels[1:]).astype(np.float64),
                (levels[:, None] == levels[1:]).astype(np.float64),
            )
            values[name] = levels.tolist()
    choices = list(product(*(range(len(options)) for options in values.values())))
    settings = [
        {name: values[name][i] for name, i in zip(values, choice, strict=True)}
        for choice in choices
    ]

    def part(names: list[str]) -> _Part:
        index = {name: [choice[list(values).index(name)] for choice in choices] for name in names}
        empty = (np.empty((len(trials.score), 0)), np.empty((len(choices), 0)))
        return _Part(
            np.hstack([empty[0], *(columns[name][0] for name in names)]),
            np.hstack([empty[1], *(columns[name][1][index[name]] for name in names)]),
        )

    through_alpha = [name for name in values if name in NEEDS_TEACHER]
    return part([n for n in values if n not in through_alpha]), part(through_alpha), settings


def _terms(kd_weight: Floats, shift: Floats, slope: Floats) -> Floats:
    """Rows of the design: `[1, α, α², shift, α · slope]`."""
    alpha = kd_weight[:, None]
    return np.hstack([np.ones_like(alpha), alpha, alpha**2, shift, alpha * slope])


def _maxima(
    draws: Floats, shift: Floats, slope: Floats, bounds: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Best KD weight and its mean, both `[draws, settings]`, under each draw of the coefficients.

    For a fixed setting the mean is a parabola in α, so its maximum inside the bounds is exact.
    """
    at = 3 + shift.shape[1]
    level = draws[:, :1] + draws[:, 3:at] @ shift.T
    b1 = draws[:, 1:2] + draws[:, at:] @ slope.T
    b2 = draws[:, 2:3]
    with np.errstate(over="ignore"):  # a nearly straight line has its vertex far outside
        vertex = np.clip(-b1 / (2 * np.where(b2 < 0, b2, -1.0)), *bounds)
    low, high = bounds
    alpha = np.where(b2 < 0, vertex, np.where(b1 + b2 * (low + high) > 0, high, low))
    return alpha, level + b1 * alpha + b2 * alpha**2


def _leverage(design: Floats, terms: Floats) -> Floats:
    """x'(X'X)⁻¹x of rows `[k, p]` without seed terms, that is for the average seed: `[k]`.

    It is the variance of a fitted mean in units of one trial's.
    """
    rows = np.pad(terms, ((0, 0), (0, design.shape[1] - terms.shape[1])))
    _, r = np.linalg.qr(design)
    leverage: Floats = (np.linalg.solve(r.T, rows.T) ** 2).sum(axis=0)
    return leverage


def _seed_terms(seed: NDArray[np.int64]) -> Floats:
    """Columns for the seeds' intercepts, centred: the mean is that of the average seed."""
    seeds, index, counts = np.unique(seed, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero(counts > 1)
    if len(repeated) == len(seeds):
        repeated = repeated[1:]
    columns: Floats = (index[:, None] == repeated).astype(np.float64) - 1.0 / len(seeds)
    return columns


def _determined(design: Floats) -> bool:
    n, p = design.shape
    return bool(n >= p + SPARE_TRIALS and np.linalg.matrix_rank(design) == p)


def _posterior(design: Floats, score: Floats) -> tuple[Floats, Floats]:
    """Least squares: coefficients `[p]` and draws of their posterior `[DRAWS, p]`."""
    n, p = design.shape
    q, r = np.linalg.qr(design)
    signs = np.copysign(1.0, np.diag(r))  # one factorisation, whatever the order of the trials
    q, r = q * signs, r * signs[:, None]
    center = np.linalg.solve(r, q.T @ score)
    squares = float(((score - design @ center) ** 2).sum())
    rng = np.random.default_rng(DRAW_SEED)
    sigma = np.sqrt(squares / rng.chisquare(n - p, DRAWS))
    steps = np.linalg.solve(r, rng.standard_normal((p, DRAWS))) * sigma
    return center, center + steps.T


def _paired(trials: Trials, rows: list[int], level: float, reference: float) -> Estimate:
    """Mean difference to a KD weight over the seeds run at both, with a t-interval."""
    from scipy.special import stdtrit  # noqa: PLC0415

    if trials.kd_weight[rows[0]] == reference:
        return Estimate(0.0, 0.0, 0.0)
    there = trials.kd_weight == reference
    compared = {
        int(seed): float(trials.score[(trials.seed == seed) & there].mean())
        for seed in np.unique(trials.seed[there])
    }
    gains = np.array(
        [trials.score[i] - compared[s] for i in rows if (s := int(trials.seed[i])) in compared]
    )
    if len(gains) < 2:  # noqa: PLR2004  (a spread needs two)
        return UNKNOWN
    half = float(stdtrit(len(gains) - 1, (1 + level) / 2)) * gains.std(ddof=1) / np.sqrt(len(gains))
    return Estimate(float(gains.mean()), float(gains.mean() - half), float(gains.mean() + half))


def _flat(line: Floats, weights: Floats) -> tuple[float, float]:
    """The ends of the KD weights whose fitted mean is close to the highest."""
    near = weights[line >= line.max() - TOLERANCE]
    return float(near[0]), float(near[-1])


def with_effect(setting: dict[str, object], kd_weight: float) -> dict[str, object]:
    """A setting without what has no effect at this KD weight."""
    if kd_weight > 0.0:
        return setting
    return {name: value for name, value in setting.items() if name not in NEEDS_TEACHER}
