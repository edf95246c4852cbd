"""Suites as data: products, selection, and the built-in suites."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from resharp.bench.cases import BASELINES, SUBJECTS, Case, Suite, choose, load, names, parse
from resharp.errors import OptionError

EFFORT: dict[str, Any] = {"pairs": 3, "most_pairs": 5, "seconds": 1.0, "limit": 2.0}


def suite(*cases: dict[str, Any], **more: Any) -> Suite:
    return parse("some", {"effort": EFFORT, "cases": list(cases), **more})


def test_a_list_is_a_product_and_a_value_is_one() -> None:
    made = suite(
        {"model": "a", "subject": "upstream", "size": [4, 8]},
        {
            "model": "a",
            "subject": ["onnx", "torch"],
            "tile": [64, "auto"],
            "size": [[4, 8], [6, 9]],
        },
    )
    assert len(made.cases) == 1 + 2 * 2 * 2
    assert made.cases[0] == Case(model="a", subject="upstream", height=4, width=8)
    assert Case(model="a", subject="torch", height=6, width=9, tile=64) in made.cases
    assert made.budget.most_pairs == 5
    assert made.stand_ins == {}


def test_a_case_that_is_given_twice_is_measured_once() -> None:
    item = {"model": "a", "subject": "onnx", "size": [4, 8]}
    assert len(suite(item, {**item, "subject": ["torch", "onnx"]}).cases) == 2


def test_ids_say_what_differs_from_the_default() -> None:
    case = Case(model="a", subject="onnx", height=4, width=8)
    assert case.id == "a/onnx/8x4/tile-auto"
    full = Case(
        model="a",
        subject="torch",
        height=4,
        width=8,
        precision="fp32",
        tile=64,
        batch=2,
        lanes=3,
        threads=1,
    )
    assert full.id == "a/torch/8x4/tile-64/fp32/batch-2/threads-1/lanes-3"
    assert Case(model="a", subject="ncnn", height=4, width=8).id == "a/ncnn/8x4"


def test_an_unknown_subject_is_refused_with_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"subject must be one of tensorrt, .*ncnn, got 'caffe'"):
        Case(model="a", subject="caffe", height=4, width=8)
    assert set(BASELINES) < set(SUBJECTS)


SOME = suite(
    {"model": ["a", "b"], "subject": ["upstream", "onnx", "torch"], "size": [4, 8]},
    {"model": "b", "subject": "onnx", "tile": 64, "size": [4, 8]},
)


def test_nothing_chosen_is_everything() -> None:
    assert choose(SOME) == SOME.cases


def test_subjects_keep_their_baselines() -> None:
    found = choose(SOME, subjects=["torch"])
    assert [case.subject for case in found] == ["upstream", "torch"] * 2
    message = r"'ncnn' is not in suite 'some'; available: onnx, torch, upstream"
    with pytest.raises(OptionError, match=message):
        choose(SOME, subjects=["ncnn"])


def test_a_model_takes_its_own_cases_and_a_strange_one_those_of_the_first() -> None:
    assert [case.model for case in choose(SOME, models=["b", "b"])] == ["b"] * 4
    found = choose(SOME, models=["mine"], subjects=["onnx"])
    assert [case.id for case in found] == ["mine/upstream/8x4", "mine/onnx/8x4/tile-auto"]


@pytest.mark.parametrize("name", names())
def test_a_suite_that_comes_along_is_sound(name: str) -> None:
    made = load(name)
    assert made.name == name
    assert made.cases
    ids = [case.id for case in made.cases]
    assert len(set(ids)) == len(ids)
    for case in made.cases:
        assert case.height > 0
        assert case.width > 0
        assert case.lanes >= 1
        assert case.precision in ("auto", "fp32")
        assert case.tile in ("auto", "whole") or (isinstance(case.tile, int) and case.tile > 0)
    assert 1 <= made.budget.pairs <= made.budget.most_pairs
    assert 0 < made.budget.seconds <= made.budget.limit
    for stand_in in made.stand_ins:
        assert stand_in in {case.model for case in made.cases}


def test_a_suite_that_is_not_there_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown suite 'none'"):
        load("none")
    with pytest.raises(OptionError, match=r"pass a file ending in \.json"):
        load("none")


ITEM: dict[str, Any] = {"model": "a", "subject": ["onnx", "torch"], "tile": 64, "size": [4, 8]}


def written(folder: Path, data: object) -> str:
    path = folder / "mine.v2.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return str(path)


def changed(part: str, key: str, value: object) -> dict[str, Any]:
    """The data of a suite with another value in its effort or in its only case."""
    effort = {**EFFORT, key: value} if part == "effort" else EFFORT
    return {"effort": effort, "cases": [{**ITEM, key: value} if part == "cases" else ITEM]}


def test_a_file_is_a_suite_named_by_its_stem(tmp_path: Path) -> None:
    data = {"effort": EFFORT, "cases": [ITEM], "stand_ins": {"a": {"architecture": "RRDBNet"}}}
    found = load(written(tmp_path, data))
    assert found == parse("mine.v2", data)
    assert [case.subject for case in found.cases] == ["onnx", "torch"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("{", "Expecting property name"),
        ([ITEM], "must be an object with cases, effort"),
        ({"cases": [ITEM]}, "'effort' is missing"),
        ({"effort": EFFORT}, "'cases' is missing"),
        ({"effort": EFFORT, "cases": []}, "cases must not be empty"),
        ({"effort": EFFORT, "cases": [3]}, "'int' object"),
        ({"effort": EFFORT, "cases": [ITEM], "stand_ins": [1]}, "'list' object"),
        ({"effort": EFFORT, "cases": [ITEM], "stand_ins": {"a": 1}}, "'int' object"),
        ({"effort": {"pairs": 3}, "cases": [ITEM]}, "most_pairs"),
        *(
            (changed("effort", key, value), message)
            for key, value, message in (
                ("pairs", 0, "pairs must be at least 1, got 0"),
                ("most_pairs", 1, r"most_pairs must be at least pairs \(3\), got 1"),
                ("sittings", 1.5, "sittings must be at least 1, got 1.5"),
                ("limit", -1, "limit must be a non-negative number, got -1"),
                ("limit", "long", "limit must be a non-negative number, got 'long'"),
                ("pause", 1, "'pause'"),
            )
        ),
        *(
            (changed("cases", key, value), message)
            for key, value, message in (
                ("size", 4, r"size must be \[height, width\] or a list of these, got 4"),
                ("size", [], r"size must be .*, got \[\]"),
                ("size", [[4, 8], [4]], r"size must be .*, got \[\[4, 8\], \[4\]\]"),
                ("size", [4, 0], "width must be at least 1, got 0"),
                ("size", ["4", 8], "height must be at least 1, got '4'"),
                ("model", 1, "model must be a name, got 1"),
                ("subject", "caffe", "subject must be one of"),
                ("precision", "int8", "precision must be auto or fp32, got 'int8'"),
                ("tile", "large", "tile must be a size in pixels, auto or whole, got 'large'"),
                ("lanes", True, "lanes must be at least 1, got True"),
                ("batch", 0, "batch must be at least 1, got 0"),
                ("color", 1, "'color'"),
            )
        ),
    ],
)
def test_a_file_that_is_no_suite_is_refused(data: object, message: str, tmp_path: Path) -> None:
    name = written(tmp_path, data)
    with pytest.raises(OptionError, match=rf"{re.escape(name)} is not a valid suite: .*{message}"):
        load(name)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_bytes(b"\xff{}")
    with pytest.raises(OptionError, match=r"mine\.json is not a valid suite: .*decode"):
        load(str(tmp_path / "mine.json"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path / "folder.json"):
        (tmp_path / "folder.json").mkdir(exist_ok=True)
        with pytest.raises(OptionError, match=f"cannot read suite {re.escape(str(path))}: "):
            load(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_suite_or_records_that_are_a_pipe_are_an_error_at_once(tmp_path: Path) -> None:
    from resharp.bench.records import read

    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OptionError, match="it is a pipe"):
        load(str(tmp_path / "a.json"))
    with pytest.raises(OptionError, match="it is a pipe"):
        read(tmp_path / "a.json")
    for name in ("b.json", "c.jsonl"):
        (tmp_path / name).write_text("[" * 200_000)
    with pytest.raises(OptionError, match="nested too deeply"):
        load(str(tmp_path / "b.json"))
    with pytest.raises(OptionError, match="nested too deeply"):
        read(tmp_path / "c.jsonl")
