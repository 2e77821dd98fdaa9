"""A disk that fills up under a search: told before, stopped in time, gone on with after."""

import os
import shutil
import subprocess
import time

import pytest

from tests.conftest import KDCURVE, Finished, kdcurve
from tests.faults.searches import assert_nothing_lost, events_of, prepare

pytestmark = [pytest.mark.faults, pytest.mark.slow]
SIZE = 128 * 2**20


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def run_until_full(folder, verb, left_bytes):
    """Run or resume, and leave so much space once two more trials have ended."""
    home = folder / "kdcurve-data"
    ended = sum(e.kind == "ended" for e in events_of(home)) if verb[0] == "resume" else 0
    running = subprocess.Popen(
        [KDCURVE, *verb],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while True:
        assert time.monotonic() < deadline, "the search got nowhere"
        assert running.poll() is None, running.communicate()
        time.sleep(0.3)
        if home.joinpath("record.db").exists():
            try:
                now = sum(e.kind == "ended" for e in events_of(home))
            except Exception:  # noqa: BLE001  (the tables are to be made yet)
                continue
            if now >= ended + 2:
                break
    filler = folder / "filler"
    free = shutil.disk_usage(folder).free
    with filler.open("wb") as file:
        written = 0
        while written < free - left_bytes:
            try:
                written += file.write(bytes(min(2**16, free - left_bytes - written)))
                file.flush()
            except OSError:
                break
    output, errors = running.communicate(timeout=300)
    filler.unlink()
    return Finished(folder, output, errors, running.returncode)


def test_a_full_disk_costs_nothing_that_was_recorded(small_disk):
    prepare(
        small_disk,
        "resources: {concurrent: 2}\ncheckpoint_every_s: 1\n",
        epochs=4,
        trials=14,
    )
    stopped = run_until_full(small_disk, ["search", "faulty.yaml"], SIZE // 100)
    assert stopped.code == 1, stopped.output + stopped.errors
    assert "MiB are left on the disk of" in stopped.output
    assert "make space, then resume" in stopped.output
    assert stopped.errors.endswith("kdcurve resume faulty\n")
    home = small_disk / "kdcurve-data"
    broken = run_until_full(small_disk, ["resume", "faulty"], 0)
    assert broken.code == 1, broken.output + broken.errors
    said = broken.output + broken.errors
    assert "No space left on device" in said or "make space, then resume" in said
    again = kdcurve(small_disk, "resume", "faulty")
    assert again.code == 0, again.output + again.errors
    ledger = assert_nothing_lost(home, trials=14)
    assert {str(trial.outcome) for trial in ledger.trials.values()} == {"complete"}
