"""Bounded reading: pipes, devices, large files and deep nesting."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from resharp.reading import (
    NotRegularError,
    TooLargeError,
    open_regular,
    parse_json,
    read_bounded,
    read_json,
)

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
        with pytest.raises(OSError, match="No such device"):
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
