"""Which signal the response surface learns from: accuracy, or what agrees with it and is finer.

Accuracy is what is wanted and what is reported, but each validation sample adds a yes or no to
it. The likelihood of the same logits, miscalibration mended, and logits interpolated between runs
tell more per run, as long as they have their best KD weights where accuracy has its own. That is
measured in every search, on its own trials.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.interpolation import PseudoObservations
from analysis.settings import Observations

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ACCURACY, NLL, LOGITS = "accuracy", "nll", "logits"
MEANING = {
    ACCURACY: "the score itself",
    NLL: "the likelihood of the validation logits after one fitted temperature",
    LOGITS: "that likelihood, with logits interpolated between runs of a common seed",
}
PREFERRED = (NLL,)
"""Interpolated logits have to be asked for: where training was long enough for runs to part, they
lost more than a parabola through the runs themselves, since mixed logits flatter as an ensemble's
do (`benchmarks/signals.py`)."""
MOST_LOST = 0.001
"""A tenth of an accuracy point: what following another signal may cost."""
SIGNIFICANT = 1.645
"""Standard errors: that no more than `MOST_LOST` is lost must be as clear, one-sided at 95%. The
burden of proof lies on the finer signal: on convolutional networks the likelihood had an optimum of
its own (`benchmarks/signals.py`)."""
CLEARLY_POSITIVE = 2.0
"""Standard errors that the slope of accuracy on the signal must be above 0."""
LEAST_SLOPE = 0.25
"""Of the slope common to all contexts: no context's own is taken to be smaller."""
_CURVE = 3
"""Distinct KD weights that a parabola takes."""
_STEPS = 101
"""KD weights tried in the search for a parabola's top."""


class Observed(NamedTuple):
    """Values of one signal, `[n]` each; higher is better."""

    context: Ints
    seed: Ints
    kd_weight: Floats
    value: Floats

    def take(self, rows: NDArray[np.generic]) -> "Observed":
        """Those at a mask or at indices."""
        return Observed(*(column[rows] for column in self))


@dataclass(frozen=True)
class Agreement:
    """How far a signal's best KD weights are accuracy's, in the units of the score."""

    loss: float = np.nan
    """Score lost by following the signal's optimum instead of the score's own, mean over contexts;
    below 0 if the signal finds the better one; NaN where no context has two seeds to compare."""
    loss_se: float = np.nan
    contexts: int = 0
    """With such a comparison."""
    rank_correlation: float = np.nan
    """Spearman's, over the KD weights of a context, mean over contexts."""
    slope: float = np.nan
    """Score per unit of the signal, between runs of one context and seed."""
    slope_se: float = np.nan

    @property
    def good(self) -> bool:
        """Following it is shown to cost next to nothing, and its slope is clearly positive."""
        related = self.slope > CLEARLY_POSITIVE * self.slope_se
        cheap = self.loss + SIGNIFICANT * self.loss_se < MOST_LOST
        return bool(related and cheap)


@dataclass(frozen=True)
class Choice:
    """The signal that the surface learns from."""

    name: str
    agreements: dict[str, Agreement]
    """Of every signal there is but the score."""
    sentence: str
    """For the report."""


def choose_signal(
    score: Observed,
    nll: ArrayLike | None = None,
    pseudo: PseudoObservations | None = None,
    *,
    preferred: Sequence[str] = PREFERRED,
) -> Choice:
    """The first of the preferred signals that is there and agrees with the score, or the score.

    Args:
        score: of complete trials.
        nll: their scaled negative log-likelihood, `[n]`; None for problems without logits. Where
            one is NaN it is no signal: trials would weigh differently.
        pseudo: from interpolated logits.
        preferred: best first.
    """
    signals = {}
    if nll is not None and np.isfinite(nll).all():
        signals[NLL] = score._replace(value=-np.asarray(nll, np.float64))
    if pseudo is not None and NLL in signals and len(pseudo.value):
        joined = zip(signals[NLL], pseudo[:4], strict=True)
        signals[LOGITS] = Observed(*(np.concatenate(pair) for pair in joined))
    agreements = {
        name: agreement(score, signals[NLL], signals[name]) for name in preferred if name in signals
    }
    name = next((each for each, found in agreements.items() if found.good), ACCURACY)
    return Choice(name, agreements, _sentence(name, agreements))


