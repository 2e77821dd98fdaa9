"""The curve's sampler for anybody's Optuna loop: one context, given the studies of its siblings.

    studies = {}
    for fraction in (0.1, 0.3, 0.9):
        study = optuna.create_study(direction="maximize")
        study.set_user_attr("fraction", fraction)
        study.sampler = CurveSampler(list(studies.values()), seed=0)
        study.optimize(objective, n_trials=8)  # suggests `kd_weight` in [0, 1]
        studies[fraction] = study

Needs no Ray, no record and no search file.
"""

import itertools
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from analysis.acquisition import knowledge_gradient
from analysis.settings import Observations, Settings
from analysis.surface import Hyperparameters, Surface, fit

START_POINTS = 3
"""Trials of a study before the surface is asked: the KD weight's lower end, middle, upper end."""
KD_WEIGHTS = 33
OTHER_POINTS = 7
"""Values of a range that are compared."""
MOST_CANDIDATES = 256
STEPS_AGAIN = 10
"""Iterations of a fit that starts from the one before."""
GROWTH = 1.1
"""Hyperparameters are fitted again when there are so many times as many trials."""

DEFAULTS: dict[str, Any] = {
    "method": "",
    "fraction": 1.0,
    "teacher": "",
    "teacher_fraction": 1.0,
    "temperature": 4.0,
}
"""What a trial is taken to have if neither its parameters nor its study's user attributes say."""
TUNABLE = ("kd_weight", "temperature", "teacher_fraction", "method", "teacher")
SEED = "seed"
"""User attribute of a trial: what shares it shares its random subset, weights and batches."""


class _Row(NamedTuple):
    """A trial as the surface sees it."""

    study: str
    values: dict[str, Any]
    seed: Hashable
    score: float
    """Higher is better; NaN while it runs."""


