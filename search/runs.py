"""What MLflow is told: a search's events as runs with parameters, tags and metrics."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from search.frame import student_params
from search.journal import Event, EventKind
from search.plan import make_plan
from search.space import Context, SearchSpec
from trainables import record
from trainables.config import ScoresSpec, TeacherSpec, TrialConfig, artifacts
from trainables.record import Kind, Outcome

_STATUS = {
    Outcome.COMPLETE: "FINISHED",
    Outcome.STOPPED_EARLY: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.TIMEOUT: "FAILED",
}
_SHARED = {"teacher": Kind.TEACHER, "scores": Kind.SCORES}
"""Kinds of runs by the first part of a key."""


@dataclass
class Run:
    """A run as it shall be, and what waits to be sent to it."""

    name: str
    tags: dict[str, str]
    """Tags it is created with; they say what it records."""
    params: list[Param]
    needs: dict[str, str] = field(default_factory=dict)
    """Keys of the teacher and the scores that a trial uses, with the tags that name their runs."""
    start_time: int = 0
    """In milliseconds since 1970; 0 before it is taken up, when MLflow need not know of it."""
    running: bool = False
    """Whether a worker is on it."""
    metrics: list[Metric] = field(default_factory=list)
    end_tags: list[RunTag] = field(default_factory=list)
    end: tuple[str, int] | None = None
    """Status and time."""
    file: Path | None = None
    """What is uploaded to it, if it is there."""

    def take(self, event: Event) -> None:
        """Add what an event of the trial says."""
        at, data = ms(event.time), event.data
        match event.kind:
            case EventKind.STARTED:
                self.start_time = self.start_time or at
                self.running = True
            case EventKind.REPORTED:
                self.metrics += [
                    Metric(key, value, at, data["epoch"]) for key, value in data["metrics"].items()
                ]
            case EventKind.ENDED:
                outcome = Outcome(data["outcome"])
                self.start_time = self.start_time or at  # one that never came to start counts too
                self.end = (_STATUS[outcome], at)
                self.end_tags = [RunTag(record.TAG_OUTCOME, outcome)]
                if data["reason"]:
                    self.end_tags.append(RunTag(record.TAG_REASON, data["reason"]))


def ms(seconds: float) -> int:
    """Seconds as MLflow's milliseconds."""
    return round(1000 * seconds)


def trial_run(spec: SearchSpec, context: Context, proposed: Event) -> Run:
    """A trial that was proposed in a context."""
    data = proposed.data
    config = spec.trial_config(context, data["values"], data["seed"])
    tags = {
        record.TAG_KIND: Kind.TRIAL,
        record.TAG_SEARCH: spec.name,
        record.TAG_TRIAL: str(proposed.trial),
        record.TAG_CONTEXT: context.key,
        record.TAG_CONTEXT_LABEL: context.label,
    }
    if data["start_design"]:
        tags[record.TAG_START_DESIGN] = "true"
    params = _params(spec.trial_params(context, config))
    return Run(f"trial-{proposed.trial}", tags, params, _needs(config))


def shared_run(spec: SearchSpec, prepared: Event, cache: Path | None) -> Run | None:
    """A teacher or scores, from start to end; what merely derives from them has no run.

    Scores are uploaded from the cache; a teacher's weights may be large, and stay there.
    """
    data = prepared.data
    key, artifact = data["key"], data.get("artifact", {})
    kind = _SHARED.get(key.partition("-")[0])
    if kind is None:
        return None
    tags = {
        record.TAG_KIND: kind,
        record.TAG_SEARCH: spec.name,
        record.TAG_ARTIFACT: key,
    }
    params = {**artifact, **artifact.get("recipe", {}), "dataset": spec.dataset.name}
    end = ms(prepared.time)
    return Run(
        key,
        tags,
        _params({k: v for k, v in params.items() if k != "recipe" and v is not None}),
        start_time=ms(prepared.time - data.get("seconds", 0.0)),
        metrics=[
            Metric(name, float(value), end, 0)
            for name, value in data["metadata"].items()
            if _is_number(value)
        ],
        end_tags=[RunTag(record.TAG_OUTCOME, Outcome.COMPLETE)],
        end=("FINISHED", end),
        file=cache / f"{key}.safetensors" if cache and kind is Kind.SCORES else None,
    )


def student_run(spec: SearchSpec, context: Context, confirmed: Event) -> Run:
    """A student of a confirmation that ended."""
    data = confirmed.data
    outcome, end = Outcome(data["outcome"]), ms(confirmed.time)
    identity = f"{data['student']}/{data['attempt']}"
    tags = {
        record.TAG_KIND: Kind.CONFIRMATION,
        record.TAG_SEARCH: spec.name,
        record.TAG_STUDENT: identity,
    }
    if data["chosen"]:
        tags[record.TAG_CHOSEN] = ",".join(data["chosen"])
    end_tags = [RunTag(record.TAG_OUTCOME, outcome)]
    if data["reason"]:
        end_tags.append(RunTag(record.TAG_REASON, data["reason"]))
    metrics = data["metrics"]
    return Run(
        f"confirmation-{identity}",
        tags,
        _params(student_params(spec, context, data["config"])),
        _needs(TrialConfig.model_validate(data["config"])),
        start_time=ms(confirmed.time - metrics.get(record.SECONDS, 0.0)),
        metrics=[
            Metric(name, value, end, int(metrics[record.EPOCH])) for name, value in metrics.items()
        ],
        end_tags=end_tags,
        end=(_STATUS[outcome], end),
    )


def _needs(config: TrialConfig) -> dict[str, str]:
    """Keys of the teacher and the scores that a training uses, with the tags of their runs."""
    return {
        each.key: record.TAG_TEACHER_RUN if isinstance(each, TeacherSpec) else record.TAG_SCORES_RUN
        for each in artifacts(config)
        if isinstance(each, TeacherSpec | ScoresSpec)
    }


def parent_params(spec: SearchSpec) -> list[Param]:
    """What no extension of a search may change: parameters are for ever."""
    return _params({"dataset": spec.dataset.name, "student": spec.student})


def parent_tags(spec: SearchSpec, planned: Event) -> list[RunTag]:
    """What a search is, as last extended, and where it was planned."""
    data, plan = planned.data, make_plan(spec)
    tags = {
        record.TAG_OBJECTIVE: spec.objective,
        record.TAG_TUNED: ",".join(spec.tuned),
        record.TAG_KD_WEIGHT_RANGE: f"{spec.tune.kd_weight.low},{spec.tune.kd_weight.high}",
        "kdcurve.plan.contexts": plan.contexts,
        "kdcurve.plan.trials": plan.trials,
        "kdcurve.plan.shared": len(plan.artifacts),
        "kdcurve.plan.trial_samples": plan.trial_samples,
        "kdcurve.plan.shared_samples": plan.artifact_samples,
        "kdcurve.sampler": spec.sampler,
        "kdcurve.early_stopping": spec.early_stopping.name,
        "mlflow.source.git.commit": data.get("git_commit"),
        **{f"kdcurve.version.{name}": value for name, value in data.get("versions", {}).items()},
        **{f"kdcurve.hardware.{name}": value for name, value in data.get("hardware", {}).items()},
    }
    return [RunTag(key, str(value)) for key, value in tags.items() if value is not None]


def _params(values: dict[str, Any]) -> list[Param]:
    return [Param(key, str(value)) for key, value in values.items()]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
