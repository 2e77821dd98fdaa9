"""A search's events as MLflow runs: found by their tags before they are created.

Whatever the mirror does can be done again: runs carry the identity of what they record, metrics
the journal's own times. A delivery that was cut off, or made twice, leaves each fact once.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from analysis.confirmation import confirmed_points
from analysis.curve import curve_points
from analysis.recorded import TRIALS_ENDED
from analysis.secrets import redacted
from search.errors import KdcurveError
from search.journal import Event, EventKind
from search.runs import (
    Run,
    ms,
    parent_params,
    parent_tags,
    shared_run,
    student_run,
    trial_run,
)
from search.space import SearchSpec
from trainables import record
from trainables.record import Kind, Outcome, SearchState

ITEMS_PER_REQUEST = 900
"""MLflow takes 1000 metrics, parameters and tags in one `log_batch`."""
_PAGE_RUNS = 1000
_REFUSALS = 3
"""How often MLflow may refuse a run before it is left out."""
_PARENT = str(Kind.SEARCH)
"""Identity of the parent run; a trial's is its number, of what is shared or confirmed its key."""
_STATUS = {
    SearchState.COMPLETE: "FINISHED",
    SearchState.INTERRUPTED: "KILLED",
    SearchState.FAILED: "FAILED",
}


@dataclass
class _There:
    """A run as MLflow has it."""

    run_id: str
    status: str = "RUNNING"
    whole: bool = False
    """Whether all of it was sent."""


class RefusedError(KdcurveError):
    """MLflow has something of this name that is not this search's."""


class RefusedRunError(KdcurveError):
    """MLflow refused one run, which will be tried again; the others arrived."""


