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
from search.ledger import Ledger, TrialState
from search.space import SearchSpec
from search.unpickled import Unpickled
from trainables.record import EPOCH


class InOrder(Unpickled, FIFOScheduler):
    """First come, first served; trials are stopped early only where they were meant to end.

    Decisions are recorded before Tune acts on them, because Tune reports a stop at a
    rung, the end of the budget and a natural end all as ``done``.

    Args:
        ledger: the search's record.
        objective: name of the metric to maximise.
    """

    def __init__(self, ledger: Ledger, objective: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger
        self._objective = objective

    def choose_trial_to_run(self, tune_controller: TuneController) -> None:
        """Leave the choice to Tune, which starts pending trials in order.

        Ray's own choice would give a free actor to a trial whose actor is still starting,
        and throw that one away: where trials are shorter than the start of a process, one
        actor would do all the work while others are started for ever.
        """

    def _loses(self, state: TrialState, epoch: int, score: float) -> bool | None:
        """Whether a trial is worse than others after this epoch; None: it is not compared."""
        return None

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Compare at a rung, end where the trial was meant to; continue everywhere else."""
        number, epoch = result["number"], result[EPOCH]
        state = self._ledger.trials[number]
        if epoch not in state.rungs:  # a trial taken up again stands by what was decided
            score = result[self._objective]
            if state.until_epoch is None:
                loses = self._loses(state, epoch, score)
            else:
                loses = True if epoch == state.until_epoch else None
            if loses is None:
                return str(TrialScheduler.CONTINUE)
            stop = loses and not state.start_design
            self._ledger.record(EventKind.RUNG, number, epoch=epoch, score=score, stop=stop)
        _, stop = state.rungs[epoch]
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)


class ContextAsha(InOrder):
    """One of Ray's `AsyncHyperBandScheduler` per context and seed, or one over everything.

    It has one bracket and so draws no random numbers. Trials of the starting design are
    entered at every rung but never stopped: the gain over KD weight 0 needs them whole.
    One over all contexts and seeds is the baseline's way (`SearchSpec.pooled`).

    Args:
        spec: the search; `spec.early_stopping` says how.
        ledger: its record; rungs that it holds are entered again.
        objective: name of the metric to maximise.
    """

    def __init__(self, spec: SearchSpec, ledger: Ledger, objective: str) -> None:
        super().__init__(ledger, objective)
        self._spec = spec
        self._rungs = {c.key: spec.rungs(c) for c in spec.context_list}
        self._inner: dict[tuple[str, int] | None, AsyncHyperBandScheduler] = {}
        self._contexts = {c.key: c for c in spec.context_list}
        self._replay()

    def _replay(self) -> None:
        for trial in self._ledger.trials.values():
            for epoch, (score, _) in trial.rungs.items():
                if trial.until_epoch is None:
                    self._loses(trial, epoch, score)

    def _loses(self, state: TrialState, epoch: int, score: float) -> bool | None:
        """Enter a trial at a rung; whether ASHA would stop it there."""
        if epoch not in self._rungs[state.context]:
            return None
        inner = self._among(state)
        # Ray's scheduler asks a trial for its id alone, and its controller for nothing.
        controller, stand_in = (
            cast(TuneController, None),
            cast(Trial, SimpleNamespace(trial_id=state.number)),
        )
        inner.on_trial_add(controller, stand_in)
        decision = inner.on_trial_result(
            controller, stand_in, {EPOCH: epoch, self._objective: score}
        )
        return bool(decision == TrialScheduler.STOP)

    def _among(self, state: TrialState) -> AsyncHyperBandScheduler:
        """Ray's scheduler for the trials that a trial is compared with."""
        group = None if self._spec.pooled else (state.context, state.seed)
        if group not in self._inner:
            context = self._contexts[state.context]
            self._inner[group] = AsyncHyperBandScheduler(
                time_attr=EPOCH,
                metric=self._objective,
                mode="max",
                max_t=self._spec.longest_epochs(context),
                grace_period=self._rungs[context.key][0],
                reduction_factor=self._spec.early_stopping.reduction_factor,
            )
        return self._inner[group]


def make_scheduler(spec: SearchSpec, ledger: Ledger) -> InOrder:
    """What stops the trials of a search early, as its file says."""
    if spec.early_stopping.name == "none":
        return InOrder(ledger, spec.objective)
    return ContextAsha(spec, ledger, spec.objective)
