"""The durable record of a search: one append-only table of events.

Everything else (Optuna's studies, the rungs, MLflow's runs, the display) is derived
from these events and can be rebuilt from them.
"""

import functools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from search import database
from search.database import cause_of as cause_of  # noqa: PLC0414  (others catch what it names)
from search.errors import KdcurveError, UsageError

EVENTS_PER_READ = 5000


class EventKind(StrEnum):
    """What can happen to a search; the data that goes with it in brackets."""

    PLANNED = "planned"
    """The search began (spec, versions, git_commit, hardware)."""
    RESUMED = "resumed"
    """The search was taken up again (spec, if it was extended)."""
    PREPARED = "prepared"
    """A teacher or scores are there (key, artifact, metadata, seconds)."""
    PROPOSED = "proposed"
    """A trial was decided on (context, values, seed, start_design; until_epoch, if it is to end
    there and not before)."""
    STARTED = "started"
    """A worker took a trial up."""
    REPORTED = "reported"
    """An epoch is done (epoch, metrics)."""
    CHECKPOINTED = "checkpointed"
    """A trial can be taken up again from here (epoch, path)."""
    RETRIED = "retried"
    """A trial failed and is to be taken up again (cause, reason)."""
    RUNG = "rung"
    """The scheduler decided at a rung (epoch, score, stop)."""
    GRACE = "grace"
    """It was measured where the first rung stands (share of the budget, correlation, groups)."""
    ENDED = "ended"
    """A trial ended (outcome, reason)."""
    CLOSED = "closed"
    """The search came to a halt (state; reason: the criterion that ended it, if one did;
    early_stopping: what that did, in words)."""
    ANSWER = "answer"
    """The curve was fitted (curve; about: what goes with it; tracking_uri: where MLflow is)."""
    CONFIRMING = "confirming"
    """A confirmation was taken up (answer: number of the event that holds it; estimator; seeds;
    settings, by context)."""
    CONFIRMED = "confirmed"
    """A student of a confirmation ended (student: its key; attempt; config; context: one that it
    belongs to; chosen: those whose answer it is; outcome, reason, metrics)."""


Entry = tuple[EventKind, int | None, dict[str, Any]]
"""An event before it is recorded: its kind, the trial it is about, its data."""


@dataclass(frozen=True)
class Event:
    """One fact. `number` orders the events of a search, from 1; `time` is in seconds since 1970."""

    number: int
    time: float
    kind: EventKind
    trial: int | None
    data: dict[str, Any]


Row = dict[str, Any]
"""An event as it is written, its data as JSON: what happens to the data later changes nothing."""


def numbered(entries: Iterable[Entry], after: int, now: float | None = None) -> list[Event]:
    """Make events of entries, numbered from `after + 1`; `now` is the present by default."""
    now = time.time() if now is None else now
    return [Event(after + i, now, *entry) for i, entry in enumerate(entries, start=1)]


def rows_of(events: Iterable[Event]) -> list[Row]:
    """What is written of events.

    Raises:
        KdcurveError: the data of one is not JSON.
    """
    try:
        # With NaN and infinity, which Python reads back though JSON has no words for them.
        return [{**vars(event), "data": json.dumps(event.data)} for event in events]
    except (TypeError, ValueError, RecursionError) as error:
        raise KdcurveError(f"cannot write to the record: {error}") from error


class ConflictError(KdcurveError):
    """The record does not lead up to what shall be written to it."""


_events = database.events
_whole = sa.select(*(_events.c[each.name] for each in fields(Event)))


