"""A Ray head of the tests' own, as `ray up` leaves one: with a dashboard and a token."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.postgres import _free_port

START_S = 120.0


@dataclass(frozen=True)
class Head:
    """A running head."""

    address: str
    """Of its dashboard and Jobs API."""
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
    port = _free_port()
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
    # Not under pytest's folders: paths of sockets are short.
    with tempfile.TemporaryDirectory(prefix="ray-") as short, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
                *("--node-ip-address=127.0.0.1", f"--port={_free_port()}", "--num-cpus=2"),
                *("--dashboard-host=127.0.0.1", f"--dashboard-port={port}"),
                f"--dashboard-agent-listen-port={_free_port()}",
                *("--min-worker-port=0", "--max-worker-port=0"),
                f"--ray-client-server-port={_free_port()}",
                *(f"--temp-dir={short}", f"--object-store-memory={2**27}"),
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(f"http://127.0.0.1:{port}/api/version", process, folder / "log")
            yield Head(f"http://127.0.0.1:{port}", token, home)
        finally:
            _end(process)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it asks for the token
        except OSError:
            pass
        else:
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


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