class CurveSampler(BaseSampler):
    """Proposes where a result should raise the recommended setting's expected score the most.

    A Gaussian process (`analysis.surface`) shared by the study and its siblings learns from
    their complete trials, and the knowledge gradient (`analysis.acquisition`) chooses. Trials that
    run count as pending; those that failed or were pruned teach nothing.

    What stands where:

    - parameters of trials: `kd_weight` in [0, 1]; also `temperature`, `teacher_fraction` (ranges or
      lists), `method`, `teacher` (lists), if they are tuned. Others are drawn at random.
    - user attributes of studies: `fraction`, `method`, `teacher`, `teacher_fraction`,
      `temperature`, as far as they are not tuned; `DEFAULTS` otherwise.
    - user attribute of trials: `seed`. Without it every trial has a seed of its own, and so is the
      next one taken to have.

    A study's first `START_POINTS` trials stand at both ends and in the middle of the KD weight,
    since a surface extrapolates badly.

    Args:
        siblings: studies of other contexts; the study itself may be among them.
        seed: of its random numbers; None draws one.
    """

    def __init__(self, siblings: Sequence[optuna.Study] = (), *, seed: int | None = None) -> None:
        self._siblings = tuple(siblings)
        self._random = RandomSampler(seed=seed)
        self._entropy = np.random.SeedSequence(seed).entropy
        self._last: dict[str, tuple[Hyperparameters, int]] = {}
        """What the newest fit found, and from how many trials, by study."""

    def reseed_rng(self) -> None:
        """Draw other random numbers from now on."""
        self._random.reseed_rng()
        self._entropy = np.random.SeedSequence().entropy

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """What is tuned in this study, or, while it has no complete trial, in a sibling."""
        for each in (study, *self._siblings):
            trials = each.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            space = optuna.search_space.intersection_search_space(trials)
            if "kd_weight" in space:
                return {name: space[name] for name in TUNABLE if name in space}
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The most informative setting."""
        self._raise_error_if_multi_objective(study)
        chosen = {
            name: self._random.sample_independent(study, trial, name, domain)
            for name, domain in search_space.items()
        }
        weight = search_space.get("kd_weight")
        if weight is None:
            return chosen
        known = {name: search_space[name] for name in TUNABLE if name in search_space}
        own = list(_rows(study, trial.number))
        if len(own) < START_POINTS:
            return {**chosen, "kd_weight": _start(weight, len(own))}
        rows = own + [
            row
            for sibling in self._siblings
            if sibling.study_name != study.study_name
            for row in _rows(sibling)
        ]
        return {**chosen, **self._best(study, trial.number, rows, known)}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A start for the KD weight; whatever else: at random."""
        self._raise_error_if_multi_objective(study)
        if param_name == "kd_weight":
            own = sum(1 for _ in _rows(study, trial.number))
            if own < START_POINTS:
                return _start(param_distribution, own)
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _best(
        self,
        study: optuna.Study,
        number: int,
        rows: Sequence[_Row],
        space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        draw = np.random.default_rng([number, *_words(self._entropy)])
        options = [
            dict(zip(space, combination, strict=True))
            for combination in itertools.product(*(_values(n, d) for n, d in space.items()))
        ]
        if len(options) > MOST_CANDIDATES:
            picked = draw.choice(len(options), MOST_CANDIDATES, replace=False)
            options = [options[i] for i in np.sort(picked)]
        finished = [row for row in rows if math.isfinite(row.score)]
        if not finished:
            return options[int(draw.integers(len(options)))]
        codes = _Codes()
        for each in (study, *self._siblings):  # contexts keep their numbers from fit to fit
            codes.number("study", each.study_name)
        surface = self._surface(study.study_name, codes, rows, finished)
        here = _context(study)
        at = codes.settings(
            [_Row(study.study_name, {**here, **o}, None, math.nan) for o in options]
        )
        seeds = np.full(len(options), codes.number(SEED, (study.study_name, number)))
        worth = knowledge_gradient(surface, at, seeds, at)
        return options[int(worth.argmax())]

    def _surface(
        self, study: str, codes: "_Codes", rows: Sequence[_Row], finished: Sequence[_Row]
    ) -> Surface:
        observed = Observations(
            codes.settings(finished),
            np.array([row.score for row in finished]),
            np.array([codes.number(SEED, row.seed) for row in finished]),
        )
        last = self._last.get(study)
        if last is not None and len(finished) < GROWTH * last[1]:
            surface = fit(observed, last[0], steps=0)
        else:
            surface = fit(observed) if last is None else fit(observed, last[0], STEPS_AGAIN)
            self._last[study] = surface.hyperparameters, len(finished)
        pending = [row for row in rows if math.isnan(row.score)]
        if not pending:
            return surface
        seeds = np.array([codes.number(SEED, row.seed) for row in pending])
        return surface.with_pending(codes.settings(pending), seeds)


class _Codes:
    """Numbers for names, in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[Hashable, int]] = {}

    def number(self, kind: str, value: Hashable) -> int:
        numbers = self._numbers.setdefault(kind, {})
        return numbers.setdefault(value, len(numbers))

    def settings(self, rows: Sequence[_Row]) -> Settings:
        def column(name: str) -> list[Any]:
            return [row.values[name] for row in rows]

        return Settings(
            context=np.array([self.number("study", row.study) for row in rows]),
            method=np.array([self.number("method", value) for value in column("method")]),
            fraction=np.array(column("fraction")),
            teacher=np.array([self.number("teacher", value) for value in column("teacher")]),
            teacher_fraction=np.array(column("teacher_fraction")),
            temperature=np.array(column("temperature")),
            kd_weight=np.array(column("kd_weight")),
        )


def _context(study: optuna.Study) -> dict[str, Any]:
    return {name: study.user_attrs.get(name, default) for name, default in DEFAULTS.items()}


def _rows(study: optuna.Study, but: int | None = None) -> Iterator[_Row]:
    """A study's complete and running trials that have a KD weight, without one of them."""
    sign = -1.0 if study.direction is optuna.study.StudyDirection.MINIMIZE else 1.0
    context = _context(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.RUNNING)):
        # A running trial has no parameters before the first is suggested.
        if trial.number == but or "kd_weight" not in trial.params:
            continue
        score = math.nan
        if trial.state is TrialState.COMPLETE:
            if trial.value is None or not math.isfinite(trial.value):
                continue
            score = sign * trial.value
        values = {**context, **{n: v for n, v in trial.params.items() if n in TUNABLE}}
        own_seed = (study.study_name, trial.number)
        yield _Row(study.study_name, values, trial.user_attrs.get(SEED, own_seed), score)


def _start(domain: BaseDistribution, index: int) -> float:
    values = _values("kd_weight", domain)
    return float((values[0], values[len(values) // 2], values[-1])[index])


def _values(name: str, domain: BaseDistribution) -> list[Any]:
    """What is compared of a distribution, ascending where it is a range."""
    if isinstance(domain, CategoricalDistribution):
        return list(domain.choices)
    if not isinstance(domain, FloatDistribution):
        raise TypeError(f"{name}: {domain} is neither a range of floats nor a list")
    if name == "kd_weight" and not 0 <= domain.low <= domain.high <= 1:
        raise ValueError(f"kd_weight: from {domain.low} to {domain.high}; allowed: within [0, 1]")
    count = KD_WEIGHTS if name == "kd_weight" else OTHER_POINTS
    if domain.single():
        return [domain.low]
    if domain.step is not None:
        steps = round((domain.high - domain.low) / domain.step)
        chosen = np.unique(np.linspace(0, steps, min(count, steps + 1)).round())
        return [min(domain.high, domain.low + domain.step * i) for i in chosen.tolist()]
    space = np.geomspace if domain.log else np.linspace
    values = np.clip(space(domain.low, domain.high, count), domain.low, domain.high)
    return [float(value) for value in values]


def _words(entropy: Any) -> list[int]:
    return list(entropy) if isinstance(entropy, Sequence) else [int(entropy)]
