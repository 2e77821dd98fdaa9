"""Delivery of the record to MLflow: a thread that follows the journal.

The search never waits for MLflow. A server that is away, slow or failing is tried again; what
it does not take before the search has ended is in the record, for `kdcurve sync`.
"""

import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
import tenacity
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError
from analysis.secrets import redacted
from analysis.server import require_server
from search.errors import KdcurveError
from search.journal import Journal, cause_of
from search.mirror import (
    Mirror,
    RefusedError,
    RefusedRunError,
    identity_of,
    require_ours,
    status_of,
)
from search.places import Places
from search.space import SearchSpec

logger = logging.getLogger(__name__)

POLL_S = 1.0
NOTICE_EVERY_S = 5.0
EVENTS_PER_ROUND = 5000
"""Events taken in at a time: what waits for a server that is away stays in the record."""
LONGEST_WAIT_S = 30.0
LONGEST_LAST_WAIT_S = 2.0
"""Between two tries, while the search runs and after it has ended."""
REFUSED_WAIT_S = 120.0
"""Between two tries where waiting is no use, unless somebody changes something."""
_MLFLOW_SETTINGS = {
    # MLflow's own retries would hold a request for minutes; these are made here.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # It would print a run's address, with the password that may stand in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_CAUSED = re.compile(r"\(Caused by \w+\((\"HTTPS?Connection\([^)]*\): )?(?P<what>.*)\)\)$")
"""The end of what requests says of a connection that failed."""
_TRY_AGAIN = {408, 425, 429}
"""Refusals by HTTP status that waiting may cure."""
_DATABASE_REFUSES = ("authentication failed", "does not exist", "no pg_hba.conf entry")
"""What PostgreSQL says of a wrong password, user or database."""


def is_refusal(error: BaseException) -> bool:
    """Whether waiting cannot cure this: no permission, another's experiment, no such host."""
    if isinstance(error, RefusedError | PermissionError):
        return True
    if isinstance(error, AnalysisError):
        return not _may_come_back(error.__cause__)
    return 400 <= status_of(error) < 500 and status_of(error) not in _TRY_AGAIN  # noqa: PLR2004


def _may_come_back(cause: BaseException | None) -> bool:
    """Whether what could not be reached may be reached later."""
    if isinstance(cause, socket.gaierror):
        return cause.errno == socket.EAI_AGAIN
    if isinstance(cause, sa.exc.OperationalError):
        return not any(words in str(cause) for words in _DATABASE_REFUSES)
    return cause is None or isinstance(cause, OSError)


class _TimeIsUpError(KdcurveError):
    """The end of the search has waited as long as it was to."""


class _RecordError(KdcurveError):
    """The record does not answer."""


class Delivery(threading.Thread):
    """Carries a search's events to MLflow until it is told to finish.

    Args:
        journal: where the events are.
        spec: the search, as last extended.
        places: where MLflow is.
        say: takes note of a line for the user.
    """

    def __init__(
        self,
        journal: Journal,
        spec: SearchSpec,
        places: Places,
        say: Callable[[str], None] = logger.info,
    ) -> None:
        super().__init__(name="kdcurve-mlflow", daemon=True)
        self._journal = journal
        self._spec = spec
        self._places = places
        self._say = say
        self._where = f"MLflow at {redacted(places.tracking_uri)}"
        self._mirror: Mirror | None = None
        self._cursor = 0
        self._finishing = threading.Event()
        self._deadline = math.inf
        self._caught_up = False
        self._told: str | None = None
        """What the user was last told of a trouble that lasts."""
        self.failure: str | None = None
        """Why the last try failed, None after one that did not."""
        for name, value in _MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)

    def check(self, *, new: bool = False) -> str | None:
        """Make sure that nothing stands against delivering.

        Args:
            new: the search is not recorded yet, so that MLflow must not know its name.

        Returns:
            What to tell the user if MLflow does not answer now but may later.

        Raises:
            KdcurveError: MLflow refuses, and waiting cannot change that.
        """
        name, uri = self._spec.name, self._places.tracking_uri
        began = [] if new else self._journal.milestones(name)
        try:
            require_server(uri)  # MLflow itself would try a dead database for minutes
            experiment = MlflowClient(uri).get_experiment_by_name(name)
        except Exception as error:
            if is_refusal(error) or uri.startswith("sqlite"):
                raise KdcurveError(f"{self._where} cannot be used: {_cause(error)}") from error
            return (
                f"{self._where} does not answer ({_cause(error)}); the search goes on, and "
                "delivers its record when it does"
            )
        require_ours(name, experiment, identity_of(began[0]) if began else None)
        return None

    @property
    def delivered(self) -> int:
        """Trials that MLflow has from start to end."""
        return self._mirror.delivered if self._mirror else 0

    @property
    def refused(self) -> dict[str, str]:
        """Runs that MLflow does not take, by name, and why."""
        return dict(self._mirror.refused) if self._mirror else {}

    def run(self) -> None:
        """Follow the journal (the thread's body)."""
        retrying = tenacity.Retrying(
            wait=_wait, sleep=self._sleep, stop=self._give_up, before_sleep=self._failed
        )
        try:
            while True:
                last_round = self._finishing.is_set()
                retrying(self._round)
                self.failure = None
                if self._told is not None:
                    self._say(f"{self._where} takes the record again")
                    self._told = None
                if last_round:
                    self._caught_up = True
                    return
                self._finishing.wait(POLL_S)
        except tenacity.RetryError as error:
            self.failure = _cause(error.last_attempt.exception() or error)
        except Exception as error:
            logger.exception("delivery to MLflow ended")
            self.failure = _cause(error)

    def finish(
        self, timeout_s: float = math.inf, waiting: Callable[[], None] | None = None
    ) -> bool:
        """Deliver what is left and stop.

        Args:
            timeout_s: how long to wait for it.
            waiting: called every few seconds meanwhile.

        Returns:
            Whether all arrived.
        """
        self._deadline = time.monotonic() + timeout_s
        self._finishing.set()
        while self.is_alive() and (left := self._deadline - time.monotonic()) > 0:
            self.join(min(left, NOTICE_EVERY_S))
            if self.is_alive() and waiting is not None:
                waiting()
        return self._caught_up and not self.refused

    def _round(self) -> None:
        """Deliver all there is, a share at a time; safe to repeat after a failure."""
        if self._mirror is None:
            self._mirror = self._connect()
        self._mirror.send(caught_up=False)  # what an earlier try left comes first
        taken = EVENTS_PER_ROUND
        while taken == EVENTS_PER_ROUND:
            taken = self._take(self._mirror)
            self._mirror.send(caught_up=taken < EVENTS_PER_ROUND)

    def _connect(self) -> Mirror:
        uri, name = self._places.tracking_uri, self._spec.name
        require_server(uri)
        return Mirror(
            self._spec,
            MlflowClient(uri),
            self._places.artifact_root(),
            self._places.answers(name),
            self._proceed,
            self._places.cache,
        )

    def _take(self, mirror: Mirror) -> int:
        """Take in the next events; returns how many."""
        taken = 0
        try:
            for event in self._journal.events(self._spec.name, self._cursor, EVENTS_PER_ROUND):
                mirror.take(event)
                self._cursor = event.number
                taken += 1
        except sa.exc.SQLAlchemyError as error:
            raise _RecordError(f"the record does not answer: {cause_of(error)}") from error
        return taken

    def _proceed(self) -> None:
        if self._is_late():
            raise _TimeIsUpError("its time was over")

    def _is_late(self) -> bool:
        return self._finishing.is_set() and time.monotonic() > self._deadline

    def _sleep(self, seconds: float) -> None:
        if self._finishing.is_set():
            time.sleep(min(seconds, LONGEST_LAST_WAIT_S))
        else:
            self._finishing.wait(seconds)

    def _give_up(self, state: tenacity.RetryCallState) -> bool:
        """Once the search has ended: after its time, or at once where waiting is no use."""
        return self._is_late() or (self._finishing.is_set() and is_refusal(_error_of(state)))

    def _failed(self, state: tenacity.RetryCallState) -> None:
        error = _error_of(state)
        before, self.failure = self.failure, _cause(error)
        if self.failure != before:
            logger.warning("delivery to MLflow failed, trying on: %s", self.failure)
        if isinstance(error, _RecordError | RefusedRunError):
            return  # not MLflow's trouble, or not that of all runs
        trouble = "refuses the record" if is_refusal(error) else "does not take the record now"
        if trouble != self._told:
            self._say(f"{self._where} {trouble} ({self.failure}); the search goes on")
            self._told = trouble


def _wait(state: tenacity.RetryCallState) -> float:
    if is_refusal(_error_of(state)):
        return REFUSED_WAIT_S
    return tenacity.wait_random_exponential(max=LONGEST_WAIT_S)(state)


def _error_of(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    assert error is not None  # noqa: S101  (only failures are retried)
    return error


def _cause(error: BaseException) -> str:
    """One line, without secrets and without a URI that was shown already."""
    if isinstance(error, AnalysisError) and error.__cause__ is not None:
        error = error.__cause__
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if (found := _CAUSED.search(line)) is not None:
        line = found["what"].strip("\"'")
    return redacted(line)[:200]
