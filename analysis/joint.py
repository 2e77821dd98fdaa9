"""The estimator `surface`: one response surface fitted to the trials of all contexts.

Contexts inform each other as far as they agree, and the size of seed effects and noise is
learnt from all of them. Recommended is the maximum of a context's posterior mean: of the
likelihood of the validation logits where that is shown to agree with the score (see `signal`),
else of the score itself. What is reported there, the score and what is gained, is always the
score's.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from analysis.estimators import TEMPERATURES, Answer, Trials, lacking, with_effect
from analysis.optimum import FREEDOM, SCORE_SCALE, find_optimum, find_worth
from analysis.settings import Floats, Ints, Observations, Settings, evenly
from analysis.signal import ACCURACY, Choice, choose_signal, heeding, scores_of
from analysis.surface import Surface, condition, fit, learn, unit_of

LEAST_TRIALS = 5
"""Complete trials, over all contexts, that tell noise from shape."""
TOGETHER = 1500
"""Up to so many trials all contexts are conditioned on together."""
MOST_TRIALS = 2000
"""Complete trials of one context that are fitted at most: time grows with their cube, memory with
their square. Of more, every k-th by KD weight inside each seed is taken, whatever it scored, so
that answers keep their mean and have the intervals of so many trials."""
PORTION = 400
"""Above, contexts are conditioned on in portions of neighbours of about so many trials."""
DEFAULTS = {"fraction": 1.0, "teacher_fraction": 1.0, "temperature": 1.0}
"""Of parameters that say nothing here: all contexts then have the same."""
COARSE = 7
"""Temperatures tried where there are other tuned values too."""


def surface(contexts: Sequence[Trials], level: float) -> list[Answer]:
    """Answer for every context from one surface fitted to all.

    Args:
        contexts: complete trials; a context is answered for with three distinct KD weights. Above
            `MOST_TRIALS` of one context, so many are fitted.
        level: probability inside an interval, in (0, 1).
    """
    contexts = [_thinned(trials) for trials in contexts]
    reasons = [lacking(trials) for trials in contexts]
    total = sum(len(trials.score) for trials in contexts)
    if total < LEAST_TRIALS:
        few = f"needs {LEAST_TRIALS} complete trials, has {total}"
        return [Answer(reason or few) for reason in reasons]
    answers = [Answer(reason) for reason in reasons]
    if all(reasons):
        return answers
    pooled = pool(contexts)
    scored = list(_surfaces(pooled.scored))
    learnt = scored if pooled.learnt is pooled.scored else list(_surfaces(pooled.learnt))
    for (indices, fitted), (_, reported) in zip(learnt, scored, strict=True):
        for i in indices.tolist():
            if reasons[i] is None:
                answer = _answer(fitted, reported, pooled.codes, i, contexts[i], level)
                answers[i] = replace(answer, signal=pooled.choice.sentence)
    return answers


class Pooled(NamedTuple):
    """The trials of all contexts, as a surface takes them."""

    codes: "Codes"
    scored: Observations
    """The scores; the index of a context is its position."""
    learnt: Observations
    """What KD weights are learned from: the same object, or the likelihoods as scores."""
    choice: Choice


def pool(contexts: Sequence[Trials]) -> Pooled:
    """Put the trials of all contexts together and choose what KD weights are learned from.

    Args:
        contexts: at least one of them has a trial.
    """
    codes = Codes()
    filled = [i for i, trials in enumerate(contexts) if len(trials.score)]
    observed = Observations(
        Settings.concatenate([codes.settings(i, contexts[i]) for i in filled]),
        np.concatenate([contexts[i].score for i in filled]),
        np.concatenate([contexts[i].seed for i in filled]),
    )
    nll = np.concatenate([_likelihood(contexts[i]) for i in filled])
    choice = choose_signal(scores_of(observed), nll)
    learnt = observed if choice.name == ACCURACY else heeding(observed, nll)
    return Pooled(codes, observed, learnt, choice)


def _thinned(trials: Trials) -> Trials:
    """At most `MOST_TRIALS` of a context."""
    n = len(trials.score)
    if n <= MOST_TRIALS:
        return trials
    temperature = trials.others.get("temperature", np.zeros(n))
    kept = evenly(MOST_TRIALS, temperature, trials.kd_weight, trials.seed)
    return replace(
        trials,
        kd_weight=trials.kd_weight[kept],
        score=trials.score[kept],
        seed=trials.seed[kept],
        others={name: column[kept] for name, column in trials.others.items()},
        nll=None if trials.nll is None else trials.nll[kept],
    )


def _likelihood(trials: Trials) -> Floats:
    return np.full(len(trials.score), np.nan) if trials.nll is None else trials.nll


def _surfaces(observed: Observations) -> Iterator[tuple[Ints, Surface]]:
    """Contexts with the surface that answers for them: one, or one per portion of many trials."""
    contexts, first, count = np.unique(observed.at.context, return_index=True, return_counts=True)
    if len(observed) <= TOGETHER:
        yield contexts, fit(observed)
        return
    theta, unit = learn(observed), unit_of(observed)
    at = observed.at.take(first)
    order = np.lexsort((at.fraction, at.teacher, at.method))
    portion = np.cumsum(count[order]) // PORTION
    for each in np.unique(portion):
        mine = contexts[order[portion == each]]
        part = observed.take(np.isin(observed.at.context, mine))
        yield mine, condition(part, theta, unit)


class Codes:
    """Numbers for names, as the surface takes them."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, Hashable], int] = {}

    def number(self, kind: str, value: Hashable) -> int:
        """The number of a value, a new one the first time."""
        known = [key for key in self._numbers if key[0] == kind]
        return self._numbers.setdefault((kind, value), len(known))

    def settings(
        self, context: int, trials: Trials, values: dict[str, list[object]] | None = None
    ) -> Settings:
        """The settings of a context's trials, or with these values in place of tuned ones."""
        columns: dict[str, list[object]] = {
            name: np.asarray(column).tolist() for name, column in trials.others.items()
        }
        columns = columns if values is None else values
        kd_weight = trials.kd_weight if values is None else np.zeros(1)
        n = max([len(kd_weight), *map(len, columns.values())])
        setting = {**DEFAULTS, **trials.fixed}

        def column(name: str) -> list[object]:
            return columns[name] if name in columns else [setting.get(name)] * n

        def numbers(name: str) -> Floats:
            return np.array(column(name), dtype=np.float64)

        # Whatever else tells contexts apart changes the training like another method does.
        rest = tuple(
            sorted(
                (name, str(value))
                for name, value in trials.fixed.items()
                if name not in ("method", "teacher", *DEFAULTS)
            )
        )
        return Settings(
            context=np.full(n, context),
            method=np.array([self.number("method", (str(m), rest)) for m in column("method")]),
            fraction=numbers("fraction"),
            teacher=np.array([self.number("teacher", str(t)) for t in column("teacher")]),
            teacher_fraction=numbers("teacher_fraction"),
            temperature=numbers("temperature"),
            kd_weight=np.broadcast_to(kd_weight, (n,)),
        )


