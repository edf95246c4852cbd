"""Bounded work in folders: pixels, memory, and results that a format cannot hold."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp.folders import restore_folder, stages
from resharp.fsutil import write_whole
from resharp.images import decode
from resharp.pipeline.restorer import RestoreConfig, Restorer
from tests.cli.commands import call
from tests.images.claims import claiming
from tests.images.test_samples import encoded, photo

pytestmark = pytest.mark.processes


def save(path: str, height: int, width: int) -> None:
    Path(path).parent.mkdir(exist_ok=True)
    assert cv2.imwrite(path, np.full((height, width, 3), 99, np.uint8))


def test_what_is_decoded_at_once_is_inside_the_budget(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        save(f"in/{number}.png", 40, 50)
    cost = 40 * 50 * 3 * (1 + 4) + Path("in/0.png").stat().st_size
    share = stages.MEMORY_SHARE
    monkeypatch.setattr(stages, "available_memory", lambda: share * (3 * cost + cost // 2))
    lock, alive, most = threading.Lock(), 0, 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return decode(*args, **options)

    def slow(path: Path, data: bytes) -> None:
        nonlocal alive
        time.sleep(0.03)
        write_whole(path, data)
        with lock:
            alive -= 1

    monkeypatch.setattr(stages, "decode", counted)
    monkeypatch.setattr(stages, "write_whole", slow)
    assert restore_folder("in", "out", config=config, workers=4).count("restored") == 8
    assert most == 3
    most = 0
    monkeypatch.setattr(stages, "available_memory", lambda: share)  # one alone may exceed it
    report = restore_folder("in", "out", config=config, workers=4, overwrite=True)
    assert report.count("restored") == 8
    assert most == 1


def test_a_large_image_fails_alone_and_the_limit_is_no_reason_to_redo(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("in/a.png", 10, 10)
    save("in/b.png", 11, 10)
    report = restore_folder("in", "out", config=config, max_pixels=100)
    assert [one.status for one in report.results] == ["restored", "failed"]
    assert "has 10 x 11 pixels, over the limit of 100." in report.results[1].error
    assert report.results[1].code == "invalid-image"
    monkeypatch.setenv("RESHARP_MAX_PIXELS", "110")
    report = restore_folder("in", "out", config=config)
    assert [one.status for one in report.results] == ["skipped", "restored"]
    monkeypatch.setenv("RESHARP_MAX_PIXELS", "none")
    code, said = call("upscale", "in", "-o", "out", "-m", config.model)
    assert code == 1
    assert "Error: RESHARP_MAX_PIXELS must be a positive integer, got 'none'" in said


def test_results_that_no_file_can_hold_are_refused_before_the_work(
    config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    save("in/long.jpg", 2, 8192)
    monkeypatch.setattr(stages, "decode", None)
    monkeypatch.setattr(Restorer, "with_count", None)
    report = restore_folder("in", "out", config=config, format="webp")
    assert report.results[0].error.startswith("WebP holds at most 16383 pixels per side, but the")
    assert report.results[0].code == "output"
    assert not list(Path("out").glob("*"))


def test_claims_cost_nothing(config: RestoreConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in").mkdir()
    for suffix in (".gif", ".png", ".jpg", ".tif", ".bmp", ".webp"):
        data = claiming(encoded(suffix, photo(24, 32)), 16_383, 16_383)
        Path(f"in/{suffix[1:]}{suffix}").write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", None)
    report = restore_folder("in", "out", config=config)
    assert report.count("failed") == 6
    for one in report.results:
        assert "16383 x 16383 pixels" in one.error, one


def test_the_command_has_the_limit(config: RestoreConfig) -> None:
    save("in/b.png", 11, 10)
    code, said = call("upscale", "in", "-o", "out", "-m", config.model, "--max-pixels", "109")
    assert code == 1
    assert "set --max-pixels to 110" in said
    code, said = call("upscale", "in", "-o", "out", "-m", config.model, "--workers", "100000")
    assert code == 1
    assert "--workers must be an integer between 1 and 256, got 100000" in said
