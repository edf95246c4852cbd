"""Servers that send more than the file, lie about its length, or send almost nothing."""

from __future__ import annotations

import gc
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from resharp.errors import ChecksumError, DownloadError
from resharp.weights import ModelEntry, download, fetch
from tests.waiting import LIMIT
from tests.weights.conftest import BODY, left, tiny
from tests.weights.server import Answer, Handler, Server

SHA256 = "ab" * 32


def endless(handler: Handler, body: bytes) -> None:
    """No length, and no end."""
    handler.head()
    while True:
        handler.wfile.write(bytes(1 << 16))


def endless_chunks(handler: Handler, body: bytes) -> None:
    handler.head(Transfer_Encoding="chunked")
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def compressed(handler: Handler, body: bytes) -> None:
    """A kilobyte that becomes a megabyte."""
    data = gzip.compress(bytes(1 << 20))
    handler.head(Content_Encoding="gzip", Content_Length=len(data))
    handler.wfile.write(data)


ENDLESS = (endless, endless_chunks, compressed)


@pytest.mark.parametrize("answer", ENDLESS)
def test_no_more_than_the_file_is_taken(
    server: Server, entry: ModelEntry, tmp_path: Path, answer: Answer
) -> None:
    server.plans["tiny.pth"] = [answer]
    taken: list[float] = []
    with pytest.raises(ChecksumError, match="wrong file: more than 700000 bytes"):
        fetch(entry, tmp_path, timeout=LIMIT, progress=lambda done, total: taken.append(done))
    assert max(taken, default=0) <= 700_000
    assert left(tmp_path) == []


@pytest.mark.parametrize("answer", ENDLESS)
def test_a_file_of_unknown_size_has_a_limit(
    server: Server, tmp_path: Path, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", 500_000)
    server.plans["tiny.pth"] = [answer]
    entry = tiny(server.url, bytes=None, sha256=None)
    with pytest.raises(ChecksumError, match="wrong file: more than 500000 bytes"):
        fetch(entry, tmp_path, sha256=SHA256, timeout=LIMIT)
    assert left(tmp_path) == []


def test_a_length_beyond_the_limit_is_not_downloaded(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "LARGEST", 500_000)
    entry = tiny(server.url, bytes=None, sha256=None)
    with pytest.raises(ChecksumError, match="wrong file: 700000 bytes, more than 500000"):
        fetch(entry, tmp_path, sha256=SHA256, timeout=LIMIT)


def test_the_body_of_a_redirect_is_not_read(
    server: Server, entry: ModelEntry, tmp_path: Path
) -> None:
    def redirect(handler: Handler, body: bytes) -> None:
        handler.head(302, Location=f"{server.url}/tiny.pth")
        until = time.monotonic() + LIMIT
        while time.monotonic() < until:  # ends with the connection
            handler.wfile.write(bytes(1 << 16))

    server.plans["tiny.pth"] = [redirect]
    assert fetch(entry, tmp_path, timeout=LIMIT).read_bytes() == BODY


@contextmanager
def raw(*headers: bytes, body: bytes = BODY) -> Iterator[str]:
    """Serve one answer with any headers; yield the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    lines = (b"HTTP/1.1 200 OK", *headers, b"Connection: close", b"", b"")
                    connection.sendall(b"\r\n".join(lines) + body)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    "headers",
    [
        (b"Content-Length: abc",),
        (b"Content-Length: -5",),
        (b"Content-Length: 700000, 700000",),
        (b"Content-Length: \xc2\xb2",),
        (b"Content-Length:",),
        (b"Content-Length: 5", b"Content-Length: 700000"),
        (b"Content-Length: 5, 700000",),
        (b"Content-Length: " + b"9" * 5000,),
        (b"Transfer-Encoding: chunked",),
        (b"Content-Encoding: gzip",),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_headers_that_make_no_sense(tmp_path: Path, headers: tuple[bytes, ...]) -> None:
    """The file arrives whole, or the failure is told and nothing is left."""
    path = None
    with raw(*headers) as url, suppress(DownloadError, ChecksumError):
        path = fetch(tiny(url), tmp_path, timeout=LIMIT, attempts=1)
    assert path is None or path.read_bytes() == BODY
    assert left(tmp_path) == ([] if path is None else ["tiny.pth"])
    gc.collect()  # urllib3 leaves the socket to it if it refuses the headers


def test_a_server_that_drips(
    server: Server, entry: ModelEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte before each timeout: no single wait is too long, but the file would take for ever."""
    monkeypatch.setattr(download, "PATIENCE", 0.05)

    def drip(handler: Handler, body: bytes) -> None:
        handler.head(Content_Length=len(body))
        for index in range(len(body)):
            handler.wfile.write(body[index : index + 1])
            time.sleep(0.02)

    server.plans["tiny.pth"] = [drip] * 2
    begun = time.monotonic()
    with pytest.raises(DownloadError, match="fewer than 65536 bytes within"):
        fetch(entry, tmp_path, timeout=4, attempts=2, backoff=0)
    assert time.monotonic() - begun < LIMIT
    assert left(tmp_path) == []
