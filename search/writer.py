"""Events on their way into the record, without making Tune's event loop wait.

An event is first appended to a file on this machine, which survives the death of the process,
and written to the database in batches by a thread. What a killed process left in the file is
written when its search is taken up again. A power cut costs the events of the last moments.
"""

import contextlib
import errno
import json
import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa
import tenacity

from search.database import cause_of
from search.errors import KdcurveError
from search.journal import (
    ConflictError,
    Entry,
    Event,
    EventKind,
    Journal,
    Row,
    numbered,
    rows_of,
)
from search.lease import RENEW_S, Lease, TakenOverError

logger = logging.getLogger(__name__)

COMMIT_EVERY_S = 0.2
EVENTS_PER_COMMIT = 5000
LONGEST_PAUSE_S = 1.0
"""Between two tries to reach a database that is away."""
FLUSH_TIMEOUT_S = 120.0
"""How long the end of a search waits for a database that is away."""
_JOIN_TIMEOUT_S = 5.0


class _File:
    """One of the two files of a spool."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb", buffering=0)
        self.last = 0
        """Number of the newest event in it, 0 if it is empty."""

    def append(self, rows: Sequence[Row]) -> None:
        """Add a line that stands for all rows, or leave no trace."""
        # It begins with the line's end: what an earlier try may have left does no harm.
        line = ("\n" + json.dumps([[*row.values()] for row in rows])).encode()
        size = self._file.seek(0, os.SEEK_END)
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise
        self.last = rows[-1]["number"]

    def sync(self) -> None:
        os.fsync(self._file)

    def clear(self) -> None:
        self._file.truncate(0)
        self.last = 0

    def close(self, committed: int) -> None:
        mine = os.fstat(self._file.fileno())
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            # Whoever took the search over may have files of the same name.
            if self.last <= committed and os.path.samestat(mine, self._path.stat()):
                self._path.unlink()


class Spool:
    """Events that have not reached the database yet, in two files that take turns.

    While one is written to the database the other takes what comes: neither grows for ever, and
    nobody who appends waits for the database.

    Args:
        paths: two files that do not exist.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._active, self._resting = (_File(path) for path in paths)

    def append(self, rows: Sequence[Row]) -> None:
        """Add events, all or none.

        Raises:
            OSError: the disk is full, or gone.
        """
        self._active.append(rows)

    def turn(self) -> None:
        """Let the other file take what comes, unless it holds events."""
        if not self._resting.last:
            self._active, self._resting = self._resting, self._active

    def sync(self) -> None:
        """Hand all to the disk: it may have to last."""
        for file in (self._resting, self._active):
            file.sync()

    def clear(self, committed: int) -> None:
        """Forget events up to a number, as far as a whole file allows."""
        if 0 < self._resting.last <= committed:
            self._resting.clear()

    def close(self, committed: int) -> None:
        """Release the files, and remove those that hold no event after a number."""
        for file in (self._resting, self._active):
            file.close(committed)


def spool_paths(folder: Path, journal: Journal) -> list[Path]:
    """The files of a search's spool, by its folder; two records may have a search of one name."""
    return [folder / f"events-{journal.identity[:8]}-{i}.spool" for i in (1, 2)]


def left_behind(paths: Iterable[Path]) -> tuple[list[Row], bool]:
    """Events that a killed process left in its spool: one run of numbers.

    Returns:
        The events, and whether they are all that is there.
    """
    rows: dict[int, Row] = {}
    whole = True
    for path in paths:
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            try:
                # Of two events of a number the later one counts: the other was given up.
                rows |= {row["number"]: row for row in map(_row, json.loads(line or "[]"))}
            except (ValueError, TypeError, RecursionError):
                whole = False  # torn by the end of the process, or damaged
    run = [rows[number] for number in sorted(rows)]
    first = run[0]["number"] if run else 0
    consecutive = [row for i, row in enumerate(run) if row["number"] == first + i]
    return consecutive, whole and len(consecutive) == len(run)


def _row(fields: object) -> Row:
    match fields:
        case [int(number), float(at), str(kind), int() | None as trial, str(data)]:
            json.loads(data)
            return {
                "number": number,
                "time": at,
                "kind": EventKind(kind),
                "trial": trial,
                "data": data,
            }
    raise ValueError("not an event")


