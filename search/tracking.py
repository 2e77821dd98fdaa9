"""Delivery of the record to MLflow: a thread that follows the journal.

The search never waits for MLflow. A server that is away, slow or failing is tried again; what
it does not take before the search has ended is in the record, for `kdcurve sync`.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

import tenacity
from mlflow.tracking import MlflowClient

from analysis.errors import AnalysisError
from analysis.runs import require_server
from analysis.secrets import redacted
from search.errors import KdcurveError
from search.journal import Journal
from search.mirror import Mirror, RefusedError, require_ours, status_of
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
# MLflow's own retries would hold a request for minutes; these are made here.
_MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
_TRY_AGAIN = {408, 425, 429}
"""Refusals by HTTP status that waiting may cure."""


def is_refusal(error: BaseException) -> bool:
    """Whether waiting cannot cure this: no permission, another's experiment, no such host."""
    if isinstance(error, RefusedError):
        return True
    if isinstance(error, AnalysisError):
        return isinstance(error.__cause__, socket.gaierror)
    return 400 <= status_of(error) < 500 and status_of(error) not in _TRY_AGAIN  # noqa: PLR2004


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
        self._deadline = float("inf")
        self._caught_up = False
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
        uri = self._places.tracking_uri
        try:
            require_server(uri)  # MLflow itself would try a dead database for minutes
            experiment = MlflowClient(uri).get_experiment_by_name(self._spec.name)
            if new:
                require_ours(self._spec.name, experiment, None)
        except RefusedError:
            raise
        except Exception as error:
            if is_refusal(error) or uri.startswith("sqlite"):
                raise KdcurveError(f"{self._where} cannot be used: {_cause(error)}") from error
            return (
                f"{self._where} does not answer ({_cause(error)}); the search goes on, and "
                "delivers its record when it does"
            )
        return None

    @property
    def delivered(self) -> int:
        """Trials that MLflow has from start to end."""
        return self._mirror.delivered if self._mirror else 0

    @property
    def refused(self) -> dict[str, str]:
        """Runs that MLflow does not take, by name, and why."""
        return self._mirror.refused if self._mirror else {}

    def run(self) -> None:
        """Follow the journal (the thread's body)."""
        retrying = tenacity.Retrying(
            wait=tenacity.wait_random_exponential(max=LONGEST_WAIT_S),
            sleep=self._sleep,
            stop=self._give_up,
            before_sleep=self._failed,
        )
        try:
            while True:
                last_round = self._finishing.is_set()
                retrying(self._round)
                if self.failure is not None:
                    self._say(f"{self._where} answers again")
                    self.failure = None
                if last_round:
                    self._caught_up = True
                    return
                self._finishing.wait(POLL_S)
        except tenacity.RetryError as error:
            self.failure = _cause(error.last_attempt.exception() or error)
        except Exception as error:
            logger.exception("delivery to MLflow ended")
            self.failure = _cause(error)

    def finish(self, timeout_s: float, waiting: Callable[[], None] | None = None) -> bool:
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
            require_server(self._places.tracking_uri)
            self._mirror = Mirror(
                self._spec,
                MlflowClient(self._places.tracking_uri),
                self._places.artifact_root(),
                self._places.answers(self._spec.name),
            )
        self._mirror.send()  # what an earlier try left
        while True:
            events = self._journal.events(self._spec.name, self._cursor, EVENTS_PER_ROUND)
            taken = 0
            for taken, event in enumerate(events, start=1):  # noqa: B007  (counts them)
                self._mirror.take(event)
                self._cursor = event.number
            if not taken:
                return
            self._mirror.send()

    def _sleep(self, seconds: float) -> None:
        if self._finishing.is_set():
            time.sleep(min(seconds, LONGEST_LAST_WAIT_S))
        else:
            self._finishing.wait(seconds)

    def _give_up(self, state: tenacity.RetryCallState) -> bool:
        """Once the search has ended: after its time, or at once where waiting is no use."""
        if not self._finishing.is_set() or state.outcome is None:
            return False
        error = state.outcome.exception()
        return time.monotonic() > self._deadline or (error is not None and is_refusal(error))

    def _failed(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is None:
            return
        logger.warning("delivery to MLflow failed, trying on: %s", _cause(error))
        if self.failure is None:
            verb = "refuses the record" if is_refusal(error) else "does not answer"
            self._say(f"{self._where} {verb} ({_cause(error)}); the search goes on")
        self.failure = _cause(error)


def _cause(error: BaseException) -> str:
    """One line, without secrets and without a URI that was shown already."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return redacted(line)[:200]
