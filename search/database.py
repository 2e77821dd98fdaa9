"""The database of the record: its tables, how it is opened, made and brought up to date."""

import contextlib
import sqlite3
import uuid
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
import tenacity
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from analysis.secrets import redacted
from search.errors import KdcurveError

VERSION = 2
"""Version of the tables below."""
LOCK_S = 60.0
"""How long a write waits for another process that holds an SQLite record."""
_VANISHED = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
"""When PostgreSQL's client gives up a server that vanished; by itself it waits for hours."""
_SETTING_UP = 0x6B6463757276
"""PostgreSQL's lock for one process at a time to make tables: a number of our own."""
_BEGIN = "kdcurve_begin"
"""Execution option: the statement that begins a transaction on SQLite."""

_metadata = sa.MetaData()
events = sa.Table(
    "kdcurve_events",
    _metadata,
    # Two writers of one search would use a number twice: the later one is refused.
    sa.Column("search", sa.String(200), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("trial", sa.Integer),
    # Not the database's JSON type: PostgreSQL's refuses NaN.
    sa.Column("data", sa.Text, nullable=False),
    sa.Index("kdcurve_events_by_kind", "kind", "search"),
)
meta = sa.Table(
    "kdcurve_journal",
    _metadata,
    sa.Column("version", sa.Integer, primary_key=True),
    sa.Column("identity", sa.String(32), nullable=False),
)
leases = sa.Table(
    "kdcurve_leases",
    _metadata,
    sa.Column("search", sa.String(200), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("host", sa.String(300), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("born", sa.Float, nullable=False),
    sa.Column("machine", sa.String(300), nullable=False),
    sa.Column("boot", sa.String(100), nullable=False),
    sa.Column("namespace", sa.String(100), nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("renewed", sa.Float, nullable=False),
)
"""Who runs which search now; see `search.lease`."""


def open_database(uri: str, *, create: bool) -> sa.Engine:
    """Open a record; of an earlier version it is brought up to date.

    Args:
        uri: SQLAlchemy URI, e.g. ``sqlite:///record.db`` or ``postgresql://user@host/db``.
        create: make the tables if they are missing; a reader leaves them alone.

    Raises:
        KdcurveError: it cannot be opened, is not there, or is from a newer version.
    """
    shown = redacted(uri)
    try:
        engine = _engine(uri)
    except ImportError as error:
        raise KdcurveError(
            f"--record {shown!r} needs a driver that is not installed ({error}); "
            "for PostgreSQL: pip install 'kdcurve[postgres]'"
        ) from error
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError) as error:
        cause = str(error).splitlines()[0].replace(uri, shown)
        raise KdcurveError(f"--record {shown!r} is not a database URI: {cause}") from error
    version = None
    try:
        if create:
            if engine.name == "sqlite":
                _write_ahead(engine)
        elif not _may_exist(engine.url):
            raise _missing(shown)
        with engine.connect() as connection:
            version = _version(connection)
        if version == 1 or (version is None and create):
            _set_up(engine)
            version = VERSION
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        doing = f"bring the record {shown} from version {version} to {VERSION}"
        what = doing if version else f"open the record {shown}"
        raise KdcurveError(f"cannot {what}: {cause_of(error)}") from error
    if version is None:
        raise _missing(shown)
    if version > VERSION:
        raise KdcurveError(
            f"the record {shown} was written by a newer kdcurve (version {version}; "
            f"this one reads up to {VERSION}): upgrade kdcurve"
        )
    return engine


def transaction(engine: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """A connection to write with: all is written when the context is left, or nothing."""
    return engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"}).begin()


def cause_of(error: Exception) -> str:
    """The first line of what a database says, without SQLAlchemy's account of the statement."""
    lines = str(getattr(error, "orig", None) or error).splitlines()
    return lines[0] if lines else type(error).__name__


def _missing(shown: str) -> KdcurveError:
    return KdcurveError(f"there is no record at {shown}; no search was started there")


def _engine(uri: str) -> sa.Engine:
    url = sa.make_url(uri)
    if url.get_backend_name() == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ValueError("it would be kept in memory only")
        engine = sa.create_engine(url, connect_args={"timeout": LOCK_S})
        sa.event.listen(engine, "connect", _connected_to_file)
        sa.event.listen(engine, "begin", _begin)
        return engine
    if "@" in (url.host or ""):
        raise ValueError("an '@' in a password is written %40")
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "postgresql":
        url = url.set(query={**_VANISHED, **url.query})
    # A server may restart between two commits: ask before a connection is used again.
    engine = sa.create_engine(url, pool_pre_ping=True)
    if engine.name == "postgresql":
        sa.event.listen(engine, "connect", _connected_to_server)
    return engine


def _connected_to_server(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # A machine that dies in the middle of a transaction must not hold its locks for hours.
    connection.cursor().execute("SET idle_in_transaction_session_timeout = '60s'")
    connection.commit()


def _connected_to_file(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # sqlite3 itself would leave CREATE outside transactions
    # Every commit reaches the disk. That costs nothing here: a thread of its own waits for it.
    connection.cursor().execute("PRAGMA synchronous=FULL")


def _begin(connection: sa.Connection) -> None:
    # A write that begins as a read would be refused if another came in between.
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _write_ahead(engine: sa.Engine) -> None:
    """With a write-ahead log, readers of an SQLite file never block its writer."""
    retrying = tenacity.Retrying(
        # SQLite does not wait here if another process is just doing the same.
        retry=tenacity.retry_if_exception(_is_busy),
        wait=tenacity.wait_random(0.01, 0.1),
        stop=tenacity.stop_after_delay(LOCK_S),
        reraise=True,
    )
    with contextlib.closing(engine.raw_connection()) as connection:
        retrying(connection.cursor().execute, "PRAGMA journal_mode=WAL")


def _is_busy(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _may_exist(url: sa.URL) -> bool:
    """Whether a database may be there; opening an SQLite file that is missing would make it."""
    if url.get_backend_name() != "sqlite":
        return True
    database = url.database or ""
    if database.startswith("file:"):
        database = unquote(urlsplit(database).path)
    return Path(database).exists()


def _version(connection: sa.Connection) -> int | None:
    if not sa.inspect(connection).has_table(meta.name):
        return None
    return connection.scalar(sa.select(meta.c.version))


def _set_up(engine: sa.Engine) -> None:
    """Make the tables, or bring them up to date; several processes may be at it at once."""
    with transaction(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETTING_UP)))
        match _version(connection):
            case None:
                _metadata.create_all(connection)
            case 1:
                _upgrade(connection)
            case _:
                return  # another process was first
        connection.execute(meta.insert().values(version=VERSION, identity=uuid.uuid4().hex))


def _upgrade(connection: sa.Connection) -> None:
    """Number the events of version 1 by search; it ordered those of all searches by one id.

    The tables are made anew, and so refuse what a process of version 1 would still write.
    """
    for statement in (
        "ALTER TABLE kdcurve_events RENAME TO kdcurve_events_1",
        "DROP TABLE kdcurve_journal",
    ):
        connection.exec_driver_sql(statement)
    _metadata.create_all(connection)
    for statement in (
        "INSERT INTO kdcurve_events (search, number, time, kind, trial, data) "
        "SELECT search, ROW_NUMBER() OVER (PARTITION BY search ORDER BY id), time, kind, trial, "
        "CAST(data AS TEXT) FROM kdcurve_events_1",
        "DROP TABLE kdcurve_events_1",
    ):
        connection.exec_driver_sql(statement)
