"""Capacity planning from records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.bench.capacity import MemoryLine, capacities, fit, parse_memory
from resharp.bench.records import PeakMemory, Record, Records
from resharp.errors import OptionError
from tests.bench.kit import record, run
from tests.cli.commands import call

GB = 10**9


def point(
    tile: int, *, lanes: int = 1, batch: int = 1, speed: float = 1.0, gpu: bool = True
) -> Record:
    """A case that takes 1 GB and 2000 bytes a pixel."""
    one = record("torch", tile=tile, lanes=lanes, batch=batch, gpu=gpu)
    assert one.actual is not None
    assert one.rates is not None
    pixels = tile * tile * batch
    taken = GB + 2000 * pixels * lanes
    return replace(
        one,
        actual=replace(one.actual, pixels=pixels, lanes=lanes, batch=batch),
        rates=replace(one.rates, input_megapixels=speed),
        memory=PeakMemory(host=taken, device=taken if gpu else None),
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GB", 8 * GB),
        ("8 gib", 8 << 30),
        ("7.5G", 7_500_000_000),
        ("500MB", 500_000_000),
        ("1024", 1024),
        ("2tb", 2 * 10**12),
        ("16KiB", 16384),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "many", "-8GB", "8XB", "8iB", "0", "0.2", "GB", "8GB/s"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionError, match="memory"):
        parse_memory(text)


@given(
    st.lists(st.integers(1, 16), min_size=2, max_size=6, unique=True).map(
        lambda sizes: [160 * size for size in sizes]
    ),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_the_line_is_found(tiles: list[int], lanes: int, batch: int) -> None:
    found = fit([point(tile, lanes=lanes, batch=batch) for tile in tiles])
    assert found is not None
    assert found.per_pixel == pytest.approx(2000, rel=1e-6)
    assert found.fixed == pytest.approx(GB, rel=1e-6)


def test_one_size_is_no_line() -> None:
    assert fit([point(256)]) is None
    assert fit([point(32), point(64)]) is None  # 6 MB apart
    assert fit([]) is None


def test_the_largest_tile_and_the_fastest_that_fits() -> None:
    cases = [point(256, speed=1.0), point(512, speed=3.0), point(1024, speed=4.0)]
    (found,) = capacities(cases, "resharp-x4", 2 * GB)
    assert found.largest_tile == 704  # sqrt(1e9 / 2000) is 707
    assert found.best == cases[1]
    assert found.megapixels == 3.0
    assert found.per_hour(1000, 1000) == pytest.approx(3 * 3600)
    assert MemoryLine(fixed=GB, per_pixel=2000).at(found.largest_tile**2) <= 2 * GB


def test_lanes_and_batches_share_the_memory() -> None:
    cases = [point(256, lanes=2, batch=2, speed=2.0), point(512, lanes=2, batch=2, speed=1.0)]
    (found,) = capacities(cases, "resharp-x4", 2 * GB)
    assert found.largest_tile == 352  # sqrt(1e9 / 2000 / 4) is 353


def test_what_does_not_fit_says_what_it_needs() -> None:
    (found,) = capacities([point(256), point(512)], "resharp-x4", GB)
    assert found.best is None
    assert found.megapixels is None
    assert found.per_hour(10, 10) is None
    assert found.needed == GB + 2000 * 256 * 256
    with pytest.raises(OptionError, match="no memory figures for other"):
        capacities([point(256)], "other", GB)


def test_the_command_answers_from_records(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Records(run(), (point(256), point(512, speed=3.0))).write(path)
    ask = ("bench", "capacity", "--records", str(path), "--memory")
    code, text = call(*ask, "2GB", "--size", "1000x1000")
    assert code == 0
    assert "largest tile 704; fastest measured: tile 512, 3 MP/s, 10800 images per hour" in text
    code, text = call(*ask, "1GB")
    assert code == 0
    assert "does not fit; the smallest measurement took 1.13 GB" in text
    code, text = call(*ask, "2GB", "--json")
    assert json.loads(text)["answers"][0]["largest_tile"] == 704
    for options in (("2GB", "--size", "big"), ("lots",)):
        assert call(*ask, *options)[0] == 1