class Writer:
    """The single writer of one search's record.

    Args:
        journal: the record.
        search: its name.
        folder: where the spool is kept, on this machine.
        take_over: break the lease of another process.

    Raises:
        KdcurveError: another process runs this search, or the record cannot be written.
    """

    def __init__(
        self, journal: Journal, search: str, folder: Path, *, take_over: bool = False
    ) -> None:
        self._journal = journal
        self._search = search
        self._folder = folder
        self._lease = Lease(journal, search, take_over=take_over)
        try:
            self._spool = self._recover()
            self._committed = journal.last_number(search)
        except (OSError, sa.exc.SQLAlchemyError) as error:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._lease.release()
            raise KdcurveError(f"cannot write to the record: {cause_of(error)}") from error
        self._waiting: list[Row] = []
        self._lock = threading.Lock()
        """Keeps the spool and the list of waiting events in step."""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._failure: KdcurveError | None = None
        self._thread = threading.Thread(target=self._run, name="kdcurve-record", daemon=True)
        self._thread.start()

    def _recover(self) -> Spool:
        """Write what an earlier process could not, and begin a new spool."""
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = spool_paths(self._folder, self._journal)
        rows, whole = left_behind(paths)
        try:
            self._journal.write_rows(self._search, rows, self._lease.renew)
        except ConflictError as error:
            whole = False
            logger.warning("%s", error)
        for path in filter(Path.exists, paths):
            if whole:
                path.unlink()
            else:
                aside = path.with_name(f"{path.name}.{time.time_ns()}")
                path.rename(aside)
                logger.warning("not all in it could be read into the record: %s is kept", aside)
        return Spool(paths)

    def append(self, entries: Iterable[Entry]) -> list[Event]:
        """Take events in; they are safe from the death of this process when it returns.

        Raises:
            KdcurveError: they cannot be kept (none of them is), or another process has taken the
                search over.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._closing.is_set():
                raise KdcurveError("the record is closed")
            last = self._waiting[-1]["number"] if self._waiting else self._committed
            events = numbered(entries, last)
            if not events:
                return []
            rows = rows_of(events)
            try:
                self._spool.append(rows)
            except OSError as error:
                raise KdcurveError(
                    f"cannot write to {self._folder}: {error.strerror or error}; all until now "
                    "is recorded, and the search can be resumed"
                ) from error
            self._waiting += rows
        self._wake.set()
        return events

    def flush(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Wait until the database has all events.

        Raises:
            KdcurveError: it does not take them.
        """
        deadline = time.monotonic() + timeout_s
        while self._waiting and self._thread.is_alive() and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(COMMIT_EVERY_S / 20)
        if self._failure is not None:
            raise self._failure
        if left := len(self._waiting):
            raise KdcurveError(
                f"the record did not take {left} events within {timeout_s:g} s; "
                f"they are kept in {self._folder} for the next resume"
            )

    def close(self, timeout_s: float = FLUSH_TIMEOUT_S) -> None:
        """Write what is left and let others write.

        Raises:
            KdcurveError: the database does not take it.
        """
        try:
            self.flush(timeout_s)
        finally:
            self._closing.set()
            self._wake.set()
            # The thread does all that needs the database, since that may never answer.
            self._thread.join(_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(sa.exc.SQLAlchemyError),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE_S),
            sleep=tenacity.sleep_using_event(self._closing),
            stop=tenacity.stop_when_event_set(self._closing),
            before_sleep=self._hold_out,
        )
        try:
            while not self._closing.is_set():
                if retrying(self._commit):
                    continue
                # What arrives meanwhile is written together.
                self._closing.wait(COMMIT_EVERY_S)
                self._wake.wait(RENEW_S)
                self._wake.clear()
        except tenacity.RetryError:
            pass  # the end came first; the spool keeps what is left
        except (ConflictError, TakenOverError) as error:
            self._failure = error
        except Exception as error:
            logger.exception("the record cannot be written")
            self._failure = KdcurveError(f"the record cannot be written: {cause_of(error)}")
        finally:
            with self._lock:
                self._closing.set()
                self._spool.close(self._committed)
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._lease.release()

    def _commit(self) -> bool:
        """Write what waits, and show that this process is alive; returns whether more waits."""
        with self._lock:
            batch = self._waiting[:EVENTS_PER_COMMIT]
            self._spool.turn()
        self._journal.write_rows(self._search, batch, self._lease.renew)
        with self._lock:
            self._committed += len(batch)
            del self._waiting[: len(batch)]
            more = bool(self._waiting)
        self._spool.clear(self._committed)
        return more and len(batch) == EVENTS_PER_COMMIT

    def _hold_out(self, state: tenacity.RetryCallState) -> None:
        with contextlib.suppress(OSError):
            self._spool.sync()
        error = state.outcome.exception() if state.outcome is not None else None
        if state.attempt_number == 1 and isinstance(error, Exception):
            logger.warning("the record does not answer, trying on: %s", cause_of(error))


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
