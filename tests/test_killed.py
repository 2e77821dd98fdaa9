"""Searches killed again and again, and what is left of them in the end."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from search.errors import KdcurveError
from search.journal import Event, EventKind, Journal
from tests.conftest import DIGITS, KDCURVE, kdcurve
from tests.faults.searches import assert_nothing_lost
from trainables import record

pytestmark = pytest.mark.faults

KILLS = 20
TRIALS = 64
"""Of the search: enough for it not to be over before it was killed so often."""
SEARCH = (
    DIGITS.replace("interrupted", "killed")
    .replace("context: 8", f"context: {TRIALS // 4}")
    .replace("{concurrent: 2}", "CONCURRENT")
    + "checkpoint_every_s: 0\n"
)


def events_of(home: Path) -> list[Event]:
    """What is recorded; nothing while there is no record, or a file whose table is to be made."""
    try:
        return list(Journal(f"sqlite:///{home / 'record.db'}", create=False).events("killed"))
    except KdcurveError:
        return []


def killed_at_some_moment(folder: Path, moment: random.Random, index: int) -> bool:
    """Run or resume the search and kill its whole process group; whether it was still alive.

    Every fifth is killed while it starts, the others within moments of a trial's start.
    """
    home = folder / "kdcurve-data"
    known = len(events_of(home))
    verb = ("resume", "killed") if known else ("search", "killed.yaml")
    process = subprocess.Popen(
        [KDCURVE, *verb],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    if index % 5 == 4:
        time.sleep(moment.uniform(0.5, 9.0))
    else:
        while process.poll() is None:
            fresh = events_of(home)[known:]
            if any(event.kind is EventKind.STARTED for event in fresh):
                break
            time.sleep(0.05)
        time.sleep(moment.uniform(0.0, 1.2))
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def run_through_kills(folder: Path, concurrent: str, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "killed.yaml").write_text(SEARCH.replace("CONCURRENT", concurrent))
    moment = random.Random(seed)
    kills = sum(killed_at_some_moment(folder, moment, index) for index in range(KILLS))
    assert kills == KILLS, "the search is long enough to be killed so often"
    last = kdcurve(folder, "resume", "killed")
    assert last.code == 0, last.output + last.errors


def facts(events: list[Event]) -> dict[str, object]:
    """What a search found out, without the times at which it did."""
    return {
        "proposals": [(e.trial, e.data) for e in events if e.kind is EventKind.PROPOSED],
        "metrics": {
            (e.trial, e.data["epoch"]): {
                key: value
                for key, value in e.data["metrics"].items()
                if key not in record.MACHINE_METRICS
            }
            for e in events
            if e.kind is EventKind.REPORTED
        },
        "rungs": {(e.trial, e.data["epoch"]): e.data for e in events if e.kind is EventKind.RUNG},
        "outcomes": {e.trial: e.data for e in events if e.kind is EventKind.ENDED},
        "answers": [e.data["curve"] for e in events if e.kind is EventKind.ANSWER][-1],
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_at_a_time_a_search_killed_20_times_equals_the_undisturbed_one(tmp_path):
    """Proposals, metrics, rung decisions, outcomes and answers, bit for bit."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    (undisturbed / "killed.yaml").write_text(SEARCH.replace("CONCURRENT", "{concurrent: 1}"))
    done = kdcurve(undisturbed, "search", "killed.yaml")
    assert done.code == 0, done.output + done.errors
    expected = facts(events_of(undisturbed / "kdcurve-data"))

    home = tmp_path / "disturbed" / "kdcurve-data"
    run_through_kills(home.parent, "{concurrent: 1}", seed=1)
    assert_nothing_lost(home, TRIALS, "killed")
    events = events_of(home)
    found = facts(events)
    for what, value in expected.items():
        assert found[what] == value, what
    assert sum(e.kind is EventKind.CHECKPOINTED for e in events) > 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_four_at_a_time_a_search_killed_20_times_has_each_fact_once(tmp_path):
    home = tmp_path / "disturbed" / "kdcurve-data"
    run_through_kills(home.parent, "{cpu: 0.5, concurrent: 4}", seed=2)
    assert_nothing_lost(home, TRIALS, "killed")
