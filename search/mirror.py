"""A search's events as MLflow runs: found by their tags before they are created.

Whatever the mirror does can be done again: runs carry the identity of what they record, metrics
the journal's own times. A delivery that was cut off, or made twice, leaves each fact once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from analysis.curve import curve_points
from analysis.secrets import redacted
from search.errors import KdcurveError
from search.journal import Event, EventKind
from search.plan import make_plan
from search.space import SearchSpec
from trainables import record
from trainables.config import Artifact, ScoresSpec, TeacherSpec, artifacts
from trainables.record import Kind, Outcome, SearchState

ITEMS_PER_REQUEST = 900
"""MLflow takes 1000 metrics, parameters and tags in one `log_batch`."""
_PAGE_RUNS = 1000
_REFUSALS = 3
"""How often MLflow may refuse a run before it is left out."""
_TRIAL_STATUS = {
    Outcome.COMPLETE: "FINISHED",
    Outcome.STOPPED_EARLY: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.TIMEOUT: "FAILED",
}
_SEARCH_STATUS = {
    SearchState.RUNNING: "RUNNING",
    SearchState.COMPLETE: "FINISHED",
    SearchState.INTERRUPTED: "KILLED",
    SearchState.FAILED: "FAILED",
}


@dataclass
class _Run:
    """One run and what waits to be sent to it."""

    name: str
    tags: dict[str, str]
    """Tags it is created with."""
    params: list[Param] = field(default_factory=list)
    needs: list[Artifact] = field(default_factory=list)
    """What the trial uses; its runs are linked."""
    run_id: str | None = None
    status: str = "RUNNING"
    """As MLflow knows it."""
    whole: bool = False
    """Whether an earlier delivery sent all of it."""
    refusals: int = 0
    start_time: int = 0
    metrics: list[Metric] = field(default_factory=list)
    end_tags: list[RunTag] = field(default_factory=list)
    end: tuple[str, int] | None = None


class RefusedError(KdcurveError):
    """MLflow has something of this name that is not this search's."""


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