def _answer(
    fitted: Surface, scored: Surface, codes: Codes, index: int, trials: Trials, level: float
) -> Answer:
    values, options = options_of(trials)
    optimum = find_optimum(
        fitted, codes.settings(index, trials, values), trials.kd_weight_range, level
    )
    worth = find_worth(scored, optimum.at, level)
    return Answer(
        kd_weight=optimum.kd_weight,
        flat=optimum.flat,
        score=worth.score,
        score_without_kd=worth.score_without_kd,
        gain=worth.gain,
        gain_over_1=worth.gain_over_1,
        loss=optimum.loss,
        others=with_effect(options[optimum.option], optimum.kd_weight.value),
        line=_line(scored, optimum.at, level),
    )


def options_of(trials: Trials) -> tuple[dict[str, list[object]], list[dict[str, object]]]:
    """The combinations of the other tuned values to choose from: as columns, and one by one."""
    tried: dict[str, list[object]] = {}
    for name, column in trials.others.items():
        levels = np.unique(column).tolist()
        if name == "temperature" and len(levels) > 1:
            count = TEMPERATURES if len(trials.others) == 1 else COARSE
            levels = np.geomspace(levels[0], levels[-1], count).tolist()
        tried[name] = levels
    options: list[dict[str, object]] = [{}]
    for name, levels in tried.items():
        options = [{**option, name: value} for option in options for value in levels]
    return {name: [option[name] for option in options] for name in tried}, options


def _line(
    fitted: Surface, at: Settings, level: float
) -> Callable[[Floats], tuple[Floats, Floats, Floats]]:
    def line(kd_weight: Floats) -> tuple[Floats, Floats, Floats]:
        rows = np.zeros(len(kd_weight), dtype=np.int64)
        mean, covariance = fitted.posterior(at.take(rows).replace(kd_weight=kd_weight))
        quantile = SCORE_SCALE * float(stdtrit(FREEDOM, (1 + level) / 2))
        half = quantile * np.sqrt(np.maximum(covariance.diagonal(), 0.0))
        return mean, mean - half, mean + half

    return line
