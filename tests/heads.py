"""A Ray head of the tests' own, as `ray up` leaves one: with a dashboard and a token."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.postgres import _free_port

TRIES = 3


@dataclass(frozen=True)
class Head:
    """A running head."""

    address: str
    """Of its dashboard and Jobs API."""
    driver: str
    """For a driver that connects itself."""
    token: Path
    """File with the token that it asks for."""
    home: Path
    """Where its searches live."""

    @property
    def environment(self) -> dict[str, str]:
        """Of a laptop that may use it."""
        return {"RAY_AUTH_TOKEN_PATH": str(self.token)}


@contextlib.contextmanager
def head(folder: Path, python_path: str) -> Iterator[Head]:
    """A head that runs inside the block, bound to the loopback interface.

    Args:
        folder: for its token, its searches and its log.
        python_path: PYTHONPATH of the node.
    """
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    home = folder / "home"
    port, driver = _free_port(), _free_port()
    environment = {name: v for name, v in os.environ.items() if not name.startswith("KDCURVE")}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else the host's address is taken
        "RAY_USAGE_STATS_ENABLED": "0",
        "KDCURVE_HOME": str(home),
        "PYTHONPATH": python_path,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", f"--port={driver}", "--num-cpus=2"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}"),
        f"--dashboard-agent-listen-port={_free_port()}",
        *("--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={2**27}"),
        f"--ray-client-server-port={_free_port()}",
    ]
    # Not under pytest's folders: paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:
        process = _start([*command, f"--temp-dir={short}"], environment, folder / "log")
        try:
            yield Head(f"http://127.0.0.1:{port}", f"127.0.0.1:{driver}", token, home)
        finally:
            _end(process)


def _start(command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start Ray; on a busy machine it may give itself up after 30 s, and is started again."""
    for _ in range(TRIES):
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while process.poll() is None:
            if b"Ray runtime started" in log.read_bytes():
                return process
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Let Ray end what it started; what is left after that is killed."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait()
