"""Searches as jobs on a cluster: they outlive the machine that launched them.

A job runs `kdcurve search` or `resume` on the cluster's head. Its id derives from the search's
name, so that the name alone finds it again.
"""

import asyncio
import contextlib
import logging
import os
import re
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from analysis.errors import nearest
from analysis.secrets import redacted
from search.errors import KdcurveError
from search.wheel import pack

PROBE_S = 5.0
"""How long a cluster has to accept a connection."""
STOP_S = 300
"""How long a stopped search has to end cleanly, delivery to MLflow included."""
LOST_S = 60.0
"""How long a connection may be away before following a search is given up."""
_ID = re.compile(r"kdcurve_([a-z0-9-]+)_(\d+)")  # names hold no underscore
_CHATTER = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
Show = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One run of a search on a cluster."""

    id: str
    search: str
    number: int
    """Counts the runs of one search, from 1."""
    status: JobStatus
    exit_code: int | None = None
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return bool(self.status.is_terminal())


class Cluster:
    """The Jobs API of a cluster.

    Args:
        address: of its dashboard, `http://127.0.0.1:8265` through a tunnel.

    Raises:
        KdcurveError: nothing answers there, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        for name in _CHATTER:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._answering(), _own_address():
            parts = urlsplit(address)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname or "", port), PROBE_S).close()
            self._client = JobSubmissionClient(address, headers=_authorisation())

    def jobs(self, search: str | None = None) -> list[Job]:
        """Runs of searches, of one or of all, the oldest first."""
        with self._answering():
            details = self._client.list_jobs()
        found = []
        for each in details:
            match = _ID.fullmatch(each.submission_id or "")
            if match and search in (None, match[1]):
                status = JobStatus(each.status)
                found.append(
                    Job(
                        match[0],
                        match[1],
                        int(match[2]),
                        status,
                        each.driver_exit_code,
                        each.message or "",
                    )
                )
        return sorted(found, key=lambda job: job.number)

    def newest(self, search: str) -> Job:
        """The newest run of a search.

        Raises:
            KdcurveError: there is none.
        """
        jobs = self.jobs(search)
        if not jobs:
            names = {job.search for job in self.jobs()}
            raise KdcurveError(
                f"no search named {search!r} ran on the cluster at {self.address}; "
                f"{nearest(search, names)}"
            )
        return jobs[-1]

    def submit(
        self,
        search: str,
        arguments: Sequence[str],
        files: Path,
        places: Mapping[str, str],
    ) -> Job:
        """Run a command of kdcurve on the head.

        Args:
            search: its name.
            arguments: of the command.
            files: folder to send along; the command runs in it, and every worker finds modules
                there. What its `.gitignore` and `.rayignore` name stays here.
            places: environment variables that say where things live on the cluster; everybody
                there can read them (see `bundle.require_no_secrets`).

        Raises:
            KdcurveError: the search runs already, or the cluster does not take the job.
        """
        before = self.jobs(search)
        if before and not before[-1].ended:
            raise KdcurveError(f"{search} is running on the cluster at {self.address}")
        job = f"kdcurve_{search}_{before[-1].number + 1 if before else 1}"
        command = shlex.join(["python", "-P", "-m", "search", *arguments])
        with tempfile.TemporaryDirectory() as folder, self._answering():
            self._client.submit_job(
                entrypoint=f"exec {command} --address auto",
                submission_id=job,
                runtime_env={
                    "working_dir": str(files),
                    "py_modules": [str(pack(Path(folder)))],
                    "env_vars": {**places, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
                },
                metadata={"kdcurve": search},
            )
        return self.newest(search)

    def stop(self, job: Job) -> None:
        """Ask a run to end; it does so cleanly within `STOP_S`, or is killed."""
        with self._answering():
            self._client.stop_job(job.id)

    def printed(self, job: Job) -> str:
        """What a run has printed so far."""
        if job.status is JobStatus.PENDING:
            return ""
        with self._answering():
            return str(self._client.get_job_logs(job.id))

    def follow(self, job: Job, show: Show, seen: int = 0) -> Job:
        """Show what a run prints until it ends.

        Args:
            job: the run.
            show: takes note of text.
            seen: characters of its output that are known already.

        Returns:
            The run as it ended.

        Raises:
            KdcurveError: the connection is gone.
        """
        lost: float | None = None

        async def tail() -> None:
            nonlocal seen
            position = 0
            async for text in self._client.tail_job_logs(job.id):
                position += len(text)
                if position > seen:
                    show(text[len(text) - (position - seen) :])
                    seen = position

        while True:
            try:
                with self._answering():
                    current = self._again(job)
                    lost = None
                    if current.status is not JobStatus.PENDING:
                        asyncio.run(tail())  # from the beginning, each time
                        current = self._again(job)
                if current.ended:
                    return current
            except KdcurveError:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > LOST_S:
                    raise
            time.sleep(1)

    def _again(self, job: Job) -> Job:
        return next(each for each in self.jobs(job.search) if each.id == job.id)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """One clear error for each way in which a cluster does not answer."""
        try:
            yield
        except AuthenticationError as error:
            raise KdcurveError(
                f"the cluster at {self.address} refuses this machine's token; it is read from "
                "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token, and has to be the one "
                "that the cluster was started with"
            ) from error
        except (OSError, requests.RequestException, aiohttp.ClientError) as error:
            raise KdcurveError(
                f"no cluster answers at {self.address} ({_first_line(error)}); --cluster FILE "
                "opens a tunnel to it, and so does `ray dashboard FILE`"
            ) from error
        except (RuntimeError, ValueError) as error:
            raise KdcurveError(
                f"the cluster at {self.address} does not do it: {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return redacted(lines[0]) if lines else type(error).__name__


@contextlib.contextmanager
def _own_address() -> Iterator[None]:
    """Ray prefers these variables to the address that it is given."""
    hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    kept = {name: os.environ.pop(name) for name in hidden if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _authorisation() -> dict[str, str]:
    """The header with the cluster's token, from where Ray itself looks for it; maybe none."""
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
        with contextlib.suppress(OSError):
            token = path.read_text(encoding="utf-8").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}
