"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from resharp.engines.manifest import File


def sha256_of(path: Path, data: bytes | None = None) -> str:
    """SHA-256 of a file, or of its bytes where they are at hand, as 64 hexadecimal digits."""
    if data is not None:
        return hashlib.sha256(data).hexdigest()
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_file(path: Path) -> File:
    """Name, hash and size of a file, for a manifest."""
    return File(name=path.name, sha256=sha256_of(path), size=path.stat().st_size)
