"""Files that appear whole or not at all, locks between processes, and SHA-256."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.errors import OutputError
from resharp.fsutil import (
    LockTimeoutError,
    copy_hashed,
    locked,
    remove_leftovers,
    replacing,
    sha256_of,
    write_whole,
)
from tests import held
from tests.waiting import LIMIT, until

LONG = ("사진 🌄.png", "a" * 251 + ".png", "가" * 83 + ".png", "[a]*?.png")
NAMES = LONG[:3] if sys.platform == "win32" else LONG


class Stop(BaseException):
    """No OSError, as an interrupt is none."""


def half_written(path: Path) -> None:
    path.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_written_and_replaced(tmp_path: Path, name: str) -> None:
    for data in (b"one", bytearray(b"two"), memoryview(b"three")):
        write_whole(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data
    write_whole(str(tmp_path / name), b"")
    assert (tmp_path / name).read_bytes() == b""
    assert names(tmp_path) == [name]


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_names_are_those_of_the_file_system_s_encoding(tmp_path: Path) -> None:
    """In a process whose file system encoding is ASCII, and names of up to 255 bytes."""
    code = (
        "import os, sys; from resharp.fsutil import replacing, write_whole\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "for name in sys.argv[1:]:\n"
        "    write_whole(name, b'data')\n"
        "    with replacing(name) as part: assert len(os.fsencode(part.name)) < 220; part.touch()"
    )
    names = ["\u65e5.png", "\uac00" * 83 + ".png", "a" * 250 + "é.md"]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command: list[str | bytes] = [sys.executable, "-c", code, *map(os.fsencode, names)]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems take text alone")
def test_leftovers_of_names_that_are_no_text_are_their_own(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff.png")
    other, own = tmp_path / ".a.png.01234567.part", tmp_path / f".{name}.01234567.part"
    for path in (other, own):
        path.write_bytes(b"half")
    remove_leftovers(tmp_path / name)
    assert other.exists()
    assert not own.exists()


def test_folders_are_made_where_that_is_asked_for(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "c", b"x", parents=True)
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"x"
    with pytest.raises(OutputError, match=r"c.d cannot be written: the folder .*c does not exist"):
        write_whole(tmp_path / "a" / "b" / "c" / "d", b"x")


def test_the_mode_is_that_of_any_new_file(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"x")
        (tmp_path / "plain").write_bytes(b"")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    if there:
        (tmp_path / "real" / "a").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "a").read_bytes() == b"new"
    assert names(tmp_path / "real") == ["a"]


@given(
    old=st.none() | st.binary(max_size=50),
    new=st.binary(max_size=50),
    call=st.sampled_from(("open", "fsync", "replace")),
    failure=st.sampled_from((OSError(errno.ENOSPC, "No space left"), Stop())),
)
def test_a_writer_that_fails_leaves_the_old_file(
    old: bytes | None, new: bytes, call: str, failure: BaseException
) -> None:
    def fail(*_: Any) -> int:
        raise failure

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.bin")
        if old is not None:
            path.write_bytes(old)
        kind = OutputError if isinstance(failure, OSError) else Stop
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(kind) as error:
                write_whole(path, new)
        assert names(path.parent) == ([] if old is None else ["a.bin"])
        assert old is None or path.read_bytes() == old
        if kind is OutputError:
            assert "a.bin cannot be written: No space left. Free some space" in str(error.value)


def test_the_temporary_file_is_beside_the_target(tmp_path: Path) -> None:
    with replacing(tmp_path / "holiday.png") as part:
        part.write_bytes(b"in pieces")
        assert names(tmp_path) == [part.name]
        assert part.name.startswith(".holiday.png.")
        assert part.name.endswith(".part")
    assert names(tmp_path) == ["holiday.png"]
    with (
        pytest.raises(OSError, match="No space left"),
        replacing(tmp_path / "holiday.png") as part,
    ):
        half_written(part)
    assert (tmp_path / "holiday.png").read_bytes() == b"in pieces"
    assert names(tmp_path) == ["holiday.png"]


def test_reasons_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"):
        write_whole(tmp_path / "nowhere" / "a.png", b"x")
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        write_whole(tmp_path / "taken.png", b"x")

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OutputError, match="no permission to write to"):
        write_whole(tmp_path / "a.png", b"x")
    assert names(tmp_path) == ["taken.png"]


KILLED = """
import sys
from resharp.fsutil import locked, replacing
from pathlib import Path
with locked(Path(sys.argv[2])), replacing(sys.argv[1]) as part:
    part.write_bytes(b"half")
    print(part, flush=True)
    sys.stdin.read()
"""


@pytest.mark.processes
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_writer_leaves_the_old_file_and_no_lock(tmp_path: Path, name: str) -> None:
    path, lock = tmp_path / name, tmp_path / "lock"
    path.write_bytes(b"old")
    (tmp_path / f".{path.name[:5]}.other.part").write_bytes(b"of somebody else")
    before = names(tmp_path)
    with held.start("-c", KILLED, str(path), str(lock)) as child:
        assert child.stdout is not None
        part = Path(child.stdout.readline().rstrip("\n"))
        with pytest.raises(LockTimeoutError, match="lock is locked by another"):
            locked(lock, timeout=0).__enter__()
        child.kill()
    assert part.read_bytes() == b"half"
    assert path.read_bytes() == b"old"
    with locked(lock, on_wait=lambda: pytest.fail("its lock was left")):
        remove_leftovers(path)
    assert names(tmp_path) == sorted([*before, "lock"])
    assert path.read_bytes() == b"old"


@pytest.mark.processes
def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    path, waits, order = tmp_path / "made" / "a.lock", threading.Event(), []

    def work() -> None:
        with locked(path, on_wait=waits.set):
            order.append("second")

    thread = threading.Thread(target=work)
    with locked(path):
        thread.start()
        until(waits.is_set)
        order.append("first")
    thread.join(LIMIT)
    assert order == ["first", "second"]
    with pytest.raises(LockTimeoutError), locked(path), locked(path, timeout=0.01):
        pass
    with locked(path, timeout=0):
        pass


def test_a_lock_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file") as error, locked(tmp_path / "file" / "a.lock"):
        pass
    assert not isinstance(error.value, LockTimeoutError)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_hashes(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data, path = data[:size], tmp_path / "a"
    known = hashlib.sha256(data).hexdigest()
    assert copy_hashed(io.BytesIO(data), path) == (known, size)
    assert path.read_bytes() == data
    assert sha256_of(path) == sha256_of(data) == known


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_neither_replaced_nor_hashed(tmp_path: Path) -> None:
    """Renaming a file to its name would remove it, and /dev/null with it for root."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    (tmp_path / "link.png").symlink_to(pipe)
    for name in ("pipe.png", "link.png"):
        words = rf"{name} cannot be written: it is a pipe, which is not replaced. Choose another"
        with pytest.raises(OutputError, match=words):
            write_whole(tmp_path / name, b"data")
    with pytest.raises(OSError, match="it is a pipe"):
        sha256_of(pipe)
    assert pipe.is_fifo()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.png", "pipe.png"]
