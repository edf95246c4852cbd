"""The promised figures, on real photos and weights, where these are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import parity, precision, quality, seams
from benchmarks.common import load
from resharp import Upscaler
from resharp.engines import Bundle
from resharp.export import ExportOptions, export
from resharp.training.validate import clean_input, degraded_input, measure
from tests.shared import ANIMEVIDEO, PHOTOS, needs_animevideo, needs_photos

pytestmark = [pytest.mark.shared, pytest.mark.slow, needs_photos]


@pytest.fixture(scope="module")
def animevideo(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(ANIMEVIDEO, ExportOptions(), store=tmp_path_factory.mktemp("store"))


@needs_animevideo
def test_the_official_checkpoint_agrees_with_torch_on_every_photo(animevideo: Bundle) -> None:
    done = CliRunner().invoke(parity.main, [str(PHOTOS), "-m", str(animevideo.folder)])
    assert done.exit_code == 0, done.output


@needs_animevideo
def test_the_official_checkpoint_leaves_no_seam(animevideo: Bundle) -> None:
    done = CliRunner().invoke(seams.main, [str(PHOTOS), "-m", str(animevideo.folder)])
    assert done.exit_code == 0, done.output


@needs_animevideo
def test_the_official_checkpoint_is_in_fp16_what_it_is_in_fp32(animevideo: Bundle) -> None:
    done = CliRunner().invoke(precision.main, [str(PHOTOS), "-m", str(animevideo.folder)])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("make", "bar"), [(clean_input, 1.0), (degraded_input, 0.8)])
def test_the_built_in_model_is_better_than_bicubic(make: Callable[..., object], bar: float) -> None:
    with Upscaler(backend="onnx") as upscaler:
        found = measure(load(PHOTOS).values(), upscaler, make, 4)  # type: ignore[arg-type]
    assert found.gain >= bar


def test_the_quality_benchmark_reports(tmp_path: Path) -> None:
    done = CliRunner().invoke(quality.main, [str(PHOTOS), "--json", str(tmp_path / "q.json")])
    assert done.exit_code == 0, done.output
    assert "mean gain (dB)" in (tmp_path / "q.json").read_text()
