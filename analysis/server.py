"""Whether what serves a tracking URI is there, and how its errors are told in one line."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from analysis.errors import AnalysisError
from analysis.secrets import redacted

PROBE_S = 5.0
"""How long a server has to accept a connection."""
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def require_store(tracking_uri: str) -> None:
    """Fail at once where MLflow would create an empty database or retry for minutes."""
    parts = urlsplit(tracking_uri)
    if parts.scheme.partition("+")[0] == "sqlite":
        path = Path(unquote(parts.path[1:]))
        if not path.is_file():
            raise AnalysisError(f"no MLflow database at {path}: nothing was recorded there yet")
    require_server(tracking_uri)


def require_server(tracking_uri: str) -> None:
    """Make sure that whatever serves a tracking URI takes connections, within seconds.

    MLflow itself would try a database that it cannot open for 101 s, and a server for longer.

    Raises:
        AnalysisError: it does not; its cause is what failed.
    """
    parts = urlsplit(tracking_uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme in _DATABASES:
            _open_database(tracking_uri)
        elif scheme in _PORTS and parts.hostname and _is_direct(scheme, parts.hostname):
            _knock(parts.hostname, parts.port or _PORTS[scheme])
    except Exception as error:
        if type(error) is ValueError:
            # Its own words may quote a password with a slash in it, taken for the port.
            error = ValueError("its port is not a number")
        raise AnalysisError(
            f"MLflow at {redacted(tracking_uri)} does not answer: {_first_line(error)}"
        ) from error


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=PROBE_S).close()


def _open_database(tracking_uri: str) -> None:
    import sqlalchemy as sa  # noqa: PLC0415  (a web address does without)

    url = sa.make_url(tracking_uri)
    backend = url.get_backend_name()
    if backend == "sqlite" and not Path(url.database or "").parent.is_dir():
        return  # MLflow makes the folder, or fails at once
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    if url.host and backend in _PORTS and "," not in url.host:
        _knock(url.host, url.port or _PORTS[backend])
    engine.connect().close()


def _first_line(error: Exception) -> str:
    """What an error says: MLflow, SQLAlchemy and requests each raise pages of text."""
    text = str(getattr(error, "orig", None) or error).strip()
    return redacted(text.partition("\n")[0])[:300]


def _is_direct(scheme: str, host: str) -> bool:
    """Whether a connection goes to the host itself: behind a proxy a probe says nothing."""
    return scheme not in getproxies() or bool(proxy_bypass(host))


@contextmanager
def one_line_errors(tracking_uri: str) -> Iterator[None]:
    """Whatever MLflow raises inside, as an `AnalysisError` of one line."""
    try:
        yield
    except AnalysisError:
        raise
    except Exception as error:
        uri = redacted(tracking_uri)
        raise AnalysisError(f"MLflow at {uri} cannot be read: {_first_line(error)}") from error
