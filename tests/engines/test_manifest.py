from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.engines import SCHEMA, File, GraphParity, Manifest, Source, parse
from resharp.errors import BundleError

FILE = File(name="graph.onnx", sha256="0" * 64, size=5)
MANIFEST = Manifest(
    name="m",
    title="a model",
    task="upscale",
    scale=4,
    graphs={"uint8": FILE, "float32": replace(FILE, name="float.onnx")},
    weights=replace(FILE, name="w.safetensors"),
    overlap=16,
    overlap_curve=((0, 30.5), (2, 0.0)),
    sources=(Source(name="m.pth", sha256="1" * 64, weight=0.5),),
    parity=GraphParity(
        shapes=((1, 2, 3),), float_max_abs=1e-6, uint8_max_levels=1, uint8_differing=1e-5
    ),
    activation_bytes=1013.5,
    parameters={"num_feat": 64},
    versions={"torch": "2"},
)


def stored(**changes: Any) -> str:
    return json.dumps(json.loads(MANIFEST.to_json()) | changes)


def test_round_trip() -> None:
    assert parse(MANIFEST.to_json(), "here") == MANIFEST


@given(st.text(), st.integers(1, 16), st.integers(0, 64), st.floats(0, 1e6))
def test_round_trip_of_any_values(title: str, scale: int, overlap: int, memory: float) -> None:
    changed = replace(
        MANIFEST, title=title, scale=scale, overlap=overlap, activation_bytes=memory, parity=None
    )
    assert parse(changed.to_json(), "here") == changed


def test_later_fields_of_the_same_schema_are_ignored() -> None:
    assert parse(stored(color_of_the_box="blue"), "here") == MANIFEST


@pytest.mark.parametrize("version", [SCHEMA + 1, 0, "1", None])
def test_another_schema_says_which(version: object) -> None:
    with pytest.raises(BundleError, match=rf"schema version {version!r}.*reads version {SCHEMA}"):
        parse(stored(schema=version), "here")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "{}",
        stored(graphs={}),
        stored(graphs=None),
        stored(weights={"name": "w"}),
        stored(scale=0),
        stored(scale="4"),
        stored(overlap=-1),
        stored(overlap_curve=[1]),
        stored(weights={"name": "../w", "sha256": "0", "size": 1}),
        json.dumps({key: value for key, value in json.loads(stored()).items() if key != "name"}),
    ],
)
def test_damage_is_named(text: str) -> None:
    with pytest.raises(BundleError, match=r"the manifest.*export the model again"):
        parse(text, "the manifest")
