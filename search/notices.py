"""Notices that a machine will be taken away, passed on to Ray: its trials then checkpoint first."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import requests

from search.errors import KdcurveError

AWS = "http://169.254.169.254"
POLL_S = 5.0
"""AWS gives two minutes' notice."""
TERMINATION_S = 30.0
"""What a SIGTERM is taken to leave."""
_TOKEN_S = 6 * 3600
_ANSWER_S = 2.0

Drain = Callable[[str, float], None]
"""(why, seconds that are left) -> Ray gives this machine no more work."""


class Metadata:
    """A machine's metadata service, as AWS has it (version 2, with a token).

    Args:
        address: of the service.
    """

    def __init__(self, address: str = AWS) -> None:
        self._address = address
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy knows it
        self._renew_at = 0.0

    def left_s(self) -> float | None:
        """Seconds until the machine is taken away; None: nobody said so.

        Raises:
            requests.RequestException: the service does not answer.
        """
        if time.monotonic() >= self._renew_at:
            answer = self._http.put(
                f"{self._address}/latest/api/token",
                headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_S)},
                timeout=_ANSWER_S,
            )
            answer.raise_for_status()
            self._http.headers["X-aws-ec2-metadata-token"] = answer.text
            self._renew_at = time.monotonic() + _TOKEN_S / 2
        answer = self._http.get(
            f"{self._address}/latest/meta-data/spot/instance-action", timeout=_ANSWER_S
        )
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        at = datetime.fromisoformat(answer.json()["time"])
        return max(0.0, at.timestamp() - time.time())


def watch(
    metadata: Metadata,
    drain: Drain,
    terminated: threading.Event,
    say: Callable[[str], None],
    poll_s: float = POLL_S,
) -> None:
    """Wait for a notice, and drain the machine when one comes.

    Args:
        metadata: is asked now and then.
        drain: tells Ray.
        terminated: set when this process is asked to end, which is a notice too.
        say: takes note of a line.
        poll_s: seconds between two questions.
    """
    answers = True
    while not terminated.is_set():
        try:
            left_s, answers = metadata.left_s(), True
        except requests.RequestException as error:
            left_s = None
            if answers:
                say(f"no answer from the metadata service, asking on: {error}")
            answers = False
        if left_s is not None:
            drain("spot notice", left_s)
            return
        terminated.wait(poll_s)
    drain("SIGTERM", TERMINATION_S)


def drain_node(why: str, left_s: float, address: str = "auto", node: str | None = None) -> None:
    """Let Ray give a machine no more work, and know why its processes die.

    Args:
        why: in words.
        left_s: seconds that are left.
        address: of the Ray cluster.
        node: Ray's id of the machine; None for this one.

    Raises:
        KdcurveError: Ray does not do it.
    """
    ray = shutil.which("ray", path=str(Path(sys.executable).parent)) or "ray"
    command = [
        *(ray, "drain-node", "--address", address, "--reason", "DRAIN_NODE_REASON_PREEMPTION"),
        *("--reason-message", why, "--deadline-remaining-seconds", str(round(left_s))),
        *(["--node-id", node] if node else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise KdcurveError(f"Ray does not drain this machine: {done.stderr.strip()[-500:]}")
