"""The durable record of a search: one append-only table of events.

Everything else (Optuna's studies, the rungs, MLflow's runs, the display) is derived
from these events and can be rebuilt from them.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.schema import CreateIndex, CreateTable

from analysis.secrets import redacted
from search.errors import KdcurveError, UsageError

JOURNAL_VERSION = 2
LOCK_S = 60.0
"""How long a write waits for another process that holds an SQLite record."""
_CREATE_TRIES = 3


class EventKind(StrEnum):
    """What can happen to a search; the data that goes with it in brackets."""

    PLANNED = "planned"
    """The search began (spec, versions, git_commit, hardware)."""
    RESUMED = "resumed"
    """The search was taken up again (spec, if it was extended)."""
    PREPARED = "prepared"
    """A teacher or scores are there (key, artifact, metadata, seconds)."""
    PROPOSED = "proposed"
    """A trial was decided on (context, values, seed, start_design)."""
    STARTED = "started"
    """A worker took a trial up."""
    REPORTED = "reported"
    """An epoch is done (epoch, metrics)."""
    CHECKPOINTED = "checkpointed"
    """A trial can be taken up again from here (epoch, path)."""
    RUNG = "rung"
    """The scheduler decided at a rung (epoch, score, stop)."""
    ENDED = "ended"
    """A trial ended (outcome, reason)."""
    CLOSED = "closed"
    """The search came to a halt (state)."""
    ANSWER = "answer"
    """The curve was fitted (curve)."""


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


def numbered(entries: Iterable[Entry], after: int) -> list[Event]:
    """Make events of entries, now, numbered from `after + 1`."""
    now = time.time()
    return [Event(after + i, now, *entry) for i, entry in enumerate(entries, start=1)]


class _Json(sa.TypeDecorator[Any]):
    """JSON as text: a metric may be NaN, which PostgreSQL's own JSON type refuses."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> str:
        return json.dumps(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return json.loads(value)


_metadata = sa.MetaData()
_events = sa.Table(
    "kdcurve_events",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("search", sa.String(200), nullable=False),
    sa.Column("number", sa.Integer),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("trial", sa.Integer),
    sa.Column("data", _Json, nullable=False),
    # Two writers of one search would use a number twice: the later one is refused.
    sa.Index("kdcurve_events_by_number", "search", "number", unique=True),
)
_meta = sa.Table(
    "kdcurve_journal",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True),
)
leases = sa.Table(
    "kdcurve_leases",
    _metadata,
    sa.Column("search", sa.String(200), primary_key=True),
    sa.Column("holder", sa.String(40), nullable=False),
    sa.Column("machine", sa.String(300), nullable=False),
    sa.Column("host", sa.String(300), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("born", sa.Float, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("renewed", sa.Float, nullable=False),
)
"""Who runs which search now; see `search.lease`."""

_UPGRADES = {
    # Version 1 ordered events by an id shared by all searches.
    1: (
        "ALTER TABLE kdcurve_events ADD COLUMN number INTEGER",
        "UPDATE kdcurve_events SET number = (SELECT COUNT(*) FROM kdcurve_events AS earlier "
        "WHERE earlier.search = kdcurve_events.search AND earlier.id <= kdcurve_events.id)",
        "DROP INDEX IF EXISTS kdcurve_events_by_search",
    ),
}
"""What brings a record from a version to the next."""


def _durable(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # With a write-ahead log readers never block the writer; FULL hands every commit to the
    # disk, which costs nothing here: commits are batched, in a thread of their own.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


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
        shown = redacted(uri)
        try:
            url = sa.make_url(uri)
            if url.drivername == "postgresql":
                url = url.set(drivername="postgresql+psycopg")
            sqlite = url.get_backend_name() == "sqlite"
            # A server may restart between two commits: ask before a connection is used again.
            options = {"connect_args": {"timeout": LOCK_S}} if sqlite else {"pool_pre_ping": True}
            self.engine = sa.create_engine(url, **options)
        except ImportError as error:
            raise KdcurveError(
                f"--record {shown!r} needs a driver that is not installed ({error}); "
                "for PostgreSQL: pip install 'kdcurve[postgres]'"
            ) from error
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError) as error:
            cause = str(error).splitlines()[0].replace(uri, shown)
            raise KdcurveError(f"--record {shown!r} is not a database URI: {cause}") from error
        if sqlite:
            if not create and not Path(url.database or "").exists():
                raise KdcurveError(f"there is no record at {shown}; no search was started there")
            sa.event.listen(self.engine, "connect", _durable)
        try:
            if create:
                self._create()
            with self.engine.connect() as connection:
                version = connection.execute(sa.select(_meta.c.version)).scalar_one()
        except sa.exc.SQLAlchemyError as error:
            raise KdcurveError(f"cannot open the record {shown}: {cause_of(error)}") from error
        if version > JOURNAL_VERSION:
            raise KdcurveError(
                f"the record {shown} was written by a newer kdcurve (version {version}; "
                f"this one reads up to {JOURNAL_VERSION}): upgrade kdcurve"
            )
        if version < JOURNAL_VERSION:
            self._upgrade(version)

    def _create(self) -> None:
        """Make what is missing; several processes may be at it at once."""
        for left in reversed(range(_CREATE_TRIES)):
            try:
                with self.engine.begin() as connection:
                    fresh = not sa.inspect(connection).has_table(_meta.name)
                    for table in (_meta, _events):
                        connection.execute(CreateTable(table, if_not_exists=True))
                    if fresh:
                        self._complete(connection)
                        connection.execute(_meta.insert().values(version=JOURNAL_VERSION))
            except (sa.exc.IntegrityError, sa.exc.ProgrammingError):
                if not left:  # the other process was first: look again
                    raise
            else:
                return

    def _complete(self, connection: sa.Connection) -> None:
        """Make what version 1 did not have."""
        connection.execute(CreateTable(leases, if_not_exists=True))
        for index in _events.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))

    def _upgrade(self, version: int) -> None:
        with self.engine.begin() as connection:
            for statement in _UPGRADES[version]:
                connection.execute(sa.text(statement))
            self._complete(connection)
            connection.execute(_meta.update().values(version=version + 1))

    def append(self, search: str, entries: Iterable[Entry]) -> list[Event]:
        """Write events in one transaction, numbered after those that are there.

        Raises:
            KdcurveError: the database refuses them; none is written.
        """
        events = numbered(entries, self.last_number(search))
        try:
            self.write(search, events)
        except (sa.exc.SQLAlchemyError, TypeError) as error:
            raise KdcurveError(f"cannot write to the record: {cause_of(error)}") from error
        return events

    def write(self, search: str, events: Iterable[Event]) -> None:
        """Write numbered events in one transaction.

        Raises:
            sqlalchemy.exc.IntegrityError: another process wrote some of these numbers.
            sqlalchemy.exc.SQLAlchemyError: the database refuses them.
        """
        rows = [{"search": search, **vars(event)} for event in events]
        if rows:
            with self.engine.begin() as connection:
                connection.execute(_events.insert(), rows)

    def events(self, search: str, after: int = 0, limit: int | None = None) -> Iterator[Event]:
        """Events of a search in order, at most `limit` with a number above `after`."""
        yield from self._read(_events.c.search == search, _events.c.number > after, limit=limit)

    def _read(
        self, *conditions: sa.ColumnElement[bool], limit: int | None = None
    ) -> Iterator[Event]:
        query = sa.select(_events).where(*conditions).order_by(_events.c.number).limit(limit)
        with self.engine.connect() as connection:
            for row in connection.execute(query):
                yield Event(row.number, row.time, EventKind(row.kind), row.trial, row.data)

    def last_number(self, search: str) -> int:
        """Number of a search's newest event, 0 if it has none."""
        query = sa.select(sa.func.max(_events.c.number)).where(_events.c.search == search)
        with self.engine.connect() as connection:
            return connection.execute(query).scalar() or 0

    def searches(self) -> list[str]:
        """Names of all searches, in the order they began."""
        query = (
            sa.select(_events.c.search)
            .where(_events.c.kind == EventKind.PLANNED)
            .group_by(_events.c.search)
            .order_by(sa.func.min(_events.c.id))
        )
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def milestones(self, search: str) -> list[Event]:
        """The few events that say where a search stands: its starts and halts."""
        kinds = (EventKind.PLANNED, EventKind.RESUMED, EventKind.CLOSED)
        return list(self._read(_events.c.search == search, _events.c.kind.in_(kinds)))

    def newest(self, search: str) -> Event:
        """A search's last event."""
        number = self.last_number(search)
        return next(self._read(_events.c.search == search, _events.c.number == number))

    def count(self, search: str, kind: EventKind) -> int:
        """How many events of a kind a search has."""
        query = sa.select(sa.func.count()).where(_events.c.search == search, _events.c.kind == kind)
        with self.engine.connect() as connection:
            return connection.execute(query).scalar_one()

    def delete(self, search: str) -> None:
        """Forget a search."""
        with self.engine.begin() as connection:
            connection.execute(_events.delete().where(_events.c.search == search))

    def close(self) -> None:
        """Release the database."""
        self.engine.dispose()


def cause_of(error: Exception) -> str:
    """The first line of what a database says, without SQLAlchemy's account of the statement."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


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
