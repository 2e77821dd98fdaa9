"""What Ray's documentation tells its users to write: one study over everything.

One Optuna TPE study chooses context and tuned values together, maximises the score over all
of them, and is told that a trial which was stopped early is complete, with the value it had
then, as Ray's `OptunaSearch` does. One ASHA compares everything with everything
(`SearchSpec.pooled`). Here as a baseline: it drifts to the contexts that score best.
"""

import math
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState as OptunaState

from search.designer import Known, Proposal
from search.ledger import TrialState
from search.samplers.planned import fixed_trials
from search.space import SearchSpec
from search.studies import Studies, distributions
from trainables.record import Outcome
from trainables.seeds import derive


class RayStock:
    """One study, derived from the record, in memory.

    There is no starting design; trials may be spread over the contexts in any way, and seeds
    take turns.

    Args:
        spec: the search.
        studies: Optuna's side of other samplers; not used.
    """

    def __init__(self, spec: SearchSpec, studies: Studies) -> None:
        self._spec = spec
        self._contexts = {c.key: c for c in spec.context_list}
        self._by_values = {tuple(c.values.values()): c for c in spec.context_list}
        self._names = tuple(spec.context_list[0].values)
        columns = zip(*self._by_values, strict=True)
        self._space = {
            **{
                _context_name(name): CategoricalDistribution(tuple(dict.fromkeys(column)))
                for name, column in zip(self._names, columns, strict=True)
            },
            **distributions(spec),
        }
        self._study = optuna.create_study(direction="maximize")
        self._open: dict[int, optuna.Trial] = {}
        self._seen = 0
        """Trials with smaller numbers are in the study."""

    def propose(self, known: Known) -> Proposal | None:
        """What TPE says, of all contexts."""
        trials = sorted((t for own in known.values() for t in own), key=lambda t: t.number)
        if len(trials) >= len(self._spec.context_list) * fixed_trials(self._spec):
            return None
        self._sync(trials)
        number = len(trials)
        seed = derive(self._spec.seed, "ray-stock", number) % 2**32
        self._study.sampler = TPESampler(seed=seed)
        asked = self._study.ask(self._space)
        self._study.tell(asked, state=OptunaState.FAIL)  # it comes back when it is recorded
        params = asked.params
        context = self._by_values[tuple(params.pop(_context_name(n)) for n in self._names)]
        return Proposal(context, params, number % self._spec.seeds.trials)

    def accepted(self, number: int) -> None:
        """Nothing to remember: the record has it."""

    def _sync(self, trials: list[TrialState]) -> None:
        for trial in trials[self._seen :]:
            values: dict[str, Any] = dict(trial.values)
            for name, value in self._contexts[trial.context].values.items():
                values[_context_name(name)] = value
            self._study.enqueue_trial(values)
            self._open[trial.number] = self._study.ask(self._space)
        self._seen = len(trials)
        ended = {t.number: t for t in trials if t.number in self._open and t.outcome is not None}
        for number, trial in ended.items():
            score = trial.scores.get(trial.epoch, math.nan)
            told = trial.outcome in (Outcome.COMPLETE, Outcome.STOPPED_EARLY)
            asked = self._open.pop(number)
            if told and math.isfinite(score):
                self._study.tell(asked, score)
            else:
                self._study.tell(asked, state=OptunaState.FAIL)


def _context_name(name: str) -> str:
    return f"context.{name}"
