"""Reading of checkpoint files: torch's zip and pickle formats, and safetensors.

A checkpoint is often an untrusted file. Nothing here runs code from one: torch's restricted
unpickler reads only tensors and plain containers, and a safetensors file cannot contain code.
"""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from resharp.errors import CheckpointError
from resharp.models.pickle_scan import PICKLE_BYTES, TooMuchError, most_bytes, scan
from resharp.optional import require
from resharp.reading import open_regular

_AGAIN = "download it again and compare its size and hash with the published ones"
_DIRECTORY_BYTES = 16 << 20
"""Largest directory of a zip file in bytes; each tensor takes 100."""
_PICKLES = 5
"""Pickles at the start of torch's old format; the bytes of the storages follow."""
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)


def read(path: Path) -> tuple[Any, dict[str, str]]:
    """Return the content of a checkpoint file, on the CPU, and its metadata (safetensors only).

    The format is detected from the bytes: suffixes are often wrong, and only the bytes determine
    what can be read.

    Raises:
        CheckpointError: the file is not a checkpoint, cannot be read, is damaged or would run code.
    """
    head, size = _head(path)
    _refuse_known(path, head)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= size - 8:
        return _read_safetensors(path)
    pickled, storages = b"", dict[str, int]()
    if head.startswith(b"PK"):
        pickled, storages = _parts_of_zip(path, size)
        head = pickled[:2]
    elif not head.startswith(b"\x80"):
        raise CheckpointError(
            f"{path} is not a checkpoint (it starts with {head[:16]!r}): expected a .pth, .pt or "
            f".safetensors file; {_AGAIN}"
        )
    if len(head) > 1 and head[1] > 2:  # torch writes 2, and its safe unpickler supports no more
        raise CheckpointError(
            f"{path} is a pickle with protocol {head[1]}, which could run code when it is read: "
            "ask its publisher for a plain torch.save or .safetensors file"
        )
    return _read_torch(path, size, pickled, storages), {}


def _head(path: Path) -> tuple[bytes, int]:
    """Return the first bytes of a file, and its size."""
    try:
        with open_regular(path) as stream:
            return stream.read(256), os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error


def _refuse_known(path: Path, head: bytes) -> None:
    if not head:
        raise CheckpointError(f"{path} is empty: {_AGAIN}")
    if _PAGE.match(head):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint: the link led to a page about the file or to "
            "an error page; use the direct download link"
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself: fetch the file with 'git lfs pull'"
        )


class _ZipStream(io.BufferedReader):
    """A file that limits the size of one read, since zipfile reads the whole directory at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _DIRECTORY_BYTES:
            raise TooMuchError("has too many members")
        return super().read(_DIRECTORY_BYTES if size is None or size < 0 else size)


def _parts_of_zip(path: Path, size: int) -> tuple[bytes, dict[str, int]]:
    """Return the pickle of a ``torch.save`` file, and the bytes of each storage by its key."""
    try:
        raw = cast(io.BufferedReader, open_regular(path)).detach()
        with _ZipStream(raw) as stream, zipfile.ZipFile(stream) as archive:
            members = _members(archive, size)
            pickled = members.get("data.pkl")
            data = archive.read(pickled) if pickled else b""
    except TooMuchError as error:
        raise _too_much(path, error) from error
    except Exception as error:  # a damaged file makes zipfile raise almost anything
        raise CheckpointError(f"{path} is truncated or damaged: {_AGAIN}") from error
    if "constants.pkl" in members:
        raise CheckpointError(
            f"{path} is a TorchScript program, which contains code: ask its publisher for the "
            "state dict (.pth or .safetensors)"
        )
    if not pickled:
        raise CheckpointError(
            f"{path} is an archive, not a checkpoint: unpack it and use the .pth file"
        )
    place = f"{pickled.filename.removesuffix('data.pkl')}data/"
    found = {
        one.filename.removeprefix(place): one.file_size
        for one in archive.infolist()
        if one.filename.startswith(place)
    }
    return data, found


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Return the members of an archive by the last part of their names.

    Nothing has been unpacked by then: a few bytes can declare any size, and several members may lie
    over one another.

    Raises:
        TooMuchError: they would take more than the file accounts for.
        ValueError: they are no members of a checkpoint.
    """
    members = archive.infolist()
    if sum(one.file_size for one in members) > most_bytes(size):
        raise TooMuchError("unpacks to far more bytes than it has")
    # torch ignores the case of names, and does not find members behind other data.
    names = {one.filename.lower() for one in members}
    if len(names) < len(members) or min((one.header_offset for one in members), default=0) > 0:
        raise ValueError("its members are ambiguous")
    found = {one.filename.rpartition("/")[2]: one for one in members}
    if sum(name.endswith("data.pkl") for name in names) > 1:
        raise ValueError("it has several pickles")
    pickled = found.get("data.pkl")
    if pickled is not None and pickled.file_size > PICKLE_BYTES:
        raise TooMuchError(f"has a pickle of more than {PICKLE_BYTES} bytes")
    return found


def _too_much(path: Path, error: TooMuchError) -> CheckpointError:
    return CheckpointError(f"{path} is truncated or damaged: it {error}. {_AGAIN.capitalize()}.")


def _read_torch(path: Path, size: int, pickled: bytes, storages: Mapping[str, int]) -> Any:
    """Read torch's formats.

    Args:
        path: the file.
        size: its bytes.
        pickled: the pickle of a zip file; empty for torch's old format.
        storages: bytes of each storage of a zip file.
    """
    try:
        if pickled:
            scan(io.BytesIO(pickled), size, storages)
        else:
            with open_regular(path) as stream:
                for _ in range(_PICKLES):
                    scan(stream, size)
        return torch.load(path, map_location="cpu", weights_only=True)
    except TooMuchError as error:
        raise _too_much(path, error) from error
    except Exception as error:  # a damaged file makes torch raise almost anything
        if found := re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} contains more than tensors ({found[1]}) and was not opened, because that "
                "could run code: ask its publisher for only the state dict, ideally as .safetensors"
            ) from error
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise CheckpointError(f"out of memory reading {path}: close other programs") from error
        raise CheckpointError(f"{path} is truncated or damaged: {_AGAIN}") from error


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    library = require("safetensors", feature="Reading .safetensors files", extra="torch")
    try:
        with library.safe_open(path, framework="pt", device="cpu") as stream:
            names = sorted(stream.keys())
            return {name: stream.get_tensor(name) for name in names}, stream.metadata() or {}
    except Exception as error:  # of the library, or of torch for a type that it lacks
        raise CheckpointError(f"{path} is truncated or damaged ({error}): {_AGAIN}") from error
