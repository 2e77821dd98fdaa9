"""Events on their way into the record, without making Tune's event loop wait.

An event is first appended to a file on this machine, which survives the death of the process,
and written to the database in batches by a thread. What a killed process left in the file is
written when its search is taken up again. A power cut costs the events of the last moments.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import sqlalchemy as sa
import tenacity

from search.errors import KdcurveError
from search.journal import Entry, Event, EventKind, Journal, cause_of, numbered
from search.lease import RENEW_S, Lease

logger = logging.getLogger(__name__)

COMMIT_EVERY_S = 0.2
FLUSH_TIMEOUT_S = 120.0
"""How long the end of a search waits for a database that is away."""


class Spool:
    """A file of events, a line each, that have not reached the database yet.

    Args:
        path: the file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size

    def append(self, events: Iterable[Event]) -> None:
        """Add events, all or none.

        Raises:
            KdcurveError: the disk is full, or gone.
        """
        lines = "".join(json.dumps([*vars(event).values()]) + "\n" for event in events).encode()
        try:
            if os.write(self._file, lines) < len(lines):
                raise OSError("no space left on the device")  # noqa: TRY301
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise KdcurveError(
                f"cannot write to {self.path}: {error.strerror or error}; all until now is "
                "recorded, and the search can be resumed"
            ) from error
        self._size += len(lines)

    def read(self) -> list[Event]:
        """What a process that was killed left behind; a torn last line never happened."""
        events = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                number, at, kind, trial, data = json.loads(line)
                events.append(Event(number, at, EventKind(kind), trial, data))
            except (ValueError, TypeError):
                logger.warning("%s ends in a torn line; it is left out", self.path)
                break
        return events

    def clear(self) -> None:
        """Forget what has reached the database."""
        os.ftruncate(self._file, 0)
        self._size = 0

    def close(self) -> None:
        """Release the file, and remove it if nothing is left in it."""
        os.close(self._file)
        if not self._size:
            self.path.unlink(missing_ok=True)


class Writer:
    """The single writer of one search's record.

    Args:
        journal: the record.
        search: its name.
        folder: where the spool is kept, on this machine.
        take_over: break the lease of another process.

    Raises:
        KdcurveError: another process runs this search.
    """

    def __init__(
        self, journal: Journal, search: str, folder: Path, *, take_over: bool = False
    ) -> None:
        self._journal = journal
        self._search = search
        self._lease = Lease(journal, search, take_over=take_over)
        try:
            self._spool = Spool(folder / "events.spool")
            self._last = self._recover()
        except (OSError, sa.exc.SQLAlchemyError) as error:
            self._lease.release()
            raise KdcurveError(f"cannot write to the record: {cause_of(error)}") from error
        self._waiting: list[Event] = []
        self._lock = threading.Lock()
        """Keeps the file and the list of waiting events in step."""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._failure: KdcurveError | None = None
        self._thread = threading.Thread(target=self._run, name="kdcurve-record", daemon=True)
        self._thread.start()

    def _recover(self) -> int:
        """Write what an earlier process could not; returns the number of the last event."""
        last = self._journal.last_number(self._search)
        left = [event for event in self._spool.read() if event.number > last]
        if last and left and left[0].number == last + 1:
            self._journal.write(self._search, left)
            last = left[-1].number
        elif left:
            logger.warning("%s does not continue the record; it is left out", self._spool.path)
        self._spool.clear()
        return last

    def append(self, entries: Iterable[Entry]) -> list[Event]:
        """Take events in; they are safe from the death of this process when it returns.

        Raises:
            KdcurveError: they cannot be kept, or another process has taken the search over.
        """
        if self._failure is not None:
            raise self._failure
        with self._lock:
            events = numbered(entries, self._last)
            self._spool.append(events)
            self._last += len(events)
            self._waiting += events
        self._wake.set()
        return events

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Wait until the database has all events.

        Raises:
            KdcurveError: it does not take them.
        """
        deadline = time.monotonic() + timeout_s
        while self._waiting and self._failure is None and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(COMMIT_EVERY_S / 20)
        if self._failure is not None:
            raise self._failure
        if self._waiting:
            raise KdcurveError(
                f"the record did not take {len(self._waiting)} events within {timeout_s:g} s; "
                f"they are kept in {self._spool.path} for the next resume"
            )

    def close(self) -> None:
        """Write what is left and let others write.

        Raises:
            KdcurveError: the database does not take it.
        """
        try:
            self.flush()
        finally:
            self._closing.set()
            self._wake.set()
            self._thread.join()
            self._spool.close()
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._lease.release()

    def _run(self) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(sa.exc.SQLAlchemyError)
            & tenacity.retry_if_not_exception_type(sa.exc.IntegrityError),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
            stop=lambda _: self._closing.is_set(),
            before_sleep=self._say_once,
        )
        try:
            while not self._closing.is_set():
                self._wake.wait(RENEW_S)
                self._wake.clear()
                retrying(self._commit)
                # What arrives meanwhile is written together.
                self._closing.wait(COMMIT_EVERY_S)
        except tenacity.RetryError:
            pass  # the end came first; the spool keeps what is left
        except (sa.exc.IntegrityError, _TakenOverError):
            self._failure = KdcurveError(
                f"another process has taken over the search {self._search!r}; this one stops"
            )
        except Exception as error:
            logger.exception("the record cannot be written")
            self._failure = KdcurveError(f"the record cannot be written: {cause_of(error)}")

    def _commit(self) -> None:
        """Write what waits, in one transaction, and show that this process is alive."""
        if time.monotonic() - self._lease.renewed > RENEW_S and not self._lease.renew():
            raise _TakenOverError
        with self._lock:
            batch = list(self._waiting)
        if not batch:
            return
        try:
            self._journal.write(self._search, batch)
        except sa.exc.IntegrityError:
            # Either the answer to an earlier try was lost, or another process writes.
            if not self._lease.renew():
                raise _TakenOverError from None
            there = self._journal.last_number(self._search)
            self._journal.write(self._search, [e for e in batch if e.number > there])
        with self._lock:
            del self._waiting[: len(batch)]
            if not self._waiting:
                self._spool.clear()

    def _say_once(self, state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = state.outcome.exception()
            logger.warning("the record does not answer, trying on: %s", error)


class _TakenOverError(Exception):
    """The lease is another's."""


@contextlib.contextmanager
def writing(
    journal: Journal, search: str, folder: Path, *, take_over: bool = False
) -> Iterator[Writer]:
    """Be the single writer of a search's record for a while."""
    writer = Writer(journal, search, folder, take_over=take_over)
    try:
        yield writer
    finally:
        writer.close()
