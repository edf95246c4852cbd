"""A local server, a small checkpoint on it, and an environment without proxies or mirrors."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resharp.weights import ModelEntry
from tests.weights.server import Server

BODY = random.Random(0).randbytes(700_000)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.delenv("RESHARP_MIRROR", raising=False)
    monkeypatch.delenv("RESHARP_OFFLINE", raising=False)
    monkeypatch.setenv("RESHARP_HOME", str(tmp_path / "home"))


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.files["tiny.pth"] = BODY
        yield running
        running.gate.set()
        running.shutdown()
        thread.join()


def tiny(url: str, **changes: Any) -> ModelEntry:
    """An entry for ``BODY``, at ``url``."""
    entry = ModelEntry(
        name="tiny",
        title="a tiny one",
        task="upscale",
        architecture="RRDBNet",
        parameters={"num_block": 1},
        scale=2,
        file="tiny.pth",
        urls=(f"{url}/tiny.pth",),
        bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
        hash_sources=2,
        license="MIT",
    )
    return replace(entry, **changes)


@pytest.fixture
def entry(server: Server) -> ModelEntry:
    return tiny(server.url)


def left(folder: Path) -> list[str]:
    """Every file in ``folder`` but for the locks, which stay."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(str(path.relative_to(folder)) for path in files)