class Journal:
    """Append and read events of all searches in one database.

    Args:
        uri: SQLAlchemy URI, e.g. ``sqlite:///record.db`` or ``postgresql://user@host/db``.
        create: make the tables if they are missing; a reader leaves them alone.

    Raises:
        KdcurveError: the database cannot be opened, or is from a newer version.
    """

    def __init__(self, uri: str, *, create: bool = True) -> None:
        self.uri = uri
        self.engine = database.open_database(uri, create=create)

    @functools.cached_property
    def identity(self) -> str:
        """What tells this record from all others, whatever URI leads to it."""
        with self.engine.connect() as connection:
            return str(connection.scalars(sa.select(database.meta.c.identity)).one())

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """A connection to write with: all is written when the context is left, or nothing."""
        return database.transaction(self.engine)

    def append(self, search: str, entries: Iterable[Entry]) -> list[Event]:
        """Write events in one transaction, numbered after those that are there.

        Raises:
            KdcurveError: the database refuses them; none is written.
        """
        try:
            events = numbered(entries, self.last_number(search))
            self.write(search, events)
        except sa.exc.SQLAlchemyError as error:
            raise KdcurveError(f"cannot write to the record: {cause_of(error)}") from error
        return events

    def write(self, search: str, events: Iterable[Event]) -> None:
        """Write events with their numbers and times, e.g. another record's: as `write_rows`."""
        self.write_rows(search, rows_of(events))

    def write_rows(
        self,
        search: str,
        rows: Sequence[Row],
        permit: Callable[[sa.Connection], None] = lambda _: None,
    ) -> None:
        """Bring the record up to the last of some events; what it has of them already stays.

        Args:
            search: its name.
            rows: events with consecutive numbers.
            permit: called in the same transaction; if it raises, nothing is written.

        Raises:
            ConflictError: the record has other events of these numbers, or lacks the one before.
            sqlalchemy.exc.SQLAlchemyError: the database fails; whether they are written is open,
                and they can be written again.
        """
        with self.transaction() as connection:
            permit(connection)
            if not rows:
                return
            first = rows[0]["number"]
            query = (
                sa.select(_events.c.number, _events.c.time)
                .where(_events.c.search == search, _events.c.number >= first - 1)
                .order_by(_events.c.number)
                .limit(len(rows) + 1)
            )
            there = [(number, at) for number, at in connection.execute(query)]
            if first > 1 and (not there or there.pop(0)[0] != first - 1):
                raise ConflictError(f"the record of {search!r} ends before its event {first - 1}")
            for old, new in zip(there, rows, strict=False):
                if old != (new["number"], new["time"]):
                    raise ConflictError(f"the record of {search!r} has another event {old[0]}")
            if new_rows := [{"search": search, **row} for row in rows[len(there) :]]:
                try:
                    connection.execute(_events.insert(), new_rows)
                except sa.exc.IntegrityError as error:
                    raise ConflictError(
                        f"another process writes to the record of {search!r}"
                    ) from error

    def events(self, search: str, after: int = 0, limit: int | None = None) -> Iterator[Event]:
        """Events of a search in order, at most `limit` with a number above `after`."""
        left = sys.maxsize if limit is None else limit
        while left > 0:
            # A share at a time, so that no reader holds the database while it works on them.
            share = min(left, EVENTS_PER_READ)
            those = (_events.c.search == search) & (_events.c.number > after)
            events = self._read(_whole.where(those).order_by(_events.c.number).limit(share))
            yield from events
            if len(events) < share:
                return
            after = events[-1].number
            left -= share

    def _read(self, query: sa.Select[Any]) -> list[Event]:
        with self.engine.connect() as connection:
            return [
                Event(number, at, EventKind(kind), trial, json.loads(data))
                for number, at, kind, trial, data in connection.execute(query)
            ]

    def last_number(self, search: str) -> int:
        """Number of a search's newest event, 0 if it has none."""
        query = sa.select(sa.func.max(_events.c.number)).where(_events.c.search == search)
        with self.engine.connect() as connection:
            return connection.scalar(query) or 0

    def searches(self) -> list[str]:
        """Names of all searches, in the order they began."""
        query = (
            sa.select(_events.c.search)
            .where(_events.c.kind == EventKind.PLANNED)
            .group_by(_events.c.search)
            .order_by(sa.func.min(_events.c.time))
        )
        with self.engine.connect() as connection:
            return list(connection.scalars(query))

    def milestones(self, search: str) -> list[Event]:
        """The few events that say where a search stands: its starts and halts."""
        kinds = (EventKind.PLANNED, EventKind.RESUMED, EventKind.CLOSED)
        found = self._read(_whole.where(_events.c.search == search, _events.c.kind.in_(kinds)))
        # Asked for an order, SQLite would walk through all events of the search.
        return sorted(found, key=lambda event: event.number)

    def newest(self, search: str) -> Event:
        """The last event of a search that has one."""
        (event,) = self.events(search, after=self.last_number(search) - 1)
        return event

    def count(self, search: str, kind: EventKind) -> int:
        """How many events of a kind a search has."""
        query = sa.select(sa.func.count()).where(_events.c.search == search, _events.c.kind == kind)
        with self.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    def delete(self, search: str) -> None:
        """Forget a search."""
        with self.transaction() as connection:
            connection.execute(_events.delete().where(_events.c.search == search))

    def close(self) -> None:
        """Release the database."""
        self.engine.dispose()


def check_name(journal: Journal, name: str) -> None:
    """Refuse a name that a recorded search has, and offer a free one."""
    taken = set(journal.searches())
    if name not in taken:
        return
    number = 2
    while f"{name}-{number}" in taken:
        number += 1
    raise UsageError(
        f"a search named {name!r} is recorded already; "
        f"choose another name, e.g. --name {name}-{number}"
    )