class Mirror:
    """Brings MLflow in line with a search's events.

    Args:
        spec: the search, as last extended.
        client: of the MLflow that mirrors it.
        artifact_root: where a new experiment keeps artifacts; None leaves it to the server.
        answers: folder of the answers' files, uploaded whenever there is an answer.
    """

    def __init__(
        self, spec: SearchSpec, client: MlflowClient, artifact_root: str | None, answers: Path
    ) -> None:
        self._spec = spec
        self._client = client
        self._artifact_root = artifact_root
        self._answers = answers
        self._contexts = {context.key: context for context in spec.context_list}
        self._planned: Event | None = None
        self._state: Event | None = None
        """The newest event that changed the search's state, until it is delivered."""
        self._answer: Event | None = None
        self._ended = dict.fromkeys(Outcome, 0)
        self._progress: list[Metric] = []
        self._runs: dict[str, _Run] = {}
        """What is not wholly delivered, by identity."""
        self._shared: dict[str, str] = {}
        """Run ids of teachers and scores by key."""
        self._found: dict[str, Any] = {}
        """MLflow's runs of this search at the last look, by identity."""
        self._opened = False
        """Whether it is known which runs MLflow has."""
        self._experiment_id = ""
        self.parent_run_id = ""
        self.delivered = 0
        """Trials that MLflow has from start to end."""
        self.refused: dict[str, str] = {}
        """Runs that MLflow does not take, by name, and why."""

    def take(self, event: Event) -> None:
        """Work one event into what is to be sent."""
        number, data = event.trial, event.data
        match event.kind:
            case EventKind.PLANNED:
                self._planned = self._state = event
            case EventKind.RESUMED | EventKind.CLOSED:
                self._state = event
            case EventKind.ANSWER:
                self._answer = event
            case EventKind.PREPARED:
                self._runs[data["key"]] = self._describe_shared(event)
            case EventKind.PROPOSED:
                assert number is not None  # noqa: S101  (the writer's invariant)
                self._runs[str(number)] = self._describe_trial(number, data)
        run = self._runs.get(str(number))
        if run is None:
            return
        match event.kind:
            case EventKind.STARTED:
                run.start_time = run.start_time or _ms(event.time)
            case EventKind.REPORTED:
                at = _ms(event.time)
                run.metrics += [
                    Metric(key, value, at, data["epoch"]) for key, value in data["metrics"].items()
                ]
            case EventKind.ENDED:
                self._end(run, event)

    def _end(self, run: _Run, event: Event) -> None:
        outcome, at = Outcome(event.data["outcome"]), _ms(event.time)
        run.end_tags.append(RunTag(record.TAG_OUTCOME, outcome))
        if event.data["reason"]:
            run.end_tags.append(RunTag(record.TAG_REASON, event.data["reason"]))
        run.end = (_TRIAL_STATUS[outcome], at)
        run.start_time = run.start_time or at  # one that never came to start has a run too
        self._ended[outcome] += 1
        ended = sum(self._ended.values())
        self._progress += [
            Metric("trials_ended", ended, at, ended),
            Metric(f"trials_{outcome}", self._ended[outcome], at, ended),
        ]

    def send(self) -> None:
        """Send all that waits; after a failure it can be called again.

        Raises:
            RefusedError: the experiment of this name is not this search's.
            Exception: whatever MLflow raises.
        """
        if self._planned is None:
            return
        if not self._opened:
            self._open(self._planned)
            self._opened = True
        for identity, run in list(self._runs.items()):
            try:
                self._send(identity, run)
            except Exception as error:
                run.refusals += 1
                # The others need not wait for a run that MLflow does not take.
                if not (self._opened and _concerns_one_run(error)):
                    raise
                if run.refusals >= _REFUSALS:
                    self.refused[run.name] = redacted(str(error).splitlines()[0])
                    del self._runs[identity]
        self._send_parent()

    def _open(self, planned: Event) -> None:
        """Find or create the experiment, the parent run and the runs already there."""
        name = self._spec.name
        identity = str(_ms(planned.time))
        experiment = self._client.get_experiment_by_name(name)
        require_ours(name, experiment, identity)
        if experiment is None:
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
        else:
            self._experiment_id = experiment.experiment_id
        parent = None
        self._found = {}
        for run in self._all_runs():
            tags = run.data.tags
            if tags.get(record.TAG_KIND) == Kind.SEARCH:
                parent = run
            elif (found := tags.get(record.TAG_TRIAL) or tags.get(record.TAG_ARTIFACT)) is not None:
                self._found[found] = run
        self.parent_run_id = parent.info.run_id if parent else self._create_parent(planned)
        self._describe_parent(planned)

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

    def _create_parent(self, planned: Event) -> str:
        spec, data = self._spec, planned.data
        tags = {
            record.TAG_KIND: Kind.SEARCH,
            record.TAG_SEARCH: spec.name,
            record.TAG_OBJECTIVE: spec.objective,
            record.TAG_STATE: SearchState.RUNNING,
            "mlflow.source.git.commit": data.get("git_commit") or "",
            **{f"kdcurve.version.{k}": v for k, v in data.get("versions", {}).items()},
            **{f"kdcurve.hardware.{k}": str(v) for k, v in data.get("hardware", {}).items()},
        }
        run = self._client.create_run(
            self._experiment_id,
            start_time=_ms(planned.time),
            run_name=spec.name,
            tags={k: v for k, v in tags.items() if v},
        )
        return str(run.info.run_id)

    def _describe_parent(self, planned: Event) -> None:
        """What the search is. What an extension may change are tags: parameters are for ever."""
        spec = self._spec
        plan = make_plan(spec)
        tags = {
            record.TAG_TUNED: ",".join(spec.tuned),
            record.TAG_KD_WEIGHT_RANGE: f"{spec.tune.kd_weight.low},{spec.tune.kd_weight.high}",
            "kdcurve.plan.contexts": plan.contexts,
            "kdcurve.plan.trials": plan.trials,
            "kdcurve.plan.shared": len(plan.artifacts),
            "kdcurve.plan.trial_samples": plan.trial_samples,
            "kdcurve.plan.shared_samples": plan.artifact_samples,
            "kdcurve.sampler": spec.sampler,
            "kdcurve.early_stopping": spec.early_stopping.name,
        }
        self._client.log_dict(
            self.parent_run_id, spec.model_dump(mode="json", exclude_none=True), "search.json"
        )
        self._client.log_batch(
            self.parent_run_id,
            params=[Param("dataset", spec.dataset.name), Param("student", spec.student)],
            tags=[RunTag(key, str(value)) for key, value in tags.items()],
        )

    def _describe_trial(self, number: int, proposed: dict[str, Any]) -> _Run:
        context = self._contexts[proposed["context"]]
        config = self._spec.trial_config(context, proposed["values"], proposed["seed"])
        tags = {
            record.TAG_KIND: Kind.TRIAL,
            record.TAG_SEARCH: self._spec.name,
            record.TAG_TRIAL: str(number),
            record.TAG_CONTEXT: context.key,
            record.TAG_CONTEXT_LABEL: context.label,
        }
        if proposed["start_design"]:
            tags[record.TAG_START_DESIGN] = "true"
        needs = [
            artifact
            for artifact in artifacts(config)
            if isinstance(artifact, ScoresSpec) or config.kd_weight > 0
        ]
        params = self._spec.trial_params(context, config)
        return _Run(
            f"trial-{number}",
            tags,
            [Param(key, str(value)) for key, value in params.items()],
            needs,
        )

    def _describe_shared(self, prepared: Event) -> _Run:
        data = prepared.data
        spec = data.get("artifact", {})
        kind = Kind.TEACHER if data["key"].startswith("teacher") else Kind.SCORES
        tags = {
            record.TAG_KIND: kind,
            record.TAG_SEARCH: self._spec.name,
            record.TAG_ARTIFACT: data["key"],
        }
        params = {**spec, **spec.get("recipe", {}), "dataset": self._spec.dataset.name}
        params = {k: v for k, v in params.items() if k != "recipe" and v is not None}
        metrics = {k: v for k, v in data["metadata"].items() if _is_number(v)}
        end = _ms(prepared.time)
        return _Run(
            data["key"],
            tags,
            [Param(key, str(value)) for key, value in params.items()],
            start_time=_ms(prepared.time - data.get("seconds", 0.0)),
            metrics=[Metric(key, float(value), end, 0) for key, value in metrics.items()],
            end_tags=[RunTag(record.TAG_OUTCOME, Outcome.COMPLETE)],
            end=("FINISHED", end),
        )

    def _send(self, identity: str, run: _Run) -> None:
        """Send what waits for one run; what has arrived is not sent again."""
        if not run.start_time:
            return
        if run.run_id is None and (found := self._found.pop(identity, None)) is not None:
            run.run_id, run.status = found.info.run_id, found.info.status
            run.whole = record.TAG_OUTCOME in found.data.tags and run.status != "RUNNING"
        if run.whole:
            run.metrics.clear()
            if run.end is not None:
                self._done(identity, run)
            return
        run_id = run.run_id or self._create(run)
        if run.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
            run.status = "RUNNING"
        while run.metrics or run.params:
            batch = run.metrics[:ITEMS_PER_REQUEST]
            self._client.log_batch(run_id, metrics=batch, params=run.params)
            run.params = []
            del run.metrics[: len(batch)]
        if run.end is not None:
            status, at = run.end
            self._client.log_batch(run_id, tags=run.end_tags)
            self._client.set_terminated(run_id, status, at)
            self._done(identity, run)

    def _create(self, run: _Run) -> str:
        tags = {**run.tags, MLFLOW_PARENT_RUN_ID: self.parent_run_id}
        for artifact in run.needs:
            if artifact.key in self._shared:
                teacher = isinstance(artifact, TeacherSpec)
                link = record.TAG_TEACHER_RUN if teacher else record.TAG_SCORES_RUN
                tags[link] = self._shared[artifact.key]
        # If the answer is lost the run may exist: the next try looks for it first.
        self._opened = False
        created = self._client.create_run(
            self._experiment_id, start_time=run.start_time, run_name=run.name, tags=tags
        )
        self._opened = True
        run.run_id = str(created.info.run_id)
        return run.run_id

    def _done(self, identity: str, run: _Run) -> None:
        assert run.run_id is not None  # noqa: S101  (it was sent)
        if record.TAG_ARTIFACT in run.tags:
            self._shared[identity] = run.run_id
        else:
            self.delivered += 1
        del self._runs[identity]

    def _send_parent(self) -> None:
        """Progress, answers and state, after the trials that they speak of."""
        while self._progress:
            batch = self._progress[:ITEMS_PER_REQUEST]
            self._client.log_batch(self.parent_run_id, metrics=batch)
            del self._progress[: len(batch)]
        if self._answer is not None:
            self._send_answer(self._answer)
            self._answer = None
        if self._state is not None:
            self._send_state(self._state)
            self._state = None

    def _send_answer(self, event: Event) -> None:
        """Files as artifacts of the parent run; the curve as metrics that MLflow's UI plots."""
        if self._answers.is_dir():
            self._client.log_artifacts(self.parent_run_id, str(self._answers))
        at = _ms(event.time)
        points = curve_points(event.data["curve"], self._spec.tuned)
        self._client.log_batch(
            self.parent_run_id,
            metrics=[Metric(name, weight, at, step) for name, weight, step in points],
        )

    def _send_state(self, event: Event) -> None:
        closed = event.kind is EventKind.CLOSED
        state = SearchState(event.data["state"]) if closed else SearchState.RUNNING
        self._client.set_tag(self.parent_run_id, record.TAG_STATE, state)
        if not closed:
            self._client.update_run(self.parent_run_id, status="RUNNING")
            return
        for run in self._runs.values():  # cut off; whoever resumes the search goes on with them
            if run.run_id is not None and run.status == "RUNNING":
                self._client.set_terminated(run.run_id, "KILLED", _ms(event.time))
                run.status = "KILLED"
        self._client.set_terminated(self.parent_run_id, _SEARCH_STATUS[state], _ms(event.time))


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


def status_of(error: BaseException) -> int:
    """The HTTP status that stands for an error; 503 for what is not MLflow's own."""
    get = getattr(error, "get_http_status_code", None)
    return int(get()) if get is not None else 503


def _concerns_one_run(error: Exception) -> bool:
    return status_of(error) in {400, 404}


def _is_number(text: object) -> bool:
    try:
        float(str(text))
    except ValueError:
        return False
    return True
