"""Trials whose process is killed, runs out of memory, fails or hangs."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from search.journal import EventKind
from tests.conftest import ROOT, kdcurve
from tests.faults.searches import assert_nothing_lost, events_of, prepare, retries
from trainables.record import Outcome

pytestmark = pytest.mark.faults

RUN = """
import itertools
import search
from search.launch import Silent
from search.recorder import Recorder

report, calls = Recorder.on_trial_result, itertools.count()

def break_off_once(recorder, *arguments, **named):
    report(recorder, *arguments, **named)
    if next(calls) == 12:
        raise RuntimeError("somebody's mistake")

class Told(Silent):
    def say(self, text):
        print(text, flush=True)

Recorder.on_trial_result = break_off_once
result = search.run(search.load_spec("faulty.yaml"), search.Places.at("home"), watcher=Told())
print("ended:", result.state, result.undelivered)
"""
FAULTS = ("killed", "gpu_memory", "memory", "storage", "diverging")
SPARE_BYTES = 5 * 2**30
"""More than a search takes, less than the hog does."""
SILENCE_S = 90
"""Longer than a busy machine takes for an epoch of a second."""


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_whatever_happens_to_trials_and_to_tune_the_search_goes_on(tmp_path):
    """Each fault once, and Tune's loop broken off in between: no trial lost, none twice."""
    more = "resources: {concurrent: 2}\ncheckpoint_every_s: 0\n"
    prepare(tmp_path, more, FAULTS, epochs=5, trials=6)
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "ended: complete None" in done.stdout
    assert done.stdout.count("the search broke off (TuneError: ") == 1
    assert not list((tmp_path / "faults").iterdir()), "all of them happened"
    home = tmp_path / "home"
    ledger = assert_nothing_lost(home, trials=6)
    assert retries(home) == {"died": 2, "gpu_memory": 1, "memory": 1}
    reasons = {t.outcome: t.reason for t in ledger.trials.values()}
    outcomes = Counter(t.outcome for t in ledger.trials.values())
    assert outcomes == {Outcome.COMPLETE: 5, Outcome.FAILED: 1}
    assert "the loss is not finite" in reasons[Outcome.FAILED]
    again = [e for e in events_of(home) if e.kind is EventKind.RETRIED]
    checkpoints = {e.trial for e in events_of(home) if e.kind is EventKind.CHECKPOINTED}
    assert {e.trial for e in again} <= checkpoints, "they had some to go on from"


@pytest.mark.slow
def test_a_trial_that_hangs_ends_as_timeout_and_others_are_undisturbed(tmp_path):
    more = f"faults: {{silence_s: {SILENCE_S}}}\nresources: {{concurrent: 2}}\n"
    prepare(tmp_path, more, ("hung",), epochs=5, trials=5)
    done = kdcurve(tmp_path, "search", "faulty.yaml")
    assert done.code == 0, done.output + done.errors
    ledger = assert_nothing_lost(done.home, trials=5)
    assert retries(done.home) == {}
    outcomes = Counter(t.outcome for t in ledger.trials.values())
    assert outcomes == {Outcome.COMPLETE: 4, Outcome.TIMEOUT: 1}
    (hung,) = [t for t in ledger.trials.values() if t.outcome is Outcome.TIMEOUT]
    assert hung.reason == f"no report for {SILENCE_S} s"
    assert f"trial {hung.number} timeout: {hung.reason}" in done.output


@pytest.mark.slow
def test_a_trial_that_takes_all_memory_is_ended_alone(tmp_path, monkeypatch):
    """By Ray's memory monitor, twice; it is tried once more with more room, and then failed."""
    from ray._private.utils import get_system_memory, get_used_memory

    prepare(
        tmp_path,
        "resources: {concurrent: 1}\ncheckpoint_every_s: 0\n",
        ("hog-1", "hog-2"),
        epochs=4,
        trials=5,
    )
    threshold = (get_used_memory() + SPARE_BYTES) / get_system_memory()
    if threshold > 0.9:
        pytest.skip("too little memory is free here")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{threshold:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    done = kdcurve(tmp_path, "search", "faulty.yaml")
    assert done.code == 0, done.output + done.errors
    assert "broke off" not in done.output
    ledger = assert_nothing_lost(done.home, trials=5)
    failed = [t for t in ledger.trials.values() if t.outcome is Outcome.FAILED]
    again = retries(done.home)
    # Both may hit one trial, or one each: that depends on when there is room for it again.
    assert set(again) == {"memory"}
    assert again["memory"] + len(failed) == 2
    assert all("memory" in trial.reason for trial in failed)
    whole = [t for t in ledger.trials.values() if t.outcome is Outcome.COMPLETE]
    assert len(whole) + len(failed) == 5
