"""Machines that vanish, and machines that say so first: several nodes on this one."""

import os
import subprocess
import sys

import pytest

from search.journal import EventKind
from tests.conftest import ROOT
from tests.faults.searches import assert_nothing_lost, events_of, prepare, retries
from trainables.record import Outcome

pytestmark = pytest.mark.faults

RUN = """
import signal, subprocess, sys, threading, time
from pathlib import Path
from ray.cluster_utils import Cluster
import search
from search.launch import Silent
from tests.faults.metadata import service

small = {"object_store_memory": 2**27, "node_ip_address": "127.0.0.1"}
cluster = Cluster(True, head_node_args={**small, "num_cpus": 0, "include_dashboard": False})
lost, before, after, _ = [cluster.add_node(**small, num_cpus=1) for _ in range(4)]
cluster.wait_for_nodes()
home = Path("home").absolute()

class Told(Silent):
    def say(self, text):
        print(text, flush=True)

def until(something):
    deadline = time.monotonic() + 400
    while not something():
        assert time.monotonic() < deadline
        time.sleep(0.2)

def busy(node):
    seen = Path("nodes") / node.node_id
    seen.unlink(missing_ok=True)
    until(seen.exists)

def watcher(node, metadata):
    command = [sys.executable, "-P", "-m", "search", "cluster", "watch-node",
               "--metadata", metadata, "--address", cluster.address, "--node-id", node.node_id]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert "watching" in watching.stdout.readline()
    return watching

def checkpointed():
    return {path.parent for path in home.glob("checkpoints/faulty/trial-*/epoch-*")}

def take_away(node, watching, notify, wait_s):
    busy(node)
    known = checkpointed()
    notify()
    assert watching.wait(120) == 0, "Ray was told"
    told = time.monotonic()
    until(lambda: checkpointed() - known)
    time.sleep(max(0, told + wait_s - time.monotonic()))
    cluster.remove_node(node, allow_graceful=False)

aws = service()
state, metadata = aws.__enter__()
of_before, of_after = watcher(before, "http://127.0.0.1:1"), watcher(after, metadata)

def havoc():
    busy(lost)
    cluster.remove_node(lost, allow_graceful=False)
    take_away(before, of_before, lambda: of_before.send_signal(signal.SIGTERM), 0)
    take_away(after, of_after, lambda: state.notice(15), 15)
    print("all done to them", flush=True)

threading.Thread(target=havoc, daemon=True).start()
result = search.run(
    search.load_spec("faulty.yaml"), search.Places.at(home), address=cluster.address,
    look_first=False, watcher=Told(),
)
print("ended:", result.state, result.undelivered)
cluster.shutdown()
"""


@pytest.mark.slow
def test_machines_killed_with_and_without_notice_cost_no_trial(tmp_path):
    """Without notice, after a SIGTERM but before its deadline, and after a spot notice's deadline.

    No checkpoint is due before a notice.
    """
    prepare(tmp_path, "faults: {retries: 0}\ncheckpoint_every_s: 3600\n", epochs=80, trials=6)
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN],
        cwd=tmp_path,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "KDCURVE_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_AUTH_MODE": "disabled",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert "all done to them" in done.stdout
    assert "ended: complete None" in done.stdout
    assert "broke off" not in done.stdout
    home = tmp_path / "home"
    ledger = assert_nothing_lost(home, trials=6)
    assert {t.outcome for t in ledger.trials.values()} == {Outcome.COMPLETE}
    assert set(retries(home)) == {"lost"}, "which counts against none of them"
    events = events_of(home)
    noticed = {e.trial for e in events if e.kind is EventKind.CHECKPOINTED}
    again = {e.trial for e in events if e.kind is EventKind.RETRIED}
    assert len(noticed & again) >= 2, "those that were told went on from a checkpoint"
