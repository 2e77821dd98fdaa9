"""When a search ends: the first criterion of its budget that what is recorded has reached.

Pure functions of the search, its trials and the time that was worked on it: a search that is taken
up again decides as it would have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from analysis.estimators import Trials
from analysis.loss import Loss, expected_loss
from search.designer import Designer, Known, Later, Proposal
from search.errors import KdcurveError
from search.ledger import TrialState
from search.samplers.coding import complete, likelihoods
from search.space import Context, SearchSpec
from trainables.record import CONTEXT_PARAMS, SECONDS, Outcome

HOPELESS = 10
"""Trials of a context that fail one after the other before a search without
`trials_per_context`, which would never end, gives up."""
EXHAUSTED = "the sampler has nothing left to propose"

LossOf = Callable[[Known], Loss | None]
"""What is known -> expected loss of the recommended settings in points; None: not known yet."""


@dataclass(frozen=True)
class Spent:
    """What the trials of a search have used so far, those that still run included.

    Each is added up when it is asked for: of many trials that takes a while.

    Args:
        spec: the search.
        known: its trials by context key.
        wall_time_s: seconds that some process has worked on it (`Ledger.active_at`).
    """

    spec: SearchSpec
    known: Known
    wall_time_s: float

    @property
    def trials(self) -> float:
        """Proposed per context, on average: a sampler may spread them unevenly."""
        return sum(map(len, self.known.values())) / len(self.spec.context_list)

    @property
    def epoch_samples(self) -> int:
        """Epochs × samples trained."""
        return sum(
            trial.epoch * self.spec.kept_samples(context)
            for context in self.spec.context_list
            for trial in self.known.get(context.key, ())
        )

    @property
    def gpu_hours(self) -> float:
        """Hours of training × GPUs of a trial."""
        every = (trial for trials in self.known.values() for trial in trials)
        seconds = sum(trial.last.get(SECONDS, 0.0) for trial in every)
        return seconds * self.spec.resources.gpu / 3600

    @property
    def money(self) -> float:
        """Price of the GPU hours; 0 where none is named."""
        return self.gpu_hours * (self.spec.budget.cost_per_gpu_hour or 0.0)


_LIMITS: dict[str, Callable[[Spent, float], str]] = {
    "trials_per_context": lambda _, limit: f"{limit:g} trials per context",
    "epoch_samples": lambda used, limit: (
        f"{used.epoch_samples:.3g} epochs × samples trained, of {limit:.3g} allowed"
    ),
    "gpu_hours": lambda used, limit: f"{used.gpu_hours:.3g} GPU hours used, of {limit:g} allowed",
    "wall_time_s": lambda used, limit: (
        f"{used.wall_time_s:.0f} s worked on it, of {limit:g} allowed"
    ),
    "money": lambda used, limit: f"{used.money:.4g} spent on GPU hours, of {limit:g} allowed",
}
"""Reasons in words: (what was used, the limit) -> text."""
_USED = {"trials_per_context": "trials"}
"""Names in `Spent` that differ from the criterion's."""


def shares(spec: SearchSpec, used: Spent) -> dict[str, float]:
    """How much of each limit is used up, by criterion; 1 and more: reached."""
    return {
        key: getattr(used, _USED.get(key, key)) / limit
        for key in _LIMITS
        if (limit := getattr(spec.budget, key)) is not None
    }


def reached(
    spec: SearchSpec, known: Known, active_s: float, loss_of: LossOf | None = None
) -> str | None:
    """The criterion that ends the search, in words, or None: it goes on.

    Args:
        spec: the search.
        known: its trials by context key, ended or not.
        active_s: seconds that some process has worked on it.
        loss_of: judges `budget.until`; needed only where that is set.
    """
    used = Spent(spec, known, active_s)
    for key, share in shares(spec, used).items():
        if share >= 1.0:
            return _LIMITS[key](used, getattr(spec.budget, key))
    until = spec.budget.until
    if until is None or loss_of is None or (loss := loss_of(known)) is None:
        return None
    if loss.upper >= until.regret:
        return None
    return (
        f"an expected loss of {loss.expected:.2g} points, with {until.confidence:.0%} confidence "
        f"below {loss.upper:.2g}, where {until.regret:g} was asked for"
    )