class Mirror:
    """Brings MLflow in line with a search's events.

    Args:
        spec: the search, as last extended.
        client: of the MLflow that mirrors it.
        artifact_root: where a new experiment keeps artifacts; None leaves it to the server.
        answers: folder of the answers' files, uploaded whenever there is an answer.
        proceed: called before a run is sent; what it raises cuts the delivery off.
        cache: where scores are, which are uploaded; they are not if None.
    """

    def __init__(
        self,
        spec: SearchSpec,
        client: MlflowClient,
        artifact_root: str | None,
        answers: Path,
        proceed: Callable[[], None] = lambda: None,
        cache: Path | None = None,
    ) -> None:
        self._spec = spec
        self._client = client
        self._artifact_root = artifact_root
        self._answers = answers
        self._cache = cache
        self._proceed = proceed
        self._contexts = {context.key: context for context in spec.context_list}
        self._planned: Event | None = None
        self._turn: Event | None = None
        """The newest event that changed the search's state, until it is delivered."""
        self._points: list[Metric] = []
        """Progress and answers, metrics of the parent run."""
        self._ended: Counter[Outcome] = Counter()
        self._runs: dict[str, Run] = {}
        """What is not wholly delivered, by identity."""
        self._there: dict[str, _There] = {}
        """What MLflow has of it, by identity."""
        self._looked = False
        """Whether it is known which runs MLflow has."""
        self._may_be_twice = False
        """Whether a run was created by a request that seemed lost, perhaps."""
        self._new_answer = False
        self._spec_sent = False
        self._experiment_id = ""
        self._tries: Counter[str] = Counter()
        self._refusal: RefusedRunError | None = None
        self.delivered = 0
        """Trials that MLflow has from start to end."""
        self.refused: dict[str, str] = {}
        """Runs that MLflow does not take, by name, and why."""

    def take(self, event: Event) -> None:
        """Work one event into what is to be sent."""
        match event.kind:
            case EventKind.PLANNED | EventKind.RESUMED | EventKind.CLOSED:
                self._turn = event
                self._planned = self._planned or event
                for run in self._runs.values():
                    run.running = False  # whatever ran in an earlier life is gone
            case EventKind.PREPARED:
                if (shared := shared_run(self._spec, event, self._cache)) is not None:
                    self._runs[shared.name] = shared
            case EventKind.ANSWER:
                self._new_answer = True
                curve = curve_points(event.data["curve"], self._spec.tuned)
                self._points += [
                    Metric(name, weight, ms(event.time), step) for name, weight, step in curve
                ]
                gains = confirmed_points(event.data["curve"], self._spec.tuned)
                self._points += [
                    Metric(name, gain, ms(event.time), step) for name, gain, step in gains
                ]
            case EventKind.CONFIRMED:
                context = self._contexts[event.data["context"]]
                student = student_run(self._spec, context, event)
                self._runs[student.tags[record.TAG_STUDENT]] = student
            case EventKind.PROPOSED:
                context = self._contexts[event.data["context"]]
                self._runs[str(event.trial)] = trial_run(self._spec, context, event)
            case EventKind.ENDED:
                self._count(event)
        if (trial := self._runs.get(str(event.trial))) is not None:
            trial.take(event)

    def _count(self, event: Event) -> None:
        outcome, at = Outcome(event.data["outcome"]), ms(event.time)
        self._ended[outcome] += 1
        ended = self._ended.total()
        self._points += [
            Metric(TRIALS_ENDED, ended, at, ended),
            Metric(f"trials_{outcome}", self._ended[outcome], at, ended),
        ]

    def send(self, *, caught_up: bool) -> None:
        """Send all that waits; it can be called again, whatever it raised.

        Args:
            caught_up: no more events are known, so that the search stands as they say.

        Raises:
            RefusedError: the experiment of this name is not this search's.
            RefusedRunError: MLflow refused one run; it will be left out if it goes on like that.
            Exception: whatever MLflow raises.
        """
        if self._planned is None:
            return
        self._refusal = None
        if not self._looked:
            self._look(self._planned)
        for identity, run in list(self._runs.items()):
            if not run.start_time:
                continue
            self._proceed()
            with self._refusable(run.name):
                self._send(identity, run, caught_up)
            if run.name in self.refused:
                self._runs.pop(identity, None)
        closed = self._turn is not None and self._turn.kind is EventKind.CLOSED
        if caught_up and closed and self._may_be_twice:
            self._look(self._planned)
            self._may_be_twice = False
        with self._refusable(self._spec.name):
            self._send_parent(caught_up)
        if self._spec.name in self.refused:
            self._points.clear()
            self._turn = None
        if self._refusal is not None:
            raise self._refusal

    @contextmanager
    def _refusable(self, name: str) -> Iterator[None]:
        """Let the others go on when MLflow refuses what concerns one run only."""
        try:
            yield
            del self._tries[name]
        except Exception as error:
            if not _concerns_one_run(error):
                raise
            # Before it is tried again: is the experiment still there, and the parent run?
            self._looked = False
            self._tries[name] += 1
            why = redacted((str(error).splitlines() or [type(error).__name__])[0])
            if self._tries[name] < _REFUSALS:
                self._refusal = RefusedRunError(f"{name}: {why}")
            else:
                self.refused[name] = why

    def _look(self, planned: Event) -> None:
        """Find or create the experiment, the parent run and the runs already there."""
        name, identity = self._spec.name, identity_of(planned)
        experiment = self._client.get_experiment_by_name(name)
        require_ours(name, experiment, identity)
        if experiment is not None:
            self._experiment_id = experiment.experiment_id
        else:
            root = self._artifact_root
            self._experiment_id = self._client.create_experiment(
                name,
                artifact_location=f"{root}/{name}" if root else None,
                tags={
                    record.TAG_SCHEMA: str(record.SCHEMA_VERSION),
                    record.TAG_SEARCH: name,
                    record.TAG_PLANNED: identity,
                },
            )
        before = {there.run_id for there in self._there.values()}
        found: dict[str, list[_There]] = {}
        for run in self._all_runs():
            if (which := _identity(run.data.tags)) is not None:
                there = _There(run.info.run_id, run.info.status, _is_whole(run))
                found.setdefault(which, []).append(there)
        for which, same in found.items():
            # Two of one identity: the request that created one of them seemed lost.
            same.sort(key=lambda there: (there.run_id not in before, not there.whole, there.run_id))
            self._there[which], *others = same
            for other in others:
                self._client.delete_run(other.run_id)
        if _PARENT not in found:  # not made yet, or deleted by a user
            tags = {
                record.TAG_KIND: Kind.SEARCH,
                record.TAG_SEARCH: name,
                record.TAG_STATE: SearchState.RUNNING,
            }
            self._create(_PARENT, name, ms(planned.time), tags)
        self._client.log_batch(
            self._there[_PARENT].run_id,
            params=parent_params(self._spec),
            tags=parent_tags(self._spec, planned),
        )
        self._looked = True

    def _all_runs(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], max_results=_PAGE_RUNS, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, identity: str, name: str, start_time: int, tags: dict[str, str]) -> _There:
        try:
            run = self._client.create_run(
                self._experiment_id, start_time=start_time, run_name=name, tags=tags
            )
        except Exception:
            # MLflow may have made it all the same, or do so yet: look before the next try, and
            # again at the end.
            self._looked, self._may_be_twice = False, True
            raise
        there = self._there[identity] = _There(run.info.run_id)
        return there

    def _send(self, identity: str, run: Run, caught_up: bool) -> None:
        """Send what waits for one run; what has arrived is not sent again."""
        there = self._there.get(identity)
        if there is None:
            tags = {**run.tags, MLFLOW_PARENT_RUN_ID: self._there[_PARENT].run_id}
            there = self._create(identity, run.name, run.start_time, tags)
        if there.whole:
            run.metrics.clear()
        else:
            self._send_data(there, run)
        if run.end is not None:
            if record.TAG_TRIAL in run.tags:
                self.delivered += 1
            del self._runs[identity]
        elif caught_up and not there.whole:
            status = "RUNNING" if run.running else "KILLED"
            if there.status != status:
                # Without an end time: whoever resumes the search goes on with it.
                self._client.update_run(there.run_id, status)
                there.status = status

    def _send_data(self, there: _There, run: Run) -> None:
        tags = []
        if run.params:  # the first batch, which also names the runs of what a trial uses
            used = [key for key in run.needs if key in self._there]
            tags = [RunTag(run.needs[key], self._there[key].run_id) for key in used]
        while True:
            batch = run.metrics[:ITEMS_PER_REQUEST]
            last = len(batch) == len(run.metrics)
            if last:
                tags += run.end_tags
            self._client.log_batch(there.run_id, batch, run.params, tags)
            run.params, tags = [], []
            del run.metrics[: len(batch)]
            if last:
                break
        if run.file is not None and run.file.is_file():
            self._client.log_artifact(there.run_id, str(run.file))
        if run.end is not None:
            self._client.set_terminated(there.run_id, *run.end)
            there.whole = True

    def _send_parent(self, caught_up: bool) -> None:
        """Progress, answers and state, after the trials that they speak of."""
        run_id = self._there[_PARENT].run_id
        while self._points:
            batch = self._points[:ITEMS_PER_REQUEST]
            self._client.log_batch(run_id, metrics=batch)
            del self._points[: len(batch)]
        if not caught_up:
            return
        if self._turn is not None:
            self._send_turn(run_id, self._turn)
            self._turn = None
        # Files last: they have a store of their own, which may fail on its own.
        if not self._spec_sent:
            plain = self._spec.model_dump(mode="json", exclude_none=True)
            self._client.log_dict(run_id, plain, "search.json")
            self._spec_sent = True
        if self._new_answer and self._answers.is_dir():
            self._client.log_artifacts(run_id, str(self._answers))
        self._new_answer = False

    def _send_turn(self, run_id: str, event: Event) -> None:
        closed = event.kind is EventKind.CLOSED
        state = SearchState(event.data["state"]) if closed else SearchState.RUNNING
        tags = {
            record.TAG_STATE: state,
            record.TAG_REASON: event.data.get("reason"),
            record.TAG_EARLY_STOPPING: event.data.get("early_stopping"),
        }
        self._client.log_batch(
            run_id, tags=[RunTag(key, str(value)) for key, value in tags.items() if value]
        )
        if closed:
            self._client.set_terminated(run_id, _STATUS[state], ms(event.time))
        else:
            self._client.update_run(run_id, "RUNNING")