def agreement(score: Observed, paired: Observed, signal: Observed) -> Agreement:
    """Measure one signal against the score.

    For every context and seed with three KD weights or more, both optima are taken from the other
    seeds, by parabolas, and compared on this seed's own parabola of the score. Thus neither
    optimum is helped by the noise of what judges it, and the difference is paired.

    Args:
        score: of complete trials.
        paired: the likelihood of the same trials.
        signal: what is to be judged: `paired`, maybe with pseudo-observations.
    """
    losses, ranks = [], []
    for context in np.unique(signal.context):
        of_score = score.take(score.context == context)
        of_signal = signal.take(signal.context == context)
        lost = list(_losses(of_score, of_signal))
        if lost:
            losses.append(float(np.mean(lost)))
        ranks.append(_rank_correlation(of_score, paired.take(paired.context == context)))
    slope, slope_se = conversion(paired, score.value)
    count = len(losses)
    spread = np.std(losses, ddof=1) / np.sqrt(count) if count > 1 else np.nan
    known = [rank for rank in ranks if np.isfinite(rank)]
    return Agreement(
        float(np.mean(losses)) if losses else np.nan,
        float(spread),
        count,
        float(np.mean(known)) if known else np.nan,
        slope,
        slope_se,
    )


def conversion(signal: Observed, score: Floats) -> tuple[float, float]:
    """Score per unit of a signal, with its standard error: turns regret in nats into points.

    The slope through all differences between runs of one context and seed, so that neither easy
    contexts nor lucky seeds count.

    Args:
        signal: of complete trials.
        score: of the same trials, `[n]`.
    """
    x, y, groups = _within(signal, score)
    squares, spare = float((x**2).sum()), len(x) - groups - 1
    if squares == 0 or spare < 1:
        return np.nan, np.nan
    slope = float((x * y).sum()) / squares
    residual = float(((y - slope * x) ** 2).sum()) / spare
    return slope, float(np.sqrt(residual / squares))


def conversion_by_context(signal: Observed, score: Floats) -> dict[int, float]:
    """The slope of each context, drawn to that of all as far as its own is uncertain.

    A nat is worth less where accuracy is near its ceiling. With slopes b_c of variance v_c that
    scatter by t² about the common one b, the answer is (t² b_c + v_c b) / (t² + v_c).

    Args:
        signal: as for `conversion`.
        score: likewise.

    Returns:
        Slopes by context; contexts without two runs of a seed have the common one.
    """
    common, _ = conversion(signal, score)
    contexts = [int(each) for each in np.unique(signal.context)]
    alone = {
        each: conversion(signal.take(rows), score[rows])
        for each in contexts
        for rows in [signal.context == each]
    }
    usable = {each: (b, se**2) for each, (b, se) in alone.items() if se > 0}
    scatter = 0.0
    if len(usable) > 1:
        slopes, variances = np.array(list(usable.values())).T
        scatter = max(0.0, float(((slopes - common) ** 2 - variances).mean()))
    drawn = {
        each: (scatter * b + v * common) / (scatter + v) if scatter + v > 0 else common
        for each, (b, v) in usable.items()
    }
    return {each: drawn.get(each, common) for each in contexts}


def scores_of(observations: Observations) -> Observed:
    """The scores of complete trials, as signals are compared with them."""
    at = observations.at
    return Observed(at.context, observations.seed, at.kd_weight, observations.value)


def heeding(observations: Observations, nll: Floats) -> Observations:
    """The same trials, each with the score that its likelihood stands for (see `as_score`)."""
    return replace(observations, value=as_score(scores_of(observations), nll))


