"""Searches that faults happen to, and what must be true of their records after every one."""

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mlflow.tracking import MlflowClient

from search.journal import Event, EventKind, Journal
from search.ledger import Ledger
from tests.delivered import assert_whole
from trainables.record import Outcome

SEARCH = """
name: faulty
dataset: {{name: digits, validation: 0.3}}
student: faulty:network
recipe: {{epochs: {epochs}, batch_size: 32, lr: 0.05}}
contexts: {{method: random, fraction: 0.25, teacher: cnn4}}
seeds: {{trials: 2}}
sampler: random
early_stopping: {{name: none}}
budget: {{trials_per_context: {trials}}}
"""
_ONCE = {
    EventKind.PROPOSED: lambda e: e.trial,
    EventKind.REPORTED: lambda e: (e.trial, e.data["epoch"]),
    EventKind.RUNG: lambda e: (e.trial, e.data["epoch"]),
    EventKind.CHECKPOINTED: lambda e: (e.trial, e.data["epoch"]),
    EventKind.ENDED: lambda e: e.trial,
    EventKind.PREPARED: lambda e: e.data["key"],
}
"""What makes events of a kind the same fact."""


def prepare(folder: Path, more: str, faults: Iterable[str] = (), **sizes: int) -> None:
    """Lay out a search in a folder, and the faults that shall happen to it."""
    for name in ("faults", "nodes"):
        (folder / name).mkdir(parents=True)
    for fault in faults:
        (folder / "faults" / fault).touch()
    shutil.copy(Path(__file__).parent / "faulty.py", folder / "faulty.py")
    (folder / "faulty.yaml").write_text(SEARCH.format(**sizes) + more)


def events_of(home: Path, search: str = "faulty") -> list[Event]:
    return list(Journal(f"sqlite:///{home / 'record.db'}", create=False).events(search))


def assert_each_fact_once(events: list[Event], trials: int) -> None:
    """Proposed, reported and ended exactly once, without gaps; with a reason if not complete."""
    assert [e.number for e in events] == list(range(1, len(events) + 1))
    for kind, identity in _ONCE.items():
        counts = Counter(identity(e) for e in events if e.kind is kind)
        assert max(counts.values(), default=1) == 1, (kind, counts.most_common(3))
    assert {e.trial for e in events if e.kind is EventKind.PROPOSED} == set(range(trials))
    ended = {e.trial: e.data for e in events if e.kind is EventKind.ENDED}
    assert set(ended) == set(range(trials))
    assert all(d["reason"] for d in ended.values() if d["outcome"] != Outcome.COMPLETE)
    for number in range(trials):
        epochs = [
            e.data["epoch"] for e in events if e.kind is EventKind.REPORTED and e.trial == number
        ]
        assert epochs == list(range(1, len(epochs) + 1))


def assert_nothing_lost(home: Path, trials: int, search: str = "faulty") -> Ledger:
    """Every fact is recorded once and delivered once; no run is left running.

    Returns:
        What is recorded.
    """
    assert_each_fact_once(events_of(home, search), trials)
    journal = Journal(f"sqlite:///{home / 'record.db'}", create=False)
    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    assert_whole(client, journal, search)
    experiment = client.get_experiment_by_name(search)
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert "RUNNING" not in {run.info.status for run in runs}
    return Ledger(journal, search)


def retries(home: Path) -> Counter[str]:
    """Trials taken up again, by cause."""
    return Counter(e.data["cause"] for e in events_of(home) if e.kind is EventKind.RETRIED)
