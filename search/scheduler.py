"""Early stopping that compares like with like: ASHA or the median, per context and seed.

One rule over all fractions would stop nearly every trial of the small ones, whose
accuracies are lower whatever their KD weight; one over all seeds of a context would keep
the lucky seeds.
"""

import math
import statistics
from collections.abc import Callable
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


Rule = Callable[[int, int, float], bool]
"""(number of a trial, epoch of a rung, score) -> whether the others there are better; enters it."""


def asha(first: int, total: int, reduction_factor: float) -> Rule:
    """Ray's `AsyncHyperBandScheduler`, with one bracket: it draws no random numbers."""
    inner = AsyncHyperBandScheduler(
        time_attr=EPOCH,
        metric="score",
        mode="max",
        max_t=total,
        grace_period=first,
        reduction_factor=reduction_factor,
    )

    def loses(number: int, epoch: int, score: float) -> bool:
        # Ray's scheduler asks a trial for its id alone, and its controller for nothing.
        controller, stand_in = (
            cast(TuneController, None),
            cast(Trial, SimpleNamespace(trial_id=number)),
        )
        inner.on_trial_add(controller, stand_in)
        decision = inner.on_trial_result(controller, stand_in, {EPOCH: epoch, "score": score})
        return bool(decision == TrialScheduler.STOP)

    return loses


FEWEST_OTHERS = 3
"""Trials that the median is taken over at least, as in Ray's rule."""


def median(first: int, total: int, reduction_factor: float) -> Rule:
    """The median stopping rule: lost is what has never scored as much as the others' median.

    Each of the others counts with the mean of its scores up to this rung, as in Ray's
    `MedianStoppingRule`, whose arithmetic this is. That one cannot be asked here: a trial it
    would stop and that goes on all the same, as those of the starting design do, fails an
    assertion in it, and no longer counts at later rungs.

    Source: Golovin et al., Google Vizier (KDD 2017), section 3.2.
    """
    seen: dict[int, dict[int, float]] = {}

    def loses(number: int, epoch: int, score: float) -> bool:
        own = seen.setdefault(number, {})
        own[epoch] = score
        means = [
            statistics.fmean(s for e, s in scores.items() if e <= epoch)
            for other, scores in seen.items()
            if other != number and max(scores) >= epoch
        ]
        means = [mean for mean in means if math.isfinite(mean)]
        return len(means) >= FEWEST_OTHERS and max(own.values()) < statistics.median(means)

    return loses


RULES: dict[str, Callable[[int, int, float], Rule]] = {"asha": asha, "median": median}
"""Rules by name: (first rung, full budget, reduction factor) -> a rule among some trials."""


class ContextRungs(InOrder):
    """A rule of `RULES` for each context and seed, or one over everything.

    Trials of the starting design are entered at every rung but never stopped: the gain over KD
    weight 0 needs them whole. Decisions are recorded before Tune acts on them, because Tune reports
    a stop at a rung, the end of the budget and a natural end all as ``done``. One rule over all
    contexts and seeds is the baseline's way (`SearchSpec.pooled`).

    Args:
        spec: the search; `spec.early_stopping` says how.
        ledger: its record; rungs that it holds are entered again. Where the first rung is
            measured, all that passed the rungs before that is entered then.
        objective: name of the metric to maximise.
    """

    def __init__(self, spec: SearchSpec, ledger: Ledger, objective: str) -> None:
        super().__init__(ledger, objective)
        self._spec = spec
        self._contexts = {context.key: context for context in spec.context_list}
        self._rungs: dict[str, tuple[int, ...]] = {}
        self._rules: dict[tuple[str, int] | None, Rule] = {}
        self._grace: float | None = None
        self._set_up()

    def _set_up(self) -> None:
        self._grace = self._ledger.grace_share
        self._rungs = {key: self._spec.rungs(c, self._grace) for key, c in self._contexts.items()}
        for trial in self._ledger.trials.values():
            for epoch in self._rungs[trial.context] if trial.until_epoch is None else ():
                if epoch in trial.rungs:
                    self._enter(trial, epoch, trial.rungs[epoch][0])
                elif epoch in trial.scores:  # it passed before it was known that a rung is here
                    self._enter(trial, epoch, trial.scores[epoch])

    def _loses(self, state: TrialState, epoch: int, score: float) -> bool | None:
        """Enter a trial at a rung; whether it would be stopped there."""
        if self._grace != self._ledger.grace_share:
            self._set_up()
        if epoch not in self._rungs[state.context]:
            return None
        return self._enter(state, epoch, score)

    def _enter(self, state: TrialState, epoch: int, score: float) -> bool:
        among = None if self._spec.pooled else (state.context, state.seed)
        if among not in self._rules:
            stopping = self._spec.early_stopping
            self._rules[among] = RULES[stopping.name](
                self._rungs[state.context][0],
                self._spec.longest_epochs(self._contexts[state.context]),
                stopping.reduction_factor,
            )
        return self._rules[among](state.number, epoch, score)


def make_scheduler(spec: SearchSpec, ledger: Ledger) -> InOrder:
    """What stops the trials of a search early, as its file says."""
    if spec.early_stopping.name == "none":
        return InOrder(ledger, spec.objective)
    return ContextRungs(spec, ledger, spec.objective)
