"""A metadata service as AWS has it, on the loopback interface."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "a-token"


class Service:
    """What it knows; `notice` makes it say that the machine goes."""

    def __init__(self) -> None:
        self.action: dict[str, str] | None = None
        self.status: int | None = None
        """What it answers to everything, if it is in trouble."""

    def notice(self, left_s: float) -> None:
        at = datetime.fromtimestamp(time.time() + left_s, UTC)
        self.action = {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}


@contextmanager
def service() -> Iterator[tuple[Service, str]]:
    """A running service and its address."""
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: str = "") -> None:
            self.send_response(state.status or status)
            self.end_headers()
            self.wfile.write(body.encode())

        def do_PUT(self) -> None:
            seconds = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
            known = self.path == "/latest/api/token" and 0 < int(seconds) <= 21600
            self.answer(200 if known else 400, TOKEN)

        def do_GET(self) -> None:
            if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
                self.answer(401)
            elif self.path == "/latest/meta-data/spot/instance-action" and state.action:
                self.answer(200, json.dumps(state.action))
            else:
                self.answer(404)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
