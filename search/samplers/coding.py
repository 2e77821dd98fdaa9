"""Trials as places on the response surface: the search's names as numbers."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.settings import Floats, Ints, Observations, Settings
from search.ledger import TrialState
from search.space import Context, SearchSpec
from trainables.record import VAL_NLL_SCALED, Outcome

KD_WEIGHTS = 21
"""KD weights of a context that are compared, evenly over the range that is tuned."""
LEVELS = 5
"""Values of another tuned range, evenly on its own scale."""
SETTINGS = 420
"""Settings of a context at most: what is tuned besides is thinned out evenly."""


class Coding:
    """Rows of `Settings` for the contexts and tuned values of one search."""

    def __init__(self, spec: SearchSpec) -> None:
        self._spec = spec
        self.contexts = spec.context_list
        self._index = {context.key: i for i, context in enumerate(self.contexts)}
        self._methods = _codes(spec, "method")
        self._teachers = _codes(spec, "teacher")
        self.choices = tuple(_choices(spec))
        """Tuned values that may be proposed in every context, the KD weight first."""

    def rows(self, places: Iterable[tuple[str, Mapping[str, Any]]]) -> Settings:
        """Places given as context key and tuned values."""
        columns: dict[str, list[Any]] = {
            name: []
            for name in (
                *("context", "method", "fraction", "teacher"),
                *("teacher_fraction", "temperature", "kd_weight"),
            )
        }
        for key, values in places:
            index = self._index[key]
            every = {**_DEFAULTS, **self.contexts[index].values, **values}
            every |= {
                "context": index,
                "method": self._methods[every["method"]],
                "teacher": self._teachers[every["teacher"]],
            }
            for name, column in columns.items():
                column.append(every[name])
        return Settings(**{name: np.array(column) for name, column in columns.items()})

    def grid(self, contexts: Iterable[Context]) -> Settings:
        """All choices in each of these contexts, one context after the other."""
        return self.rows((c.key, choice) for c in contexts for choice in self.choices)

    def observed(self, trials: Sequence[TrialState]) -> Observations:
        """What these complete trials scored."""
        return Observations(
            self.rows((trial.context, trial.values) for trial in trials),
            np.array([trial.scores[trial.epoch] for trial in trials]),
            np.array([trial.seed for trial in trials]),
        )

    def pending(self, trials: Sequence[TrialState]) -> tuple[Settings, Ints]:
        """Places and seeds of trials that have not ended."""
        places = self.rows((trial.context, trial.values) for trial in trials)
        return places, np.array([trial.seed for trial in trials])


_DEFAULTS = {"teacher_fraction": 1.0, "temperature": 4.0}


def complete(trials: Iterable[TrialState]) -> list[TrialState]:
    """Trials that ran their full budget to a finite score, in the order in which they ended."""
    usable = [
        trial
        for trial in trials
        if trial.outcome is Outcome.COMPLETE and np.isfinite(trial.scores.get(trial.epoch, np.nan))
    ]
    return sorted(usable, key=lambda trial: (trial.ended or 0.0, trial.number))


def likelihoods(trials: Iterable[TrialState]) -> Floats:
    """Temperature-scaled negative log-likelihood at the end of each trial; NaN where unknown."""
    return np.array([trial.last.get(VAL_NLL_SCALED, np.nan) for trial in trials], np.float64)


def _codes(spec: SearchSpec, name: str) -> dict[str, int]:
    values = getattr(spec.contexts, name) or getattr(spec.tune, name)
    return {value: code for code, value in enumerate(values)}


def _choices(spec: SearchSpec) -> Iterable[dict[str, Any]]:
    """Every combination of tuned values on a grid; the KD weight's is never thinned out."""
    tune = spec.tune
    weights = np.linspace(tune.kd_weight.low, tune.kd_weight.high, KD_WEIGHTS).tolist()
    others = {name: _levels(getattr(tune, name)) for name in spec.tuned if name != "kd_weight"}
    combinations = list(itertools.product(*others.values()))
    kept = min(len(combinations), SETTINGS // KD_WEIGHTS)
    at = np.unique(np.linspace(0, len(combinations) - 1, kept).round().astype(int))
    for i in at:
        for weight in weights:
            yield {"kd_weight": weight, **dict(zip(others, combinations[i], strict=True))}


def _levels(domain: Any) -> list[Any]:
    if isinstance(domain, list):
        return domain
    space = np.geomspace if domain.log else np.linspace
    return [float(level) for level in space(domain.low, domain.high, LEVELS)]
