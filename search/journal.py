"""The durable record of a search: one append-only table of events.

Everything else (Optuna's studies, the rungs, MLflow's runs, the display) is derived
from these events and can be rebuilt from them.
"""

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from search.errors import KdcurveError, UsageError

JOURNAL_VERSION = 1
LOCK_S = 60.0
"""How long a write waits for another process that holds an SQLite record."""


class EventKind(StrEnum):
    """What can happen to a search; the data that goes with it in brackets."""

    PLANNED = "planned"
    """The search began (spec, versions, git_commit, hardware)."""
    RESUMED = "resumed"
    """The search was taken up again."""
    PREPARED = "prepared"
    """A teacher or scores are there (key, metadata)."""
    PROPOSED = "proposed"
    """A trial was decided on (context, values, seed, start_design)."""
    STARTED = "started"
    """A worker took a trial up."""
    REPORTED = "reported"
    """An epoch is done (epoch, metrics)."""
    RUNG = "rung"
    """The scheduler decided at a rung (epoch, stop)."""
    ENDED = "ended"
    """A trial ended (outcome, reason)."""
    ANSWER = "answer"
    """The curve was fitted (curve)."""
    CLOSED = "closed"
    """The search came to a halt (state)."""


@dataclass(frozen=True)
class Event:
    """One fact. `id` orders all events; `time` is in seconds since the epoch."""

    id: int
    time: float
    kind: EventKind
    trial: int | None
    data: dict[str, Any]


_metadata = sa.MetaData()
_events = sa.Table(
    "kdcurve_events",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("search", sa.String(200), nullable=False),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("trial", sa.Integer),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Index("kdcurve_events_by_search", "search", "id"),
)
_meta = sa.Table(
    "kdcurve_journal",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True),
)


def _durable_but_quick(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # With a write-ahead log a commit survives the death of the process without
    # waiting for the disk; readers never block the writer.
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


class Journal:
    """Append and read events of all searches in one database.

    Args:
        uri: SQLAlchemy URI, e.g. ``sqlite:///record.db``.
        create: make the tables if they are missing; a reader leaves them alone.

    Raises:
        KdcurveError: the database cannot be opened, or is from a newer version.
    """

    def __init__(self, uri: str, *, create: bool = True) -> None:
        self.uri = uri
        try:
            url = sa.make_url(uri)
            patience = {"timeout": LOCK_S} if url.get_backend_name() == "sqlite" else {}
            self._engine = sa.create_engine(url, connect_args=patience)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError, ValueError) as error:
            shown = re.sub(r"://[^/]*@", "://***@", uri)  # as it stands, it may hold a password
            cause = str(error).splitlines()[0]
            raise KdcurveError(f"--record {shown!r} is not a database URI: {cause}") from error
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite":
            if not create and not Path(url.database or "").exists():
                raise KdcurveError(f"there is no record at {shown}; no search was started there")
            sa.event.listen(self._engine, "connect", _durable_but_quick)
        try:
            if create:
                self._create()
            with self._engine.connect() as connection:
                version = connection.execute(sa.select(_meta.c.version)).scalar_one()
        except sa.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise KdcurveError(f"cannot open the record {shown}: {cause}") from error
        if version > JOURNAL_VERSION:
            raise KdcurveError(
                f"the record {shown} was written by a newer kdcurve (version {version}; "
                f"this one reads up to {JOURNAL_VERSION}): upgrade kdcurve"
            )

    def _create(self) -> None:
        _metadata.create_all(self._engine)
        with self._engine.begin() as connection:
            if connection.execute(sa.select(_meta)).first() is None:
                connection.execute(_meta.insert().values(version=JOURNAL_VERSION))

    def append(
        self, search: str, events: Iterable[tuple[EventKind, int | None, dict[str, Any]]]
    ) -> list[Event]:
        """Write events in one transaction and return them with their ids."""
        now = time.time()
        written = []
        try:
            with self._engine.begin() as connection:
                for kind, trial, data in events:
                    row = {"search": search, "time": now, "kind": kind, "trial": trial}
                    result = connection.execute(_events.insert(), {**row, "data": data})
                    primary_key = result.inserted_primary_key
                    assert primary_key is not None  # noqa: S101  (every database of ours has one)
                    written.append(Event(primary_key[0], now, kind, trial, data))
        except sa.exc.SQLAlchemyError as error:
            cause = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise KdcurveError(f"cannot write to the record: {cause}") from error
        return written

    def events(self, search: str, after: int = 0) -> Iterator[Event]:
        """Events of a search in order, those with an id above `after`."""
        query = (
            sa.select(_events)
            .where(_events.c.search == search, _events.c.id > after)
            .order_by(_events.c.id)
        )
        with self._engine.connect() as connection:
            for row in connection.execute(query):
                yield Event(row.id, row.time, EventKind(row.kind), row.trial, row.data)

    def searches(self) -> list[str]:
        """Names of all searches, in the order they began."""
        query = (
            sa.select(_events.c.search)
            .where(_events.c.kind == EventKind.PLANNED)
            .group_by(_events.c.search)
            .order_by(sa.func.min(_events.c.id))
        )
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()


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