def as_score(score: Observed, nll: Floats) -> Floats:
    """The score that the likelihood of each run stands for, `[n]`: finer than its own.

    A straight line in every context, through the mean of both, with the slope of
    `conversion_by_context`.

    Args:
        score: of complete trials.
        nll: their scaled negative log-likelihood, `[n]`, finite.
    """
    likelihood = score._replace(value=-nll)
    slopes = conversion_by_context(likelihood, score.value)
    least = LEAST_SLOPE * conversion(likelihood, score.value)[0]
    contexts, index, counts = np.unique(score.context, return_inverse=True, return_counts=True)
    slope = np.array([max(slopes[int(each)], least) for each in contexts])[index]
    level, middle = (
        (np.bincount(index, each) / counts)[index] for each in (score.value, likelihood.value)
    )
    stands_for: Floats = level + slope * (likelihood.value - middle)
    return stands_for


def _within(signal: Observed, score: Floats) -> tuple[Floats, Floats, int]:
    """Signal and score less their means by context and seed, and the number of these groups."""
    groups, index = np.unique(np.stack([signal.context, signal.seed]), axis=1, return_inverse=True)
    index = index.reshape(-1)  # numpy 2.0 gave it the shape of its argument
    counts = np.bincount(index)
    x, y = (each - (np.bincount(index, each) / counts)[index] for each in (signal.value, score))
    return x, y, groups.shape[1]


def _losses(score: Observed, signal: Observed) -> Iterator[float]:
    """Of one context: seed by seed, score at the score's optimum less that at the signal's."""
    for seed in np.unique(score.seed):
        judge = score.take(score.seed == seed)
        own = score.take(score.seed != seed)
        other = signal.take(signal.seed != seed)
        if any(len(np.unique(part.kd_weight)) < _CURVE for part in (judge, own, other)):
            continue
        # Nothing is judged beyond the KD weights that the judge has run.
        at = np.linspace(judge.kd_weight.min(), judge.kd_weight.max(), _STEPS)
        held_out = _parabola(judge, at)
        yield float(held_out[_parabola(own, at).argmax()] - held_out[_parabola(other, at).argmax()])


def _parabola(observed: Observed, at: Floats) -> Floats:
    """Fitted values at KD weights, with an intercept per seed (their mean is left out)."""
    _, index = np.unique(observed.seed, return_inverse=True)
    design = np.column_stack(
        [observed.kd_weight, observed.kd_weight**2, index[:, None] == np.arange(index.max() + 1)]
    )
    coefficients = np.linalg.lstsq(design, observed.value, rcond=None)[0]
    line: Floats = at * coefficients[0] + at**2 * coefficients[1]
    return line


def _rank_correlation(score: Observed, signal: Observed) -> float:
    """Spearman's, of the means over seeds at the KD weights that have both; NaN for under three."""
    weights = np.intersect1d(score.kd_weight, signal.kd_weight)
    if len(weights) < _CURVE:
        return np.nan
    ranks = np.array(
        [
            _ranks(np.array([part.value[part.kd_weight == each].mean() for each in weights]))
            for part in (score, signal)
        ]
    )
    if (np.ptp(ranks, axis=1) == 0).any():
        return np.nan
    return float(np.corrcoef(ranks)[0, 1])


def _ranks(values: Floats) -> Floats:
    """Ties share the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks


def _sentence(name: str, agreements: dict[str, Agreement]) -> str:
    if not agreements:
        return "KD weights are learned from the score: the trials left nothing finer."
    if name == ACCURACY:
        why = _figures(next(iter(agreements.values())))
        return (
            f"KD weights are learned from the score: a finer signal is not shown to agree ({why})."
        )
    return (
        f"KD weights are learned from {MEANING[name]}, which agrees with the score "
        f"({_figures(agreements[name])})."
    )


def _figures(found: Agreement) -> str:
    parts = []
    if np.isfinite(found.loss):
        error = f" ± {100 * found.loss_se:.2f}" if np.isfinite(found.loss_se) else ""
        contexts = "context" if found.contexts == 1 else "contexts"
        cost = f"{100 * found.loss:+.2f}{error} points in {found.contexts} {contexts}"
        parts.append(f"following it costs {cost}")
    if np.isfinite(found.rank_correlation):
        parts.append(f"rank correlation over KD weights {found.rank_correlation:.2f}")
    if np.isfinite(found.slope):
        parts.append(f"{100 * found.slope:.1f} points per nat")
    return ", ".join(parts).replace("-", "−") or "too few trials to compare"
