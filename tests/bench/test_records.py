"""Reading and writing records, rejecting damaged ones, and the Pareto front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resharp.bench.records import (
    MEASURED,
    SCHEMA,
    Records,
    group_by_model,
    newest,
    pareto_front,
    read,
)
from resharp.errors import OptionError
from tests.bench import kit


@pytest.mark.parametrize("make", [kit.cpu, kit.gpu, kit.failures, kit.single])
def test_records_survive_the_disk(make: Any, tmp_path: Path) -> None:
    records: Records = make()
    path = tmp_path / "folder" / "run.jsonl"
    records.write(path)
    assert read(path) == records
    assert [entry.name for entry in path.parent.iterdir()] == ["run.jsonl"]
    assert read(path).to_text() == path.read_text()


def test_measured_and_twins_are_told_apart() -> None:
    records = kit.gpu()
    measured, twins = records.measured(), records.twins()
    assert len(twins) == 1
    assert len(measured) + len(twins) + len(kit.FAILURES) == len(records.cases)
    assert all(record.status == MEASURED and not record.twin for record in measured)


def test_fields_of_a_newer_minor_version_are_passed_over(tmp_path: Path) -> None:
    records = kit.single()
    lines = [json.loads(line) for line in records.to_text().splitlines()]
    for line in lines:
        line["later"] = 1
    lines[1]["case"]["later"] = lines[1]["seconds"]["later"] = 1
    path = tmp_path / "run.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines))
    assert read(path) == records


def damaged(**changes: object) -> str:
    """A file whose only case has other values."""
    run, case = kit.single().to_text().splitlines()
    return f"{run}\n{json.dumps({**json.loads(case), **changes})}\n"


RUN_LINE = kit.failures().to_text().splitlines()[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run.jsonl:1 is not a record"),
        ("[1]", "run.jsonl:1 is not a record"),
        ('{"kind": "run"}', "run.jsonl:1 is not a record"),
        (f'{{"schema": {SCHEMA}}}', "run.jsonl:1 is not a record"),
        (f'{{"schema": {SCHEMA + 1}, "kind": "run"}}', f"got {SCHEMA + 1}: measure again"),
        (f'{{"schema": {SCHEMA}, "kind": "run"}}', "run.jsonl:1 is damaged"),
        (damaged(case=None), "run.jsonl:2 is damaged"),
        (damaged(case={"model": "a"}), "run.jsonl:2 is damaged"),
        (damaged(seconds=3), "run.jsonl:2 is damaged"),
        (
            damaged(seconds={"median": 1, "low": 1, "high": 1, "values": 3}),
            "run.jsonl:2 is damaged",
        ),
        (
            damaged(case={**json.loads(damaged().splitlines()[1])["case"], "subject": "x"}),
            "damaged",
        ),
        ("", "exactly one run, got 0"),
        (f"{RUN_LINE}\n{RUN_LINE}\n", "exactly one run, got 2"),
    ],
)
def test_what_is_no_file_of_records_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(OptionError, match=message):
        read(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot read"):
        read(tmp_path / "absent.jsonl")
    with pytest.raises(OptionError, match="cannot read"):
        read(tmp_path)
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match="cannot read"):
        read(path)


def test_the_newest_run_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no records in"):
        newest(tmp_path)
    for name in ("run-20250102.jsonl", "run-20250301.jsonl", "run-20241231.jsonl", "other.jsonl"):
        (tmp_path / name).touch()
    assert newest(tmp_path).name == "run-20250301.jsonl"


Points = st.lists(
    st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12
)
"""Points with few distinct values, so that there are ties."""


@given(Points)
def test_the_front_is_what_no_other_point_beats(points: list[tuple[float, float]]) -> None:
    found = pareto_front(points)
    kept = [points[index] for index in found]
    beaten = {
        (memory, speed)
        for memory, speed in points
        for less, more in points
        if less <= memory and more >= speed and (less, more) != (memory, speed)
    }
    assert set(kept) == set(points) - beaten
    assert len(set(kept)) == len(kept)
    assert kept == sorted(kept)


def test_cases_are_grouped_in_their_order() -> None:
    records = [
        kit.record("torch", model="b"),
        kit.record("torch", model="a"),
        kit.record("onnx", model="b"),
        kit.record("onnx", model="b", size=(100, 200)),
    ]
    groups = group_by_model(records)
    assert list(groups) == [("b", 360, 640), ("a", 360, 640), ("b", 100, 200)]
    assert groups["b", 360, 640] == [records[0], records[2]]
    assert group_by_model([]) == {}
