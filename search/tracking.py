"""Delivery of the record to MLflow: a thread that follows the journal.

The search never waits for MLflow. Runs are found by tags before they are created, and
metrics carry the journal's own times, so that delivering twice changes nothing.
"""

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import tenacity
from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from analysis.runs import require_server, without_password
from search.errors import KdcurveError
from search.journal import Event, EventKind, Journal
from search.places import Places
from search.space import Context, SearchSpec
from trainables import record
from trainables.record import Kind, Outcome, SearchState

logger = logging.getLogger(__name__)

POLL_S = 1.0
LAST_TRIES = 4
"""Failures in a row that end the delivery once the search has ended."""
METRICS_PER_REQUEST = 1000
"""MLflow's own limit for `log_batch`."""

_TRIAL_STATUS = {
    Outcome.COMPLETE: "FINISHED",
    Outcome.STOPPED_EARLY: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.TIMEOUT: "FAILED",
}
_SEARCH_STATUS = {
    SearchState.COMPLETE: "FINISHED",
    SearchState.INTERRUPTED: "KILLED",
    SearchState.FAILED: "FAILED",
}


@dataclass
class _Run:
    """One trial's run and what waits to be sent to it."""

    tags: dict[str, str]
    """Tags it is created with."""
    params: list[Param]
    run_id: str | None = None
    start_time: int = 0
    metrics: list[Metric] = field(default_factory=list)
    end_tags: list[RunTag] = field(default_factory=list)
    end: tuple[str, int] | None = None


def _connect(tracking_uri: str) -> MlflowClient:
    try:
        return MlflowClient(tracking_uri)
    except Exception as error:
        shown = without_password(tracking_uri)
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0]
        cause = cause.replace(tracking_uri, shown)[:200]
        raise KdcurveError(f"the tracking URI {shown} cannot be used: {cause}") from error


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


