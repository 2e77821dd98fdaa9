"""Early stopping that compares like with like: Ray's ASHA, with rungs per context and seed.

One ASHA over all fractions would stop nearly every trial of the small ones, whose
accuracies are lower whatever their KD weight; one over all seeds of a context would keep
the lucky seeds.
"""

from types import SimpleNamespace
from typing import Any, cast

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from search.journal import EventKind
from search.ledger import Ledger
from search.space import SearchSpec
from search.unpickled import Unpickled
from trainables.record import EPOCH


class InOrder(Unpickled, FIFOScheduler):
    """First come, first served; no trial is stopped early."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def choose_trial_to_run(self, tune_controller: TuneController) -> None:
        """Leave the choice to Tune, which starts pending trials in order.

        Ray's own choice would give a free actor to a trial whose actor is still starting,
        and throw that one away: where trials are shorter than the start of a process, one
        actor would do all the work while others are started for ever.
        """


class ContextAsha(InOrder):
    """One of Ray's `AsyncHyperBandScheduler` per context and seed.

    It has one bracket and so draws no random numbers. Trials of the starting design are
    entered at every rung but never stopped: the gain over KD weight 0 needs them whole.
    Decisions are recorded before Tune acts on them, because Tune reports a stop at a
    rung, the end of the budget and a natural end all as ``done``.

    Args:
        spec: the search; `spec.early_stopping` says how.
        ledger: its record; rungs that it holds are entered again.
        objective: name of the metric to maximise.
    """

    def __init__(self, spec: SearchSpec, ledger: Ledger, objective: str) -> None:
        super().__init__()
        self._ledger = ledger
        self._objective = objective
        self._rungs = {c.key: spec.rungs(c) for c in spec.context_list}
        self._inner = {
            (c.key, seed): AsyncHyperBandScheduler(
                time_attr=EPOCH,
                metric=objective,
                mode="max",
                max_t=spec.total_epochs(c),
                grace_period=self._rungs[c.key][0],
                reduction_factor=spec.early_stopping.reduction_factor,
            )
            for c in spec.context_list
            for seed in range(spec.seeds.trials)
            if self._rungs[c.key]
        }
        self._replay()

    def _replay(self) -> None:
        for trial in self._ledger.trials.values():
            for epoch, (score, _) in trial.rungs.items():
                self._decide(trial.number, epoch, score)

    def _decide(self, number: int, epoch: int, score: float) -> bool:
        """Enter a trial at a rung; whether ASHA would stop it there."""
        state = self._ledger.trials[number]
        inner = self._inner[state.context, state.seed]
        # Ray's scheduler asks a trial for its id alone, and its controller for nothing.
        controller, stand_in = (
            cast(TuneController, None),
            cast(Trial, SimpleNamespace(trial_id=number)),
        )
        inner.on_trial_add(controller, stand_in)
        decision = inner.on_trial_result(
            controller, stand_in, {EPOCH: epoch, self._objective: score}
        )
        return bool(decision == TrialScheduler.STOP)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Compare at a rung; continue everywhere else."""
        number, epoch = result["number"], result[EPOCH]
        state = self._ledger.trials[number]
        if epoch not in self._rungs[state.context]:
            return str(TrialScheduler.CONTINUE)
        if epoch not in state.rungs:  # a trial taken up again stands by what was decided
            score = result[self._objective]
            stop = self._decide(number, epoch, score) and not state.start_design
            self._ledger.record(EventKind.RUNG, number, epoch=epoch, score=score, stop=stop)
        _, stop = state.rungs[epoch]
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


def make_scheduler(spec: SearchSpec, ledger: Ledger) -> InOrder:
    """What stops the trials of a search early, as its file says."""
    if spec.early_stopping.name == "none":
        return InOrder()
    return ContextAsha(spec, ledger, spec.objective)
