"""The way to a cluster's dashboard, which listens on the head alone: a tunnel through SSH."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from search.errors import KdcurveError

OPEN_S = 120.0
"""How long a tunnel may take: the cloud is asked for the head's address first."""


@contextlib.contextmanager
def tunnel(cluster: Path) -> Iterator[str]:
    """Open a tunnel to the head of a cluster that `ray up` started; closed afterwards.

    `ray dashboard` opens it, as `ray up` reached the machines: with the file's SSH key and, on
    AWS, the account's credentials.

    Args:
        cluster: the cluster file.

    Yields:
        Address of the Jobs API on this machine.

    Raises:
        KdcurveError: it does not open.
    """
    port = _free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", str(cluster)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(  # noqa: S603  (Ray's own command)
            [*command, "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; ssh ends with it below
        )
        try:
            _wait_until_open(process, port, cluster, output)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(
    process: "subprocess.Popen[bytes]", port: int, cluster: Path, output: "io.TextIOBase"
) -> None:
    deadline = time.monotonic() + OPEN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    output.seek(0)
    said = [line.strip() for line in output.read().splitlines() if line.strip()]
    raise KdcurveError(
        f"no tunnel to the head of {cluster}: {said[-1] if said else 'no answer'}. Is it up "
        f"(ray up {cluster})? `ray dashboard {cluster}` shows more"
    )
