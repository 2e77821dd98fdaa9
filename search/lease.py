"""One process runs a search: a lease in the record's database, with the holder's name on it.

A holder that is gone for certain (on this machine, which was restarted since, or has no such
process) is replaced at once. Of a holder elsewhere only its silence is known, so that taking over
is left to people. Should one that was replaced still be at work, it finds out with its next write,
which asks for the lease in the same transaction: see `Lease.renew`.
"""

import functools
import os
import socket
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil
import sqlalchemy as sa

from search.database import cause_of, leases
from search.errors import KdcurveError
from search.journal import Journal

RENEW_S = 10.0
"""How often a holder shows that it is alive, at least."""
_BORN_TOLERANCE_S = 1.0
_TRIES = 5


class TakenOverError(KdcurveError):
    """The lease is another's now."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: a process on a machine."""

    host: str
    pid: int
    born: float
    """Seconds from the machine's start to the process's: no clock change moves it."""
    machine: str
    """The machine, also after a restart."""
    boot: str
    """Its run since it was last started."""
    namespace: str
    """Where its processes are counted: containers on one machine count their own."""

    @classmethod
    def here(cls) -> "Holder":
        """This process."""
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _born(psutil.Process(pid)), *_machine())

    @property
    def gone(self) -> bool:
        """Whether this process has ended for certain (False where that cannot be known)."""
        machine, boot, namespace = _machine()
        if self.machine != machine:
            return False
        if self.boot != boot:
            return True
        if self.namespace != namespace:
            return False
        try:
            process = psutil.Process(self.pid)
            reused = abs(_born(process) - self.born) > _BORN_TOLERANCE_S
            return reused or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def _born(process: psutil.Process) -> float:
    booted = psutil.boot_time()  # first: some versions of psutil remember it for create_time
    return process.create_time() - booted


@functools.cache
def _machine() -> tuple[str, str, str]:
    boot = _content("/proc/sys/kernel/random/boot_id")
    identity = _content("/etc/machine-id") or boot or str(uuid.getnode())
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        namespace = ""
    return f"{socket.gethostname()} {identity}", boot, namespace


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


class Lease:
    """The right to write to one search's record, held until `release`.

    Args:
        journal: the record.
        search: its name.
        take_over: replace a holder whatever is known of it.

    Raises:
        KdcurveError: another process holds it (the message says who, and what to do), or the
            record cannot be written.
    """

    def __init__(self, journal: Journal, search: str, *, take_over: bool = False) -> None:
        self._journal = journal
        self._search = search
        self._token = uuid.uuid4().hex
        try:
            # Whoever finds that another process was quicker looks again, and sees who it is.
            if not any(self._take(take_over) for _ in range(_TRIES)):
                raise KdcurveError(f"other processes are just taking up the search {search!r}")
        except sa.exc.SQLAlchemyError as error:
            raise KdcurveError(f"cannot write to the record: {cause_of(error)}") from error

    def _take(self, take_over: bool) -> bool:
        now = time.time()
        row = {**asdict(Holder.here()), "token": self._token, "since": now, "renewed": now}
        try:
            with self._journal.transaction() as connection:
                held = _held(connection, self._search)
                if held is None:
                    change: sa.Insert | sa.Update = leases.insert().values(
                        search=self._search, **row
                    )
                elif take_over or _holder(held).gone:
                    change = leases.update().where(self._is(held.token)).values(**row)
                else:
                    raise KdcurveError(_refusal(held))
                return bool(connection.execute(change).rowcount)
        except sa.exc.IntegrityError:
            return False

    def renew(self, connection: sa.Connection) -> None:
        """Show that this process is alive, before it writes in the same transaction.

        Nobody else can take the lease until that transaction has ended.

        Raises:
            TakenOverError: it is another's; the message says whose.
        """
        change = leases.update().where(self._is(self._token)).values(renewed=time.time())
        if not connection.execute(change).rowcount:
            held = _held(connection, self._search)
            by = "" if held is None else f" by {_who(held)}"
            raise TakenOverError(
                f"the search {self._search!r} was taken over{by}; this process stops"
            )

    def release(self) -> None:
        """Let others write.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database fails.
        """
        with self._journal.transaction() as connection:
            connection.execute(leases.delete().where(self._is(self._token)))

    def _is(self, token: str) -> sa.ColumnElement[bool]:
        return sa.and_(leases.c.search == self._search, leases.c.token == token)


def running(journal: Journal) -> dict[str, str]:
    """Searches that some process runs, as far as is known, and who runs them."""
    with journal.engine.connect() as connection:
        held = connection.execute(sa.select(leases)).all()
    return {row.search: _who(row) for row in held if not _holder(row).gone}


_Held = sa.Row[tuple[object, ...]]


def _held(connection: sa.Connection, search: str) -> _Held | None:
    return connection.execute(sa.select(leases).where(leases.c.search == search)).one_or_none()


def _holder(held: _Held) -> Holder:
    return Holder(held.host, held.pid, held.born, held.machine, held.boot, held.namespace)


def _who(held: _Held) -> str:
    since = datetime.fromtimestamp(held.since).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"process {held.pid} on {held.host} since {since}"


def _refusal(held: _Held) -> str:
    who = f"the search {held.search!r} is held by {_who(held)}"
    if (held.machine, held.boot, held.namespace) == _machine():
        return f"{who}; stop it with Ctrl-C there or: kill {held.pid}"
    silent = max(0, round(time.time() - held.renewed))
    return (
        f"{who}; it last showed itself {silent} s ago (it does every {RENEW_S:g} s). "
        f"If that process is gone for good: kdcurve resume {held.search} --take-over"
    )