class Losses:
    """The expected loss of what would be recommended, judged anew when more trials are complete.

    At first after every one; in a long search, whose surface takes seconds, after every hundredth
    part more.

    Args:
        spec: the search; `spec.budget.until` says how sure it must be (0.9 if it says nothing).
    """

    def __init__(self, spec: SearchSpec) -> None:
        self._spec = spec
        until = spec.budget.until
        self._confidence = 0.9 if until is None else until.confidence
        self._judged: tuple[int, Loss | None] = 0, None
        """Number of complete trials, and what they say."""

    def __call__(self, known: Known) -> Loss | None:
        """Judge what is known; None while a context has no answer."""
        every = complete(t for c in self._spec.context_list for t in known.get(c.key, ()))
        if self._judged[0] != (count := _rung(len(every))):
            trials: dict[str, list[TrialState]] = {c.key: [] for c in self._spec.context_list}
            for trial in every[:count]:
                trials[trial.context].append(trial)
            arrays = [_arrays(self._spec, c, trials[c.key]) for c in self._spec.context_list]
            self._judged = count, expected_loss(arrays, self._confidence)
        return self._judged[1]


def _rung(count: int) -> int:
    """The last of the numbers of trials at which a search is judged; each is 1% above the last."""
    rung = 0
    while (following := rung + max(1, rung // 100)) <= count:
        rung = following
    return rung


def _arrays(spec: SearchSpec, context: Context, trials: list[TrialState]) -> Trials:
    tune = spec.tune.kd_weight
    return Trials(
        kd_weight=np.array([t.values["kd_weight"] for t in trials], np.float64),
        score=np.array([t.scores[t.epoch] for t in trials], np.float64),
        seed=np.array([t.seed for t in trials], np.int64),
        others={
            name: np.array([t.values[name] for t in trials])
            for name in CONTEXT_PARAMS
            if name in spec.tuned
        },
        kd_weight_range=(tune.low, tune.high),
        fixed=dict(context.values),
        nll=likelihoods(trials),
    )


class Bounded:
    """A designer that proposes nothing more once a criterion of the budget is reached.

    Args:
        designer: chooses the trials until then.
        spec: the search.
        active_s: tells the seconds worked on it so far.
        loss_of: judges `budget.until`.
    """

    def __init__(
        self,
        designer: Designer,
        spec: SearchSpec,
        active_s: Callable[[], float],
        loss_of: LossOf | None = None,
    ) -> None:
        self._designer = designer
        self._spec = spec
        self._active_s = active_s
        self._loss_of = loss_of
        self._failed_before: frozenset[int] | None = None
        self.reason: str | None = None
        """Why nothing more is proposed, once that is so."""

    def propose(self, known: Known) -> Proposal | Later | None:
        """The designer's next trial, or None when a criterion is reached.

        Raises:
            KdcurveError: nothing but failures in a context, and no limit on their number.
        """
        self._give_up_on_failures(known)
        self.reason = reached(self._spec, known, self._active_s(), self._loss_of)
        if self.reason is not None:
            return None
        proposal = self._designer.propose(known)
        if proposal is None:
            self.reason = EXHAUSTED
        return proposal

    def accepted(self, number: int) -> None:
        """Tell the designer."""
        self._designer.accepted(number)

    def _give_up_on_failures(self, known: Known) -> None:
        if self._spec.budget.trials_per_context is not None:
            return
        if self._failed_before is None:  # whoever resumes may have mended what made them fail
            self._failed_before = frozenset(trial.number for trial in _failures(known))
        for context in self._spec.context_list:
            ended = [
                trial
                for trial in known.get(context.key, ())
                if trial.outcome is not None and trial.number not in self._failed_before
            ][-HOPELESS:]
            failed = list(_failures({context.key: ended}))
            if len(failed) == HOPELESS:
                raise KdcurveError(
                    f"the last {HOPELESS} trials of {context.label} failed, and the budget has no "
                    f"trials_per_context that would end this; the last one: {failed[-1].reason}"
                )


def _failures(known: Known) -> Iterator[TrialState]:
    for trials in known.values():
        for trial in trials:
            if trial.outcome in (Outcome.FAILED, Outcome.TIMEOUT):
                yield trial