def require_ours(name: str, experiment: Any, identity: str | None) -> None:
    """Refuse an experiment that another wrote.

    Args:
        name: of the search.
        experiment: MLflow's experiment of that name, or None.
        identity: when the search was planned, in milliseconds; None if it is new.

    Raises:
        RefusedError: it is not this search's, or deleted.
    """
    if experiment is None:
        return
    place = "choose another name with --name"
    if record.TAG_SEARCH not in experiment.tags:
        raise RefusedError(f"MLflow has an experiment {name!r} that kdcurve did not write; {place}")
    if experiment.lifecycle_stage != "active":
        raise RefusedError(f"MLflow's experiment {name!r} is deleted; restore it, or {place}")
    theirs = experiment.tags.get(record.TAG_PLANNED, identity)
    if identity is None or theirs != identity:
        # Its runs would be taken for this search's.
        raise RefusedError(f"MLflow has a search {name!r} of another record; {place}")


def identity_of(planned: Event) -> str:
    """What tells a search from another of its name: when it was planned, in milliseconds."""
    return str(ms(planned.time))


def status_of(error: BaseException) -> int:
    """The HTTP status that stands for an error; 503 for what no server said."""
    if (get := getattr(error, "get_http_status_code", None)) is not None:
        return int(get())
    response = getattr(error, "response", None)  # an upload's error comes from requests itself
    return 503 if response is None else int(response.status_code)


def _concerns_one_run(error: Exception) -> bool:
    return isinstance(error, TypeError) or status_of(error) in {400, 404}


def _identity(tags: dict[str, str]) -> str | None:
    if tags.get(record.TAG_KIND) == Kind.SEARCH:
        return _PARENT
    named = (record.TAG_TRIAL, record.TAG_ARTIFACT, record.TAG_STUDENT)
    return next((tags[name] for name in named if name in tags), None)


def _is_whole(run: Any) -> bool:
    return record.TAG_OUTCOME in run.data.tags and run.info.status in {"FINISHED", "FAILED"}
