"""Manifests and sidecars with values that no export writes: refused in one line, or harmless."""

from __future__ import annotations

import json
import math
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp.checks import check_ranges
from resharp.engines import Bundle, DniPartner, ExtraInput, Source, Tuning, parse
from resharp.engines.blend import write_blend
from resharp.engines.bundle import MANIFEST as FILE
from resharp.engines.engine import parse_engine
from resharp.engines.kernel_cache import KernelCache
from resharp.engines.model_info import info_of
from resharp.engines.reference import read_reference
from resharp.errors import BundleError, DamagedError, OptionError
from tests.engines.test_engine_store import engine_of, spec
from tests.engines.test_manifest import MANIFEST, stored

FULL = replace(
    MANIFEST,
    twin=DniPartner(
        weights=replace(MANIFEST.weights, name="t.safetensors"),
        source=Source(name="t.pth", sha256="2" * 64),
    ),
    extra=(ExtraInput(name="fidelity", default=0.5),),
    tunings=(Tuning(backend="onnx", device="cpu", tile=256, batch=1, threads=2, gain=1.5),),
    peak=3.5,
    engine_precision="fp16",
    flops_per_pixel=1e6,
)
DEEP = json.loads("[" * 200 + "]" * 200)
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e308, 10**30, math.inf, -math.inf, math.nan),
    *("", "x", "../w", "/etc/passwd", "a\0b", "\ud800", "float32", "4", "0" * 64),
    *([], [[]], [1], [math.inf, 1], {}, {"a": 1}, {"name": "w"}, DEEP),
]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys to every value of parsed JSON."""
    if path:
        yield path
    for key in (
        data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    ):
        yield from places(data[key], (*path, key))


def changed(text: str, rng: random.Random) -> str:
    data = json.loads(text)
    for _ in range(rng.choice((1, 1, 1, 2))):
        *path, last = rng.choice(list(places(data)))
        inner = data
        for key in path:
            inner = inner[key]
        if rng.random() < 0.15 and isinstance(inner, dict):
            del inner[last]
        else:
            inner[last] = json.loads(json.dumps(rng.choice(VALUES)))  # a copy
    return json.dumps(data)


def assert_sane(item: Any) -> None:
    check_ranges(item)
    for value in vars(item).values():
        assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("seed", range(4))
def test_any_change_of_a_manifest_is_refused_or_harmless(seed: int) -> None:
    rng, text, good = random.Random(seed), FULL.to_json(), 0
    for _ in range(300):
        try:
            found = parse(changed(text, rng), "here")
        except BundleError:
            continue
        good += 1
        for item in (found, *found.files(), *found.tunings, *found.extra, *found.sources):
            assert_sane(item)
        assert parse(found.to_json(), "again") == found
        assert type(found.scale) is int
        assert found.extra_values() == tuple(one.default for one in found.extra)
    assert 0 < good < 300


def test_any_change_of_a_sidecar_is_refused_or_harmless(compact: Bundle) -> None:
    rng, text = random.Random(0), engine_of(spec(compact)).to_json()
    for _ in range(300):
        try:
            found = parse_engine(changed(text, rng), "here")
        except BundleError:
            continue
        for item in (found, found.file, found.reference, found.graph, found.spec.profile):
            assert_sane(item)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": 3}, "task must be a string, got 3"),
        ({"scale": True}, "scale must be an integer, got True"),
        ({"scale": 10**30}, "scale must be between 1 and 32"),
        ({"scale": 33}, "scale must be between 1 and 32, got 33"),
        ({"size_multiple": 10**30}, "size_multiple must be between 1 and 256"),
        ({"fixed_size": 0}, "fixed_size must be between 1"),
        ({"overlap": 10**6}, "overlap must be between 0 and 512"),
        ({"overlap_curve": [[math.inf, 1]]}, "overlap_curve must be an integer, got inf"),
        ({"overlap_curve": [[4, 1], [2, 1]]}, "overlaps of overlap_curve must increase"),
        ({"overlap_curve": [[0, math.nan]]}, "overlap_curve must be a number, got nan"),
        *(
            ({"activation_bytes": bad}, "activation_bytes must be")
            for bad in ("1", math.inf, math.nan, [1], 1e308, -1, True)
        ),
        ({"flops_per_pixel": -1}, "flops_per_pixel must be between"),
        ({"peak": math.inf}, "peak must be a number"),
        ({"value_range": [1, 0]}, "value_range must increase"),
        ({"color": "rgb"}, "color 'rgb' is not supported"),
        ({"precision": "fp4"}, "precision 'fp4' is not supported"),
        ({"engine_precision": "fp4"}, "engine_precision must be fp16, mixed or fp32"),
        ({"name": "../x"}, "name must be lowercase letters"),
        ({"name": "x" * 300}, r"name must be lowercase letters, .*'\.\.\."),
        ({"weights": {"name": "w", "sha256": "0", "size": 1}}, "sha256 must be a SHA-256"),
        ({"weights": {"name": "a/b", "sha256": "0" * 64, "size": 1}}, "the name of a file"),
        ({"weights": {"name": "w", "sha256": "0" * 64, "size": -1}}, "size must be between"),
        ({"extra": [{"name": "f", "default": 2}]}, "`f` must be between 0 and 1, got 2"),
        ({"extra": [{"name": "f", "default": 0}] * 2}, "two extra inputs"),
        ({"tunings": [{"backend": "onnx", "device": "cpu", "tile": 0}]}, "tile must be between"),
        ({"parameters": {"a": DEEP}}, "nested too deeply"),
        ({"schema": True}, "schema version True"),
    ],
)
def test_the_field_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse(stored(**changes), "here")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000])
def test_what_is_nested_too_deeply(text: str) -> None:
    with pytest.raises(BundleError, match="nested too deeply"):
        parse(text, "here")
    with pytest.raises(DamagedError, match="nested too deeply"):
        parse_engine(text, "here")


def test_a_tuning_of_a_program_is_checked_too() -> None:
    bad: Any = "256"
    with pytest.raises(OptionError, match="tile must be between 1 and 16384, got '256'"):
        Tuning(backend="onnx", device="cpu", tile=bad)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_pipes_are_not_waited_for(compact: Bundle, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(BundleError, match="it is a pipe, not a file"):
        Bundle.open(tmp_path)
    os.mkfifo(tmp_path / compact.manifest.weights.name)
    with pytest.raises(BundleError, match=r"it is a pipe, not a file"):
        info_of(replace(compact, folder=tmp_path))


def test_a_manifest_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / FILE).open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BundleError, match="it has more than 16777216 bytes"):
        Bundle.open(tmp_path)


def test_a_kernel_cache_that_is_too_large(tmp_path: Path) -> None:
    cache = object.__new__(KernelCache)
    cache._path = tmp_path / "cache"
    with cache._path.open("wb") as stream:
        stream.truncate(1 << 40)
    assert cache._load() == 0


@pytest.mark.parametrize(
    "data", [b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + b"\xff" * 99, b"\x93NUMPY" * 9]
)
def test_a_reference_that_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "reference.npz").write_bytes(data)
    with pytest.raises(BundleError, match="is not a reference image"):
        read_reference(tmp_path / "reference.npz")


def test_a_reference_that_unpacks_to_far_more(tmp_path: Path) -> None:
    arrays = {name: np.zeros((2000, 2000, 3), np.uint8) for name in ("picture", "restored")}
    np.savez_compressed(tmp_path / "reference.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="its arrays are compressed"):
        read_reference(tmp_path / "reference.npz")


@pytest.mark.parametrize("length", [0, 7, 8, 9, -1])
def test_weights_that_cannot_be_blended(tmp_path: Path, length: int, compact: Bundle) -> None:
    twin = DniPartner(
        weights=compact.manifest.weights, source=Source(name="t.pth", sha256="2" * 64)
    )
    data = compact.path(compact.manifest.weights).read_bytes()
    for file in compact.manifest.files():
        (tmp_path / file.name).write_bytes(compact.path(file).read_bytes())
    (tmp_path / compact.manifest.weights.name).write_bytes(data[:length])
    broken = Bundle(tmp_path, replace(compact.manifest, twin=twin))
    with pytest.raises(BundleError, match="is damaged"):
        write_blend(broken, 0.5, tmp_path)
