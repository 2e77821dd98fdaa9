"""MLflow servers of the tests' own, and one that misbehaves in front of them."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.postgres import _free_port

START_S = 120.0


class MlflowServer:
    """An `mlflow server`, stopped and started again on one port.

    Args:
        folder: for its artifacts, its log and, by default, its database.
        backend: SQLAlchemy URI of its database.
    """

    def __init__(self, folder: Path, backend: str | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.backend = backend or f"sqlite:///{folder / 'mlflow.db'}"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Its tracking URI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._process is not None

    def start(self) -> None:
        """Start, and return when it answers."""
        env = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
        env |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--workers=1"),
                    *("--host=127.0.0.1", f"--port={self.port}"),
                    f"--backend-store-uri={self.backend}",
                    f"--artifacts-destination={self.folder / 'artifacts'}",
                ],
                cwd=self.folder,
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its workers are stopped with it
            )
        deadline = time.monotonic() + START_S
        while True:
            with suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            ended = self._process.poll() is not None or time.monotonic() > deadline
            assert not ended, (self.folder / "log").read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """End it at once, in the middle of whatever it does; nothing where it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def mlflow_server(folder: Path, backend: str | None = None) -> Iterator[MlflowServer]:
    """A server that runs inside the block."""
    server = MlflowServer(folder, backend)
    try:
        server.start()
        yield server
    finally:
        server.stop()


Behave = Callable[[BaseHTTPRequestHandler, Callable[..., None]], None]
"""(a request, what passes it on to MLflow and answers after some seconds) -> what happens to it."""


class Stub:
    """Stands between a client and an MLflow server, and does with requests what `behave` says.

    Attributes:
        behave: passes a request on, answers it itself, or neither.
        requests: how often each path was asked for.
    """

    def __init__(self, upstream: MlflowServer) -> None:
        self.behave: Behave = lambda _, forward: forward()
        self.requests: Counter[str] = Counter()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                stub.requests[self.path.partition("?")[0]] += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with suppress(ConnectionError):  # the client waits no more
                    stub.behave(self, partial(_forward, self, body, upstream.port))

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def uri(self) -> str:
        """Its address as a tracking URI."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def hanging(*_: object) -> None:
    """Answer nothing, for longer than anyone waits (a behaviour)."""
    time.sleep(60)
    raise ConnectionAbortedError


def answering(status: int, text: str = "not now") -> Behave:
    """Answer every request with a status (a behaviour)."""
    return lambda handler, _: _answer(handler, status, text.encode())


def _forward(
    handler: BaseHTTPRequestHandler, body: bytes, port: int, answer_after_s: float = 0.0
) -> None:
    upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {k: v for k, v in handler.headers.items() if k.lower() != "host"}
    try:
        upstream.request(handler.command, handler.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
    except OSError as error:
        _answer(handler, 502, str(error).encode())
    else:
        time.sleep(answer_after_s)
        _answer(handler, answer.status, content, answer.headers.get_content_type())
    finally:
        upstream.close()


def _answer(
    handler: BaseHTTPRequestHandler, status: int, content: bytes, kind: str = "text/plain"
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