class Delivery(threading.Thread):
    """Carries a search's events to MLflow until it is told to finish.

    Args:
        journal: where the events are.
        spec: the search.
        places: where MLflow is.
    """

    def __init__(self, journal: Journal, spec: SearchSpec, places: Places) -> None:
        super().__init__(name="kdcurve-mlflow", daemon=True)
        self._journal = journal
        self._spec = spec
        self._places = places
        self._client = _connect(places.tracking_uri)
        self._contexts = {context.key: context for context in spec.context_list}
        self._cursor = 0
        self._planned: Event | None = None
        self._closed: Event | None = None
        self._runs: dict[int, _Run] = {}
        self._experiment_id = ""
        self._opened = False
        """Whether it is known which runs MLflow has."""
        self.parent_run_id = ""
        self._finishing = threading.Event()
        self.failure: Exception | None = None

    def check(self) -> None:
        """Make sure that MLflow answers and that its experiment is ours.

        Raises:
            KdcurveError: it does not answer, or another's experiment has the name.
        """
        try:
            require_server(self._places.tracking_uri)  # MLflow itself would retry for minutes
            experiment = self._client.get_experiment_by_name(self._spec.name)
        except Exception as error:
            cause = str(error).splitlines()[0][:200]
            raise KdcurveError(
                f"the tracking URI {without_password(self._places.tracking_uri)} "
                f"does not answer: {cause}"
            ) from error
        if experiment is None:
            return
        name, place = self._spec.name, "choose another name with --name"
        if record.TAG_SEARCH not in experiment.tags:
            raise KdcurveError(
                f"MLflow has an experiment {name!r} that kdcurve did not write; {place}"
            )
        if experiment.lifecycle_stage != "active":
            raise KdcurveError(f"MLflow's experiment {name!r} is deleted; restore it, or {place}")
        if name not in self._journal.searches():
            # Its runs would be taken for this search's.
            raise KdcurveError(f"MLflow has a search {name!r} of another record; {place}")

    def run(self) -> None:
        """Follow the journal (the thread's body)."""
        retrying = tenacity.Retrying(
            wait=tenacity.wait_random_exponential(max=30),
            stop=lambda state: self._finishing.is_set() and state.attempt_number >= LAST_TRIES,
            before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        try:
            while True:
                last_round = self._finishing.is_set()
                retrying(self._deliver)
                if last_round:
                    return
                self._finishing.wait(POLL_S)
        except Exception as error:
            logger.exception("delivery to MLflow ended")
            self.failure = error

    def finish(self, timeout_s: float = 120.0) -> bool:
        """Deliver what is left and stop; whether all arrived within `timeout_s`."""
        self._finishing.set()
        self.join(timeout_s)
        return not self.is_alive() and self.failure is None

    def _deliver(self) -> None:
        """Take in what is new, then send all that waits; safe to repeat after a failure."""
        for event in self._journal.events(self._spec.name, after=self._cursor):
            self._take(event)
            self._cursor = event.id
        if self._planned is None:
            return
        if not self._opened:
            self._open(self._planned)
            self._opened = True
        for number, run in list(self._runs.items()):
            self._send(number, run)
        if self._closed is not None:
            self._close(self._closed)
            self._closed = None

    def _open(self, planned: Event) -> None:
        """Find or create the experiment, the parent run and the runs already there."""
        name = self._spec.name
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            root = self._places.artifact_root()
            self._experiment_id = self._client.create_experiment(
                name,
                artifact_location=f"{root}/{name}" if root else None,
                tags={
                    record.TAG_SCHEMA: str(record.SCHEMA_VERSION),
                    record.TAG_SEARCH: name,
                },
            )
        else:
            self._experiment_id = experiment.experiment_id
        parent = ""
        for run in self._all_runs():
            tags = run.data.tags
            if tags.get(record.TAG_KIND) == Kind.SEARCH:
                parent = run.info.run_id
            elif tags.get(record.TAG_KIND) == Kind.TRIAL:
                self._adopt(int(tags[record.TAG_TRIAL]), run)
        if parent:
            self._client.set_tag(parent, record.TAG_STATE, SearchState.RUNNING)
            self._client.update_run(parent, status="RUNNING")
        self.parent_run_id = parent or self._create_parent(planned)
        self._describe_parent(planned)

    def _adopt(self, number: int, run: Any) -> None:
        """Go on with a run of an earlier delivery, or leave it alone if it is whole."""
        if record.TAG_OUTCOME in run.data.tags and run.info.status != "RUNNING":
            self._runs.pop(number, None)
        elif number in self._runs:
            self._runs[number].run_id = run.info.run_id

    def _all_runs(self) -> Iterable[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], page_token=token)
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
            record.TAG_TUNED: ",".join(spec.tuned),
            record.TAG_KD_WEIGHT_RANGE: f"{spec.tune.kd_weight.low},{spec.tune.kd_weight.high}",
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
        """What the search is; the same each time, so that repeating it changes nothing."""
        spec = self._spec
        self._client.log_dict(self.parent_run_id, planned.data["spec"], "search.json")
        self._client.log_batch(
            self.parent_run_id,
            params=[
                Param("dataset", spec.dataset.name),
                Param("student", spec.student),
                Param("contexts", str(len(spec.context_list))),
                Param("trials", str(spec.trials)),
                Param("sampler", spec.sampler),
                Param("early_stopping", spec.early_stopping.name),
            ],
        )

    def _take(self, event: Event) -> None:
        """Work one event into what is to be sent."""
        number, data = event.trial, event.data
        if event.kind is EventKind.PLANNED:
            self._planned = event
        elif event.kind is EventKind.CLOSED:
            self._closed = event
        elif event.kind is EventKind.RESUMED:
            self._closed = None
        if number is None:
            return
        if event.kind is EventKind.PROPOSED:
            self._runs[number] = self._describe(number, data)
            return
        run = self._runs[number]
        if event.kind is EventKind.STARTED:
            run.start_time = run.start_time or _ms(event.time)
        elif event.kind is EventKind.REPORTED:
            at = _ms(event.time)
            run.metrics += [
                Metric(key, value, at, data["epoch"]) for key, value in data["metrics"].items()
            ]
        elif event.kind is EventKind.ENDED:
            run.end_tags.append(RunTag(record.TAG_OUTCOME, data["outcome"]))
            if data["reason"]:
                run.end_tags.append(RunTag(record.TAG_REASON, data["reason"]))
            run.end = (_TRIAL_STATUS[Outcome(data["outcome"])], _ms(event.time))

    def _describe(self, number: int, proposed: dict[str, Any]) -> _Run:
        context = self._contexts[proposed["context"]]
        tags = {
            record.TAG_KIND: Kind.TRIAL,
            record.TAG_SEARCH: self._spec.name,
            record.TAG_TRIAL: str(number),
            record.TAG_CONTEXT: context.key,
            record.TAG_CONTEXT_LABEL: context.label,
        }
        if proposed["start_design"]:
            tags[record.TAG_START_DESIGN] = "true"
        return _Run(tags, self._params(context, proposed))

    def _params(self, context: Context, proposed: dict[str, Any]) -> list[Param]:
        config = self._spec.trial_config(context, proposed["values"], proposed["seed"])
        values = {
            **config.model_dump(include=set(record.TRIAL_PARAMS), exclude={"dataset"}),
            "dataset": config.dataset.name,
            "label_noise": getattr(config.dataset, "label_noise", 0.0),
            "budget_epochs": self._spec.total_epochs(context),
            "kept_samples": self._spec.kept_samples(context),
        }
        return [Param(key, str(values[key])) for key in record.TRIAL_PARAMS]

    def _send(self, number: int, run: _Run) -> None:
        """Send what waits for one trial; what has arrived is not sent again."""
        if not run.start_time:
            return
        if run.run_id is None:
            # If the answer is lost the run may exist: the next try looks for it first.
            self._opened = False
            run.run_id = self._client.create_run(
                self._experiment_id,
                start_time=run.start_time,
                run_name=f"trial-{number}",
                tags={**run.tags, MLFLOW_PARENT_RUN_ID: self.parent_run_id},
            ).info.run_id
            self._opened = True
        while run.metrics or run.params:
            self._client.log_batch(
                run.run_id, metrics=run.metrics[:METRICS_PER_REQUEST], params=run.params
            )
            run.params = []
            del run.metrics[:METRICS_PER_REQUEST]
        if run.end is not None:
            status, at = run.end
            self._client.log_batch(run.run_id, tags=run.end_tags)
            self._client.set_terminated(run.run_id, status, at)
            del self._runs[number]

    def _close(self, event: Event) -> None:
        state = SearchState(event.data["state"])
        self._client.set_tag(self.parent_run_id, record.TAG_STATE, state)
        self._client.set_terminated(self.parent_run_id, _SEARCH_STATUS[state], _ms(event.time))
