"""What a search knows: its events replayed into the state of every trial.

The same code applies an event when it happens and when a search is read back, so that
what is shown, resumed or delivered never differs from what is recorded.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from search.errors import KdcurveError
from search.journal import Entry, Event, EventKind
from search.space import SearchSpec
from search.specfile import parse_spec
from trainables.record import Outcome, SearchState


@dataclass
class TrialState:
    """One trial so far."""

    number: int
    context: str
    values: Mapping[str, Any]
    """The tuned values."""
    seed: int
    start_design: bool
    until_epoch: int | None = None
    """Epoch at which it is to end, and not before; None: early stopping decides."""
    scores: dict[int, float] = field(default_factory=dict)
    """The objective after each epoch."""
    rungs: dict[int, tuple[float, bool]] = field(default_factory=dict)
    """Score and decision (whether to stop) at every rung it came to, by epoch."""
    checkpoint: int = 0
    """Epoch of its newest checkpoint, 0 if it has none."""
    last: Mapping[str, float] = field(default_factory=dict)
    """All metrics of the newest epoch."""
    started: float | None = None
    ended: float | None = None
    """When it was first taken up and when it ended, in seconds since 1970."""
    running: bool = False
    retries: Counter[str] = field(default_factory=Counter)
    """How often it failed and was to be taken up again, by `search.recovery.Cause`."""
    outcome: Outcome | None = None
    reason: str | None = None

    @property
    def epoch(self) -> int:
        """Epochs trained and recorded.

        A trial that is taken up again repeats those after its checkpoint and records what is new.
        """
        return max(self.scores, default=0)

    @property
    def stopped_at(self) -> int | None:
        """Epoch of the rung that ended it, if one did."""
        return next((epoch for epoch, (_, stop) in self.rungs.items() if stop), None)


class History(Protocol):
    """Where a search's events are kept: a `search.journal.Journal`, or memory."""

    def append(self, search: str, entries: Iterable[Entry]) -> list[Event]:
        """Take events in, numbered after those that are there."""
        ...

    def events(self, search: str, after: int = 0) -> Iterator[Event]:
        """Events of a search in order, those with a number above `after`."""
        ...

    def milestones(self, search: str) -> list[Event]:
        """The few events that say where a search stands: its starts and halts."""
        ...


