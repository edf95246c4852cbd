"""Arguments: what is a number, and what is in range."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from resharp import Ensemble, RestoreConfig, Upscaler, VideoOptions, restore_video
from resharp.checks import (
    check_choice,
    check_int,
    check_number,
    check_text,
    check_tta,
    plain,
    shown,
)
from resharp.cluster.session import ClusterOptions
from resharp.engines import Bundle
from resharp.errors import OptionError, ResharpError
from resharp.export.engine import EngineOptions
from resharp.faces import FaceOptions
from resharp.folders import FolderOptions, restore_folder
from resharp.paths import LONGEST, store_folder, weights_folder

NO_NUMBER: tuple[object, ...] = (
    True,
    np.True_,
    "2",
    b"2",
    float("nan"),
    float("inf"),
    -float("inf"),
    10**400,
    1j,
    [],
    {},
    object(),
    np.array([2]),
)


@pytest.mark.parametrize("value", [*NO_NUMBER, 2.0, 2.5, Fraction(2), None, 0, -1])
def test_what_is_no_positive_integer(value: Any) -> None:
    if isinstance(value, int) and value > 1:
        assert check_int("size", value) == value  # of any size
        return
    with pytest.raises(OptionError, match="`size` must be a positive integer, got "):
        check_int("size", value)


@pytest.mark.parametrize("value", [*NO_NUMBER, None, 0, -1, 33])
def test_what_is_no_number_in_range(value: Any) -> None:
    with pytest.raises(OptionError, match=r"`scale` must be in \(0, 32\], got "):
        check_number("scale", value, 0, 32, above=True)


def test_numbers_of_python_and_numpy_pass_as_those_of_python() -> None:
    for kind in (int, np.int8, np.uint64):
        assert type(check_int("size", kind(7), 1, 7)) is int
    for one in (2, 2.0, Fraction(2), np.float16(2), np.float64(2), np.int32(2)):
        found = check_number("scale", one, 2, 2)
        assert (found, type(found)) == (2.0, float)
    assert type(check_tta(np.int64(4))) is int
    assert (type(plain(np.float32(1))), plain("x")) == (float, "x")


def test_the_message_states_the_range_and_the_value() -> None:
    for call, words in (
        (lambda: check_int("n", 9, 0, 5), "`n` must be an integer between 0 and 5, got 9"),
        (lambda: check_int("n", -1, 0), "`n` must be an integer of at least 0, got -1"),
        (lambda: check_number("n", -1, 0, 1), "`n` must be between 0 and 1, got -1"),
        (lambda: check_number("n", 0, 0, above=True), "`n` must be a number above 0, got 0"),
        (lambda: check_number("n", -1, 0), "`n` must be a number of at least 0, got -1"),
        (lambda: check_number("n", "x", -np.inf), "`n` must be a finite number, got 'x'"),
        (lambda: check_number("the weight", 2, 0, 1), "the weight must be between 0 and 1, got 2"),
        (lambda: check_choice("n", [], ("a", "b")), r"`n` must be one of a, b, got \[\]"),
        (lambda: check_text("n", 5), "`n` must be a string, got 5"),
        (lambda: check_tta(3), "`tta` must be 1, 2, 4 or 8, got 3"),
    ):
        with pytest.raises(OptionError, match=words):
            call()


OPTIONS: tuple[tuple[Any, str], ...] = (
    *((RestoreConfig, name) for name in ("scale", "threads", "memory_fraction", "tile", "denoise")),
    *((RestoreConfig, name) for name in ("tta", "backend", "precision")),
    *((FolderOptions, name) for name in ("quality", "workers", "watch", "journal")),
    *((VideoOptions, name) for name in ("crf", "fps", "start", "end", "stream", "segment")),
    *((VideoOptions, name) for name in ("encoder_threads", "skip_duplicates", "codec", "journal")),
    *((FaceOptions, name) for name in ("fidelity", "weight", "batch")),
    *((ClusterOptions, name) for name in ("workers", "cpus", "gpus", "retries")),
    *((EngineOptions, name) for name in ("batch", "tile", "optimization_level", "precision")),
)


@pytest.mark.parametrize(("options", "name"), OPTIONS)
def test_no_option_takes_what_is_no_number_or_name(options: Any, name: str) -> None:
    values: tuple[Any, ...] = (True, "2", float("nan"), float("inf"), [], 1j)
    for value in values:
        with pytest.raises(OptionError, match=rf"\b{name}\b"):
            options(**{name: value})


@pytest.mark.parametrize("value", [True, "2", float("nan"), [], 1.5])
def test_no_call_takes_what_is_no_number(compact: Bundle, value: Any) -> None:
    how: dict[str, Any] = {"backend": "onnx", "device": "cpu"}
    for name in ("threads", "tile", "tuning"):
        with pytest.raises(OptionError, match=f"`{name}`"):
            Upscaler(compact, **how, **{name: value})
    with Upscaler(compact, **how) as upscaler:
        with pytest.raises(OptionError, match="`size`"):
            upscaler.batch([], size=value)
        with pytest.raises(OptionError, match="`ahead`"):
            upscaler.stream([], ahead=value)
        with pytest.raises(OptionError, match="`tile`"):
            upscaler.pin_tile(value)
        with pytest.raises(OptionError, match="`tta`"):
            Ensemble([upscaler], tta=value)


def test_numpy_numbers_are_options_of_a_config_and_its_key(compact: Bundle) -> None:
    own = {"scale": 1.5, "tile": 64, "threads": 1, "tta": 2, "memory_fraction": 0.25}
    numpy: dict[str, Any] = {
        "scale": np.float32(1.5), "tile": np.int64(64), "threads": np.int32(1), "tta": np.int8(2),
        "memory_fraction": np.float64(0.25),
    }  # fmt: skip
    model = str(compact.folder)
    plain_config: Any = RestoreConfig(model=model, backend="onnx", device="cpu", **own)  # type: ignore[arg-type]
    config = RestoreConfig(model=model, backend="onnx", device="cpu", **numpy)
    assert config.key() == plain_config.key()
    image = np.full((16, 16, 3), 90, np.uint8)
    with config.open() as restorer:
        assert restorer(image).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda: restore_folder(5, "out"), "an input must be a path, got 5"),  # type: ignore[arg-type]
        (lambda: restore_folder(["a.png", None], "out"), "an input must be a path, got None"),  # type: ignore[list-item]
        (lambda: restore_folder("a.png", 5), "`dst` must be a path, got 5"),  # type: ignore[arg-type]
        (lambda: restore_folder("a\0b.png", "out"), "an input must be a path, got .* NUL"),
        (lambda: restore_folder("a.png", "o\0ut"), "`dst` must be a path, got .* NUL"),
        (lambda: restore_folder("a.png", "out", suffix=5), "`suffix` must be a string, got 5"),  # type: ignore[arg-type]
        (lambda: restore_folder("a.png", "out", format=5), "`format` must be a string, got 5"),  # type: ignore[arg-type]
        (lambda: restore_video(5, "a.mp4"), "the input must be a path, got 5"),  # type: ignore[arg-type]
        (lambda: restore_video("a\0.mp4", "a.mp4"), "the input must be a path, got .* a NUL"),
        (lambda: restore_video("a.mp4", 5), "`dst` must be a path, got 5"),  # type: ignore[arg-type]
        (lambda: restore_video("a.mp4", "b.mp4", fps="24"), "`fps` must be a finite number"),  # type: ignore[arg-type]
        (lambda: restore_video("a.mp4", "b.mp4", fps=True), "`fps` must be a finite number"),
        (lambda: restore_video("a.mp4", "b.mp4", preset=5), "`preset` must be a string, got 5"),  # type: ignore[arg-type]
    ],
)
def test_arguments_of_another_type_are_named(function: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        function()


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", r"'a\nb'"),
        ("x" * 80, f"'{'x' * 80}'"),
        ("x" * 70_000, f"'{'x' * 80}'..."),
        (None, "None"),
        (12, "12"),
        (-(10**5000), "an integer of 16610 bits"),
        (["a", {"b": 1}], "['a', {'b': 1}]"),
        ([1] * 1000, "[1, 1, 1, 1, 1, 1, ...]"),
        ([10**5000], "[an integer of 16610 bits]"),
    ],
    ids=range(9),
)
def test_what_messages_quote(value: object, text: str) -> None:
    assert shown(value) == text


def test_messages_quote_anything_in_one_short_line() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    for value in (b"x" * 70_000, np.zeros((30, 30)), Unshowable(), nested, {"x" * 70_000: nested}):
        assert len(shown(value)) < 300
        assert "\n" not in shown(value)


LONG: Any = "x" * 70_000
HUGE: Any = 10**5000


@pytest.mark.parametrize(
    "refused",
    [
        lambda: check_int("size", LONG),
        lambda: check_int("size", HUGE, high=10),
        lambda: check_number("size", HUGE, 0),
        lambda: check_choice("size", LONG, ("a", "b")),
        lambda: RestoreConfig(scale=LONG),
        lambda: RestoreConfig(scale=HUGE),
        lambda: RestoreConfig(tile=LONG),
        lambda: RestoreConfig(device=LONG),
        lambda: Upscaler(LONG),
        lambda: Upscaler(f"/{LONG}"),
        lambda: Upscaler(backend=LONG),
        lambda: VideoOptions(preset=LONG),
        lambda: VideoOptions(encoder=LONG),
        lambda: EngineOptions(dtypes=LONG),
        lambda: ClusterOptions(cpus=LONG),
        lambda: restore_folder(LONG, "out"),
        lambda: restore_folder("in", LONG),
        lambda: restore_folder("in", "out", suffix=f"/{LONG}"),
        lambda: restore_video(LONG, "out.mp4"),
        lambda: restore_video("in.mp4", LONG),
        lambda: store_folder(LONG),
        lambda: weights_folder(f"~{LONG}"),
        lambda: store_folder("d/" * LONGEST),
    ],
    ids=range(23),
)
def test_messages_do_not_repeat_a_long_value(refused: Any) -> None:
    with pytest.raises(ResharpError) as caught:
        refused()
    assert len(str(caught.value)) < 1000
