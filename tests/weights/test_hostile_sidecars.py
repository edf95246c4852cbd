"""Descriptions of checkpoints with values that resharp does not write."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from resharp.errors import CheckpointError
from resharp.weights import ModelEntry, catalogue, local_entries, resolve
from tests.engines.test_hostile_manifests import changed
from tests.weights.test_local import put


def sidecar(folder: Path) -> Path:
    put(folder)
    return folder / "local" / "mine.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": True}, "scale must be an integer, got True"),
        ({"scale": 1000}, "invalid scale 1000"),
        ({"name": 3}, "name must be a string, got 3"),
        ({"bytes": "1"}, "bytes must be an integer, got '1'"),
        ({"parameters": []}, "must be an object with 'parameters'"),
        ({"parameters": {"a": {"b": 1}}}, "parameters.a must be"),
        ({"file": "../../etc/passwd"}, "invalid file"),
        ({"sha256": "0"}, "invalid sha256"),
        ({"blend": 3}, "invalid blend 3"),
        ({"more": 3}, "unknown 'more'"),
        ({"schema": True}, "schema True, expected 1"),
    ],
)
def test_the_field_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = sidecar(tmp_path / "weights")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        resolve("mine", tmp_path / "weights")
    assert not local_entries(tmp_path / "weights")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "[1]", "3", None])
def test_what_is_no_description(tmp_path: Path, text: Any) -> None:
    path = sidecar(tmp_path / "weights")
    path.write_bytes(text.encode() if isinstance(text, str) else b"\xed\xa0\x80")
    with pytest.raises(CheckpointError, match="does not describe a checkpoint"):
        resolve("mine", tmp_path / "weights")


def test_any_change_is_refused_or_harmless() -> None:
    rng = random.Random(0)
    for text in [json.dumps(one.to_json()) for one in list(catalogue().values())[::8]]:
        for _ in range(100):
            data = json.loads(changed(text, rng))
            with suppress(ValueError):
                entry = ModelEntry.from_json(data)
                assert type(entry.scale) is int
                assert 1 <= entry.scale <= 32
                assert isinstance(entry.title, str)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "mine.json")
    (tmp_path / "weights" / "local").mkdir(parents=True)
    (tmp_path / "mine.json").rename(tmp_path / "weights" / "local" / "mine.json")
    assert not local_entries(tmp_path / "weights")
