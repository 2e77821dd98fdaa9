"""One process runs a search: a lease in the record's database, with the holder's name on it.

A holder that is gone for certain (same machine, no such process) is replaced at once. Of a
holder elsewhere only its silence is known, so that taking over is left to people. Should two
processes write all the same, the record refuses the second: see `Journal.write`.
"""

import functools
import os
import socket
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
import sqlalchemy as sa

from search.errors import KdcurveError
from search.journal import Journal, leases

RENEW_S = 10.0
"""How often a holder shows that it is alive."""
_BORN_TOLERANCE_S = 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease: a process on a machine."""

    machine: str
    """Boot and process namespace: a process id says something only within them."""
    host: str
    pid: int
    born: float
    """Seconds from the machine's start to the process's: no clock change moves it."""

    @classmethod
    def here(cls) -> "Holder":
        """This process."""
        pid = os.getpid()
        return cls(_machine(), socket.gethostname(), pid, _born(pid))

    @property
    def gone(self) -> bool:
        """Whether this process has ended for certain (False where that cannot be known)."""
        if self.machine != _machine():
            return False
        try:
            return abs(_born(self.pid) - self.born) > _BORN_TOLERANCE_S
        except psutil.NoSuchProcess:
            return True


def _born(pid: int) -> float:
    return psutil.Process(pid).create_time() - psutil.boot_time()


@functools.cache
def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # not Linux
        return f"{socket.gethostname()} {uuid.getnode()}"
    return f"{boot} {namespace}"


class Lease:
    """The right to write to one search's record, held until `release`.

    Args:
        journal: the record.
        search: its name.
        take_over: replace a holder whatever is known of it.

    Raises:
        KdcurveError: another process holds it; the message says who, and what to do.
    """

    def __init__(self, journal: Journal, search: str, *, take_over: bool = False) -> None:
        self._engine = journal.engine
        self._search = search
        self._token = uuid.uuid4().hex
        self.renewed = time.monotonic()
        me, now = vars(Holder.here()), time.time()
        row = {**me, "holder": self._token, "since": now, "renewed": now}
        with self._engine.begin() as connection:
            held = connection.execute(
                sa.select(leases).where(leases.c.search == search)
            ).one_or_none()
            if held is None:
                change: sa.Insert | sa.Update = leases.insert().values(search=search, **row)
            elif take_over or _holder(held).gone:
                # Only if it is still the one that was looked at.
                change = leases.update().where(self._is(held.holder)).values(**row)
            else:
                raise KdcurveError(_refusal(search, held))
            try:
                taken = connection.execute(change).rowcount
            except sa.exc.IntegrityError:
                taken = 0
        if not taken:
            raise KdcurveError(f"another process has just taken up the search {search!r}")

    def renew(self) -> bool:
        """Show that this process is alive; whether it still holds the lease."""
        change = leases.update().where(self._is(self._token)).values(renewed=time.time())
        with self._engine.begin() as connection:
            held = connection.execute(change).rowcount
        self.renewed = time.monotonic()
        return bool(held)

    def release(self) -> None:
        """Let others write."""
        with self._engine.begin() as connection:
            connection.execute(leases.delete().where(self._is(self._token)))

    def _is(self, holder: str) -> sa.ColumnElement[bool]:
        return sa.and_(leases.c.search == self._search, leases.c.holder == holder)


def running(journal: Journal) -> dict[str, str]:
    """Searches that some process runs, as far as is known, and who runs them."""
    with journal.engine.connect() as connection:
        held = connection.execute(sa.select(leases)).all()
    return {row.search: _who(row) for row in held if not _holder(row).gone}


def _holder(row: sa.Row[tuple[object, ...]]) -> Holder:
    return Holder(row.machine, row.host, row.pid, row.born)


def _who(row: sa.Row[tuple[object, ...]]) -> str:
    since = datetime.fromtimestamp(row.since).astimezone().strftime("%Y-%m-%d %H:%M")
    return f"process {row.pid} on {row.host} since {since}"


def _refusal(search: str, row: sa.Row[tuple[object, ...]]) -> str:
    holder = _holder(row)
    who = f"the search {search!r} is held by {_who(row)}"
    if holder.machine == _machine():
        return f"{who}; stop it with Ctrl-C there or: kill {holder.pid}"
    silent = max(0, round(time.time() - row.renewed))
    return (
        f"{who}; it last showed itself {silent} s ago (it does every {RENEW_S:g} s). "
        f"If that process is gone for good: kdcurve resume {search} --take-over"
    )
