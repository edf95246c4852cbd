"""Suites as data: what a product gives, what is chosen of it, and the suites that come along."""

from __future__ import annotations

from typing import Any

import pytest

from resharp.bench.cases import BASELINES, SUBJECTS, Case, Suite, choose, load, names, parse
from resharp.errors import OptionError

EFFORT = {"pairs": 3, "most_pairs": 5, "seconds": 1.0, "limit": 2.0}


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
    assert made.effort.most_pairs == 5
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
    with pytest.raises(OptionError, match=r"'caffe' is not one of tensorrt, .*ncnn"):
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
    with pytest.raises(
        OptionError, match=r"'ncnn' is not in the suite some: onnx, torch, upstream"
    ):
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
    assert 1 <= made.effort.pairs <= made.effort.most_pairs
    assert 0 < made.effort.seconds <= made.effort.limit
    for stand_in in made.stand_ins:
        assert stand_in in {case.model for case in made.cases}


def test_a_suite_that_is_not_there_is_refused() -> None:
    with pytest.raises(OptionError, match="no suite 'none'"):
        load("none")
