"""What MLflow should hold of a recorded search, and what it does."""

from typing import Any

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from search.journal import EventKind, Journal
from search.ledger import Ledger, TrialState
from trainables import record
from trainables.record import Kind, Outcome

STATUS = {
    Outcome.COMPLETE: "FINISHED",
    Outcome.STOPPED_EARLY: "FINISHED",
    Outcome.FAILED: "FAILED",
    Outcome.TIMEOUT: "FAILED",
}

Point = tuple[int, float, int]
"""Step, value, time in milliseconds."""


def add_trial(ledger: Ledger, number: int, outcome: Outcome | None, epochs: int) -> None:
    """Record a trial: its proposal, its epochs and, if it has one, its end."""
    context = ledger.spec.context_list[number % 2]
    ledger.record(
        EventKind.PROPOSED,
        number,
        context=context.key,
        values={"kd_weight": number % 10 / 10},
        seed=number % 2,
        start_design=number == 0,
    )
    ledger.record(EventKind.STARTED, number)
    add_epochs(ledger, number, 1, epochs)
    if outcome is not None:
        end(ledger, number, outcome)


def add_epochs(ledger: Ledger, number: int, first: int, last: int) -> None:
    for epoch in range(first, last + 1):
        metrics = {"epoch": epoch, "val_accuracy": epoch / 100, "seconds": 2.0 * epoch}
        ledger.record(EventKind.REPORTED, number, epoch=epoch, metrics=metrics)


def end(ledger: Ledger, number: int, outcome: Outcome) -> None:
    reason = None if outcome is Outcome.COMPLETE else f"reason {number}"
    ledger.record(EventKind.ENDED, number, outcome=outcome, reason=reason)


def stored(client: MlflowClient, name: str) -> dict[str, Run]:
    """Runs by identity: "search", a trial's number, an artifact's key; fails if one is double."""
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], max_results=10_000)
    found = {_identity(run.data.tags): run for run in runs}
    assert len(found) == len(runs)
    return found


def _identity(tags: dict[str, str]) -> str:
    match tags[record.TAG_KIND]:
        case Kind.SEARCH:
            return "search"
        case Kind.TRIAL:
            return tags[record.TAG_TRIAL]
        case _:
            return tags[record.TAG_ARTIFACT]


def points(client: MlflowClient, run: Run, metric: str = "val_accuracy") -> list[Point]:
    """All values of a metric, by step."""
    history = client.get_metric_history(run.info.run_id, metric)
    return sorted((m.step, m.value, m.timestamp) for m in history)


def snapshot(client: MlflowClient, name: str) -> dict[str, Any]:
    """All that MLflow holds of a search, to compare before and after."""
    return {
        identity: (
            run.info.run_id,
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params,
            run.data.tags,
            {metric: points(client, run, metric) for metric in sorted(run.data.metrics)},
        )
        for identity, run in stored(client, name).items()
    }


def assert_whole(client: MlflowClient, journal: Journal, name: str) -> None:
    """All that is recorded is in MLflow, once, and nothing else."""
    ledger = Ledger(journal, name)
    runs = stored(client, name)
    parent = runs.pop("search")
    taken_up = {str(t.number) for t in ledger.trials.values() if t.started or t.ended}
    made = {key for key in ledger.prepared if key.startswith(("teacher-", "scores-"))}
    assert set(runs) == taken_up | made
    for run in runs.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    for number in taken_up:
        _assert_trial(client, ledger, ledger.trials[int(number)], runs[number])
    assert parent.data.tags[record.TAG_STATE] == ledger.state
    progress = _progress(journal, name)
    for metric in {"trials_ended", *(f"trials_{outcome}" for outcome in Outcome)}:
        assert points(client, parent, metric) == progress.get(metric, [])


def _assert_trial(client: MlflowClient, ledger: Ledger, state: TrialState, run: Run) -> None:
    spec = ledger.spec
    context = next(c for c in spec.context_list if c.key == state.context)
    params = spec.trial_params(context, spec.trial_config(context, state.values, state.seed))
    assert run.data.params == {key: str(value) for key, value in params.items()}
    assert run.data.tags.get(record.TAG_OUTCOME) == state.outcome
    assert run.data.tags.get(record.TAG_REASON) == state.reason
    status = STATUS[state.outcome] if state.outcome else "RUNNING" if state.running else "KILLED"
    assert run.info.status == status
    assert run.info.start_time == _ms(state.started or state.ended)
    assert run.info.end_time == _ms(state.ended)
    expected: dict[str, list[Point]] = {}
    for event in ledger.journal.events(ledger.search):
        if event.kind is EventKind.REPORTED and event.trial == state.number:
            for metric, value in event.data["metrics"].items():
                point = (event.data["epoch"], value, _ms(event.time))
                expected.setdefault(metric, []).append(point)
    assert set(run.data.metrics) == set(expected)
    for metric, values in expected.items():
        assert points(client, run, metric) == values


def _progress(journal: Journal, name: str) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    ended = [e for e in journal.events(name) if e.kind is EventKind.ENDED]
    for number, event in enumerate(ended, start=1):
        at = _ms(event.time)
        found.setdefault("trials_ended", []).append((number, number, at))
        of_outcome = found.setdefault(f"trials_{event.data['outcome']}", [])
        of_outcome.append((number, len(of_outcome) + 1, at))
    return found


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(1000 * seconds)
