"""Reading of checkpoint files: torch's zip and pickle formats, and safetensors.

A checkpoint is often an untrusted file. Nothing here runs code from one: torch's restricted
unpickler reads only tensors and plain containers, and a safetensors file cannot contain code.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from resharp.errors import CheckpointError
from resharp.optional import require

_AGAIN = "download it again and compare its size and hash with the published ones"
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)


def read(path: Path) -> tuple[Any, dict[str, str]]:
    """Return the content of a checkpoint file, on the CPU, and its metadata (safetensors only).

    The format is detected from the bytes: suffixes are often wrong, and only the bytes determine
    what can be read.

    Raises:
        CheckpointError: the file is not a checkpoint, cannot be read, is damaged or would run code.
    """
    head = _head(path)
    _refuse_known(path, head)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and length <= path.stat().st_size - 8:
        return _read_safetensors(path)
    if head.startswith(b"PK"):
        head = _head_of_zip(path)
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
    return _read_torch(path), {}


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(256)
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


def _head_of_zip(path: Path) -> bytes:
    """Return the first bytes of the pickle in a ``torch.save`` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2]: name for name in archive.namelist()}
            pickled = members.get("data.pkl")
            head = archive.open(pickled).read(2) if pickled else b""
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, zlib.error) as error:
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
    return head


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise almost anything
        if found := re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} contains more than tensors ({found[1]}) and was not opened, because that "
                "could run code: ask its publisher for only the state dict, ideally as .safetensors"
            ) from error
        raise CheckpointError(f"{path} is truncated or damaged: {_AGAIN}") from error


def _read_safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    library = require("safetensors", feature="Reading .safetensors files", extra="torch")
    try:
        with library.safe_open(path, framework="pt", device="cpu") as stream:
            names = sorted(stream.keys())
            return {name: stream.get_tensor(name) for name in names}, stream.metadata() or {}
    except (library.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}): {_AGAIN}") from error
