"""The machines that the tests of clusters run on keep to themselves, and leave nothing behind."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.machines import HOME, network, unavailable

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

HERE, ONE, TWO = "192.168.1.5", "192.168.1.10", "192.168.1.11"
KEPT = """
import time
from tests.machines import network

with network("192.168.1.5") as switch:
    print(switch.switch_on("one", "192.168.1.10").first, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _root_of_linux():
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)


def answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def test_machines_share_what_they_should_and_nothing_else():
    own = Path(HOME) / "own"
    with network(HERE) as switch:
        one, two = switch.switch_on("one", ONE), switch.switch_on("two", TWO)
        alone = switch.switch_on("alone", "192.168.1.12", shares=False)
        one.run("touch", str(own), "/shared/common", f"{sys.prefix}/installed", "/dev/shm/memory")
        assert (
            two.run("ls", "/shared", HOME, "/dev/shm")
            == f"/dev/shm:\n\n{HOME}:\n\n/shared:\ncommon\n"
        )
        assert "shared" not in alone.run("ls", "/").split()
        assert not (Path(sys.prefix) / "installed").exists()
        assert not own.exists()
        assert "sshd" in two.run("ps", "ax")
        assert len(two.run("ps", "ax").splitlines()) < 10, "no processes of others"
        assert one.run("hostname", "-I").split() == [ONE]
        switch.switch_off(two)
        assert not psutil.pid_exists(two.first)


def test_a_machine_is_unplugged_and_plugged_in_and_never_reached_from_outside():
    with ThreadPoolExecutor() as outside:
        assert not outside.submit(answers, ONE).result()  # this starts its thread
        with network(HERE) as switch:
            one = switch.switch_on("one", ONE)
            assert answers(ONE)
            assert not outside.submit(answers, ONE).result()
            switch.unplug(one)
            assert not answers(ONE)
            switch.plug_in(one)
            assert any(answers(ONE) for _ in range(10))
    assert not answers(ONE)


def test_when_the_process_that_started_them_is_killed_they_are_gone(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KEPT],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = psutil.Process(int(process.stdout.readline()))
    assert first.is_running()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    first.wait(10)
