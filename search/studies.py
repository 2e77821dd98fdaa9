"""Optuna's side of a search: one study per context, derived from the record.

The record is the truth and a study is a view of it: before Optuna is asked for a
proposal, whatever the study lacks is told to it. Deleting the storage loses nothing.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from search.designer import start_trials
from search.ledger import TrialState
from search.samplers.optuna_samplers import make_sampler
from search.space import Context, SearchSpec
from trainables.record import Outcome
from trainables.seeds import derive

optuna.logging.disable_default_handler()
optuna.logging.enable_propagation()
logging.getLogger("optuna").setLevel(logging.WARNING)

_STATES = {
    Outcome.COMPLETE: OptunaState.COMPLETE,
    Outcome.STOPPED_EARLY: OptunaState.PRUNED,
    Outcome.FAILED: OptunaState.FAIL,
    Outcome.TIMEOUT: OptunaState.FAIL,
}
_NUMBER = "kdcurve.trial"
_SEED = "seed"
"""Beside the number, what `samplers.optuna_curve.CurveSampler` looks for in a trial. It finds a
context's values among its study's attributes."""


def distributions(spec: SearchSpec) -> dict[str, BaseDistribution]:
    """What is tuned, in Optuna's terms."""
    made: dict[str, BaseDistribution] = {}
    for name in spec.tuned:
        domain = getattr(spec.tune, name)
        made[name] = (
            CategoricalDistribution(domain)
            if isinstance(domain, list)
            else FloatDistribution(domain.low, domain.high, log=domain.log)
        )
    return made


def _fresh_storage(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))


class Studies:
    """The studies of one search, in a journal file or in memory.

    Args:
        spec: the search.
        path: the storage; whatever is there is replaced, since it is derived. None: memory.
    """

    def __init__(self, spec: SearchSpec, path: Path | None) -> None:
        self._spec = spec
        self._distributions = distributions(spec)
        self._storage = InMemoryStorage() if path is None else _fresh_storage(path)
        self._studies: dict[str, optuna.Study] = {}
        self._open: dict[int, optuna.Trial] = {}
        """Optuna's side of trials whose end it was not told."""
        self._known: set[int] = set()

    def ask(self, context: Context, known: Iterable[TrialState], index: int) -> optuna.Trial:
        """Let the sampler choose the tuned values of a context's next trial.

        The choice depends on the search's seed, the context, `index` and what is known,
        and on nothing else. `accept` says under which number it became a trial of ours.
        """
        study = self.sync(context, known)
        seed = derive(self._spec.seed, context.key, index) % 2**32
        study.sampler = make_sampler(self._spec.sampler, seed, start_trials(self._spec))
        return study.ask(self._distributions)

    def accept(self, asked: optuna.Trial, number: int) -> None:
        """Connect one of Optuna's trials with ours of that number."""
        asked.set_user_attr(_NUMBER, number)
        self._open[number] = asked
        self._known.add(number)

    def sync(self, context: Context, known: Iterable[TrialState]) -> optuna.Study:
        """Tell a context's study what it does not know yet."""
        study = self._studies.get(context.key)
        if study is None:
            study = self._studies[context.key] = optuna.create_study(
                study_name=f"{self._spec.name}/{context.key}",
                storage=self._storage,
                direction="maximize",
            )
            study.set_user_attr("context", context.label)
            for name, value in context.values.items():
                study.set_user_attr(name, value)
        for trial in known:
            if trial.values["kd_weight"] < self._spec.tune.kd_weight.low:
                continue  # the reference at 0, outside the range that is tuned
            if trial.number not in self._known and trial.outcome is not None:
                study.add_trial(self._ended(trial, trial.outcome))  # a tenth of the writing
                self._known.add(trial.number)
            elif trial.number not in self._known:
                study.enqueue_trial(dict(trial.values))
                self.accept(study.ask(self._distributions), trial.number)
            if trial.outcome is not None and trial.number in self._open:
                self._tell(study, trial, trial.outcome)
        return study

    def sync_all(self, known: Mapping[str, Iterable[TrialState]]) -> None:
        """Tell every study what it does not know yet; `known` holds trials by context key."""
        for context in self._spec.context_list:
            if context.key in known:
                self.sync(context, known[context.key])

    def _tell(self, study: optuna.Study, trial: TrialState, outcome: Outcome) -> None:
        asked = self._open.pop(trial.number)
        asked.set_user_attr(_SEED, trial.seed)
        for epoch, score in sorted(trial.scores.items()):
            asked.report(score, epoch)
        state, value = _verdict(trial, outcome)
        study.tell(asked, value if state is OptunaState.COMPLETE else None, state=state)

    def _ended(self, trial: TrialState, outcome: Outcome) -> optuna.trial.FrozenTrial:
        """A trial that Optuna hears of when it is over, as if it had been told step by step."""
        state, value = _verdict(trial, outcome)
        return optuna.trial.create_trial(
            state=state,
            value=value,
            params=dict(trial.values),
            distributions=self._distributions,
            user_attrs={_NUMBER: trial.number, _SEED: trial.seed},
            intermediate_values=dict(sorted(trial.scores.items())),
        )


def _verdict(trial: TrialState, outcome: Outcome) -> tuple[OptunaState, float | None]:
    """An ended trial's state and value in Optuna's terms.

    Optuna knows no complete trial without a number; a pruned one has its last score, if it is one.
    """
    state, score = _STATES[outcome], trial.scores.get(trial.epoch)
    if state is OptunaState.FAIL or (score is not None and math.isfinite(score)):
        return state, None if state is OptunaState.FAIL else score
    return (OptunaState.FAIL if state is OptunaState.COMPLETE else state), None
