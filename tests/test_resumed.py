"""Searches that are interrupted, fail in part or are extended, and what is left of them."""

import os
import signal
import subprocess
import time
from collections import Counter

import pytest

from search.journal import EventKind, Journal
from search.ledger import Ledger
from tests.conftest import DIGITS, KDCURVE, RIDGE, kdcurve
from tests.recorded import answers, runs_of
from trainables import record


def interrupt(folder, arguments, ended_before, send, number):
    """Start a command, send it a signal once a few more trials have ended."""
    journal = f"sqlite:///{folder / 'kdcurve-data' / 'record.db'}"
    running = subprocess.Popen(
        [KDCURVE, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    ended = ended_before
    while ended < ended_before + 2:
        assert time.monotonic() < deadline, "the search got nowhere"
        assert running.poll() is None, running.communicate()
        time.sleep(0.2)
        if (folder / "kdcurve-data" / "record.db").exists():
            events = Journal(journal).events("interrupted")
            ended = sum(event.kind is EventKind.ENDED for event in events)
    second = kdcurve(folder, "resume", "interrupted") if ended_before else None
    send(running.pid, number)
    output, errors = running.communicate(timeout=120)
    assert running.returncode == 1, output + errors
    assert "stopping" in output
    assert "kdcurve resume interrupted" in errors
    return Ledger(Journal(journal), "interrupted"), second


@pytest.mark.slow
@pytest.mark.faults
def test_interrupted_then_resumed_has_each_trial_once(tmp_path):
    """Ctrl-C and SIGTERM end cleanly and say how to go on; resuming completes the same plan.

    A terminal sends Ctrl-C to the whole process group, Ray's processes among it; SIGTERM goes
    to the command alone.
    """
    (tmp_path / "search.yaml").write_text(DIGITS)
    first, _ = interrupt(tmp_path, ["search", "search.yaml"], 0, os.killpg, signal.SIGINT)
    before = {n: t.scores for n, t in first.trials.items() if t.outcome is not None}
    assert 2 <= len(before) < 32
    assert first.state == "interrupted"
    again = ["resume", "interrupted"]
    then, refused = interrupt(tmp_path, again, len(before), os.kill, signal.SIGTERM)
    assert then.state == "interrupted"
    assert refused.code == 1
    assert "is held by process" in refused.errors

    resumed = kdcurve(tmp_path, "resume", "interrupted")
    assert resumed.code == 0, resumed.output + resumed.errors
    ledger = Ledger(Journal(f"sqlite:///{resumed.home / 'record.db'}"), "interrupted")
    assert sorted(ledger.trials) == list(range(32))
    assert {str(trial.outcome) for trial in ledger.trials.values()} <= {"complete", "stopped_early"}
    assert {n: ledger.trials[n].scores for n in before} == before, "what had ended was kept"
    _, parents, trials = runs_of(resumed, "interrupted")
    numbers = Counter(run.data.tags[record.TAG_TRIAL] for run in trials)
    assert set(numbers.values()) == {1}
    assert len(numbers) == 32
    assert "RUNNING" not in {run.info.status for run in trials + parents}


@pytest.mark.faults
def test_a_trial_that_diverges_fails_alone_and_is_shown(tmp_path):
    """A learning rate that explodes for networks: failed with the reason, never accuracy 0."""
    (tmp_path / "diverging.yaml").write_text(
        DIGITS.replace("lr: 0.05", "lr: 1.0e+30").replace("interrupted", "diverging")
    )
    finished = kdcurve(tmp_path, "search", "diverging.yaml")
    assert finished.code == 1
    assert "not finite" in finished.errors


@pytest.mark.slow
def test_a_complete_search_can_be_extended_by_contexts_and_budget(tmp_path):
    """`resume --file`: what was run stays as it was, what is new is run and answered."""
    small = RIDGE.replace("[0.1, 0.3, 0.5, 0.9]", "[0.3]").replace("context: 12", "context: 6")
    (tmp_path / "small.yaml").write_text(small)
    first = kdcurve(tmp_path, "search", "small.yaml")
    assert first.code == 0, first.output + first.errors
    journal = Journal(f"sqlite:///{first.home / 'record.db'}", create=False)
    before = list(journal.events("exact"))

    (tmp_path / "other.yaml").write_text(small.replace("epochs: 9", "epochs: 8"))
    refused = kdcurve(tmp_path, "resume", "exact", "--file", "other.yaml")
    assert refused.code == 2
    assert "recipe" in refused.errors
    assert "would not be comparable" in refused.errors
    assert list(journal.events("exact")) == before

    large = small.replace("[0.3]", "[0.3, 0.9]").replace("context: 6", "context: 8")
    (tmp_path / "large.yaml").write_text(large)
    extended = kdcurve(tmp_path, "resume", "exact", "--file", "large.yaml")
    assert extended.code == 0, extended.output + extended.errors
    assert list(journal.events("exact"))[: len(before)] == before
    ledger = Ledger(journal, "exact")
    assert {len(trials) for trials in ledger.by_context.values()} == {8}
    assert len(ledger.by_context) == 2
    rows = answers(extended, "exact")
    assert [row["fraction"] for row in rows] == [0.3, 0.9]
    _, parents, trials = runs_of(extended, "exact")
    assert (len(parents), len(trials)) == (1, 16)
    assert parents[0].data.tags["kdcurve.plan.trials"] == "16"