class Ledger:
    """The state of one search, and the only way to add to its journal.

    Args:
        journal: the record.
        search: name of the search.
        append: takes events in, e.g. `Writer.append`; by default they are written at once.
    """

    def __init__(
        self,
        journal: History,
        search: str,
        append: Callable[[Iterable[Entry]], list[Event]] | None = None,
    ) -> None:
        self.journal = journal
        self.search = search
        self._append = append or functools.partial(journal.append, search)
        self.trials: dict[int, TrialState] = {}
        self.by_context: dict[str, list[TrialState]] = {}
        self.state: SearchState | None = None
        self.started: float | None = None
        self.last: float | None = None
        """Times of the first and the newest event, in seconds since 1970."""
        self.active_s = 0.0
        """Seconds that some process worked on it; pauses before a resume do not count."""
        self.reason: str | None = None
        """Which criterion of the budget ended it, in words, if one did."""
        self.early_stopping: str | None = None
        """What early stopping did, in words, once the search came to a halt."""
        self.grace: dict[str, Any] | None = None
        """Where `grace_epochs: auto` put the first rung and why (see `search.early`)."""
        self.plan: dict[str, Any] = {}
        self.prepared: dict[str, dict[str, Any]] = {}
        """What is known of each teacher and of scores, by key."""
        self.answer: Event | None = None
        """The newest answers."""
        self.confirmed: dict[str, Event] = {}
        """How each student of a confirmation ended, at its last try, by key."""
        self._spec: SearchSpec | None = None
        for event in journal.events(search):
            self._apply(event)

    def record(self, kind: EventKind, trial: int | None = None, **data: Any) -> None:
        """Append one event and take note of it."""
        self.record_all([(kind, trial, data)])

    def record_all(self, entries: Iterable[Entry]) -> None:
        """Append several events together and take note of them."""
        for event in self._append(entries):
            self._apply(event)

    @property
    def spec(self) -> SearchSpec:
        """The search as it was planned, or last extended.

        Raises:
            KdcurveError: there is no such search.
        """
        if not self.plan:
            raise KdcurveError(f"no search named {self.search!r} is recorded")
        if self._spec is None:
            self._spec = parse_spec(self.plan["spec"], f"the recorded search {self.search!r}")
        return self._spec

    @property
    def grace_share(self) -> float | None:
        """What `grace_epochs: auto` came to, as a share of the budget; None: not known yet."""
        return None if self.grace is None else float(self.grace["share"])

    def outcomes(self) -> Counter[str]:
        """Trials by outcome, with those that run as `running`."""
        trials = list(self.trials.values())  # the display's thread reads while others are added
        counts = Counter(str(t.outcome) for t in trials if t.outcome is not None)
        counts["running"] = sum(t.running for t in trials)
        return counts

    def active_at(self, now: float) -> float:
        """Seconds that some process has worked on it by a time, in seconds since 1970."""
        running = self.state is SearchState.RUNNING and self.last is not None
        return self.active_s + (max(0.0, now - (self.last or now)) if running else 0.0)

    def contexts_done(self) -> int | None:
        """Contexts in which as many trials have ended as each of them gets.

        None where that is not known beforehand.
        """
        budget = self.spec.budget.trials_per_context
        if budget is None or not self.spec.even:
            return None
        return sum(
            sum(t.outcome is not None for t in list(trials)) >= budget
            for trials in list(self.by_context.values())
        )

    def unfinished(self) -> list[TrialState]:
        """Trials that were proposed and have not ended."""
        return [t for t in self.trials.values() if t.outcome is None]

    def _apply(self, event: Event) -> None:
        self.started = self.started or event.time
        if event.kind is not EventKind.RESUMED and self.state is SearchState.RUNNING:
            # A clock that was set back must not make the search younger.
            self.active_s += max(0.0, event.time - (self.last or event.time))
        self.last = event.time
        if event.kind is EventKind.PROPOSED:
            self._propose(event)
        elif event.trial is not None:
            self._apply_to_trial(self.trials[event.trial], event)
        else:
            self._apply_to_search(event)

    def _apply_to_search(self, event: Event) -> None:
        data = event.data
        match event.kind:
            case EventKind.PLANNED:
                self.plan = data
                self.state = SearchState.RUNNING
            case EventKind.RESUMED:
                self.state = SearchState.RUNNING
                self.reason = None
                self._none_running()  # whatever ran in an earlier life is gone
                if "spec" in data:
                    self.plan = {**self.plan, "spec": data["spec"]}
                    self._spec = None
            case EventKind.PREPARED:
                self.prepared[data["key"]] = data
            case EventKind.GRACE:
                self.grace = data
            case EventKind.ANSWER:
                self.answer = event
            case EventKind.CONFIRMED:
                self.confirmed[data["student"]] = event
            case EventKind.CLOSED:
                self.state = SearchState(data["state"])
                self.reason = data.get("reason")
                self.early_stopping = data.get("early_stopping")
                self._none_running()

    def _propose(self, event: Event) -> None:
        assert event.trial is not None  # noqa: S101  (the writer's invariant)
        data = event.data
        trial = TrialState(
            event.trial,
            data["context"],
            data["values"],
            data["seed"],
            data["start_design"],
            data.get("until_epoch"),
        )
        self.trials[trial.number] = trial
        self.by_context.setdefault(trial.context, []).append(trial)

    def _apply_to_trial(self, trial: TrialState, event: Event) -> None:
        data = event.data
        match event.kind:
            case EventKind.STARTED:
                trial.running = True
                trial.started = trial.started or event.time
            case EventKind.REPORTED:
                trial.last = data["metrics"]
                score = data["metrics"].get(self.spec.objective)
                if score is not None:
                    trial.scores[data["epoch"]] = score
            case EventKind.CHECKPOINTED:
                trial.checkpoint = data["epoch"]
            case EventKind.RETRIED:
                trial.running = False
                trial.retries[data["cause"]] += 1
            case EventKind.RUNG:
                trial.rungs[data["epoch"]] = (data["score"], data["stop"])
            case EventKind.ENDED:
                trial.running = False
                trial.ended = event.time
                trial.outcome = Outcome(data["outcome"])
                trial.reason = data["reason"]

    def _none_running(self) -> None:
        for trial in self.trials.values():
            trial.running = False
