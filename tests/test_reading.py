"""Bounded reading: pipes, devices, large files and deep nesting."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from resharp import reading
from resharp.reading import (
    NotRegularError,
    TooLargeError,
    open_any,
    open_regular,
    parse_json,
    read_bounded,
    read_json,
)
from tests.waiting import joined, until

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX files")


@posix
def test_a_pipe_a_socket_and_a_device_are_refused_without_waiting(tmp_path: Path) -> None:
    pipe, plug = tmp_path / "pipe", tmp_path / "plug"
    os.mkfifo(pipe)
    for path, what in ((pipe, "a pipe"), ("/dev/zero", "a device")):
        with pytest.raises(NotRegularError, match=what):
            open_regular(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(plug))
        with pytest.raises(NotRegularError, match="a socket"):
            open_regular(plug)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_file_may_have_as_many_bytes_as_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert read_bounded(path, 8) == b"12345678"
    with pytest.raises(TooLargeError, match="more than 7 bytes"):
        read_bounded(path, 7)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(TooLargeError):
        read_bounded(path)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000])
def test_deep_nesting_is_an_error_of_the_text(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(text)


def test_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}', encoding="utf-8")
    assert read_json(path) == {"a": [1]}


@posix
def test_a_pipe_is_read_as_its_data_come(tmp_path: Path) -> None:
    pipe, asked = tmp_path / "pipe", list[int]()
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb", buffering=0) as stream:
            for part in (b"one ", b"two ", b"three"):
                before = len(asked)
                until(lambda: len(asked) > before, "the reader waits")  # noqa: B023
                stream.write(part)

    thread = threading.Thread(target=write)
    with open_any(pipe, lambda: asked.append(1)) as stream:
        thread.start()
        assert stream.read(3) == b"one"
        assert stream.read() == b" two three"
    joined(thread)


@posix
def test_the_wait_for_a_pipe_ends_when_it_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise KeyError("stop")

    with open_any(tmp_path / "pipe", check) as stream, pytest.raises(KeyError):
        stream.read(1)


@posix
def test_a_device_that_never_ends_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST_STREAM", 1 << 16)
    with open_any("/dev/zero") as stream:
        assert stream.read(100) == bytes(100)
        with pytest.raises(TooLargeError, match="delivers more than 65536 bytes"):
            stream.read()
    with open_any("/dev/null") as stream:
        assert stream.read() == b""
    with pytest.raises(IsADirectoryError):
        open_any("/dev")


def test_a_file_is_opened_without_asking(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    with open_any(tmp_path / "file", lambda: pytest.fail("asked")) as stream:
        assert stream.read() == b"data"
