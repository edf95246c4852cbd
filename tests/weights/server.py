"""A web server on this machine that does to a download what the world does."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.waiting import LIMIT

Answer = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Answers a GET with the next planned answer for its file, else with the file."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        with self.server.guard:
            self.server.gets.append(self.path)
            plan = self.server.plans[name]
            answer = plan.pop(0) if plan else serve
        self.close_connection = True
        answer(self, self.server.files.get(name, b""))

    def head(self, status: int = 200, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing: tests read ``gets``."""


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``plans`` has answers by file name; ``gets`` are the paths asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.plans: dict[str, list[Answer]] = defaultdict(list)
        self.gets: list[str] = []
        self.guard = threading.Lock()
        self.gate = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *args: Any) -> None:
        """A client that went away is what these tests are about."""


def serve(handler: Handler, body: bytes) -> None:
    if not body:
        handler.head(404, Content_Length=0)
        return
    handler.head(Content_Length=len(body))
    handler.wfile.write(body)


def status(code: int) -> Answer:
    return lambda handler, body: handler.head(code, Content_Length=0)


def cut(handler: Handler, body: bytes) -> None:
    """Promise everything, send half, hang up."""
    handler.head(Content_Length=len(body))
    handler.wfile.write(body[: len(body) // 2])


def cut_unannounced(handler: Handler, body: bytes) -> None:
    """Send half without a Content-Length: only the size reveals it."""
    handler.head()
    handler.wfile.write(body[: len(body) // 2])


def corrupt(handler: Handler, body: bytes) -> None:
    serve(handler, body[:-1] + bytes([body[-1] ^ 1]))


def other(handler: Handler, body: bytes) -> None:
    """A login page, for example."""
    serve(handler, b"<html>please log in</html>")


def redirect(url: str) -> Answer:
    return lambda handler, body: handler.head(302, Location=url, Content_Length=0)


def hang(handler: Handler, body: bytes) -> None:
    """Accept, and send nothing until the gate opens."""
    handler.server.gate.wait(LIMIT)


def half_then_gate(handler: Handler, body: bytes) -> None:
    """Send half; the rest when the gate opens."""
    handler.head(Content_Length=len(body))
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.server.gate.wait(LIMIT)
    handler.wfile.write(body[len(body) // 2 :])
