from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from resharp.drawing import draw
from resharp.models import load_network
from resharp.training.data import Pairs, load_images
from resharp.training.degrade import Degradation, add_noise, degrade, jpeg, shrink
from resharp.training.train import TrainingConfig, TrainingRun
from resharp.training.validate import clean_input, degraded_input, luma, measure, psnr_y

TINY = {"features": 8, "convolutions": 1, "batch": 2, "patch": 12, "warmup": 1, "bfloat16": False}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f"{index}.png"), draw(96, 120, index))
    return folder


def config(steps: int) -> TrainingConfig:
    return TrainingConfig(steps=steps, **TINY)  # type: ignore[arg-type]


def test_luma_and_psnr_are_those_of_the_papers() -> None:
    white = np.full((2, 2, 3), 255, np.uint8)
    assert luma(white) == pytest.approx(235, abs=1e-3)
    assert luma(white * 0) == pytest.approx(16)
    gray = np.full((8, 8, 3), 100, np.uint8)
    # ten levels of gray are 10 * 219 / 255 of luma
    assert psnr_y(gray, gray + 10) == pytest.approx(20 * np.log10(255 / (10 * 219 / 255)), abs=1e-3)
    assert psnr_y(gray, gray) == float("inf")
    with pytest.raises(ValueError, match="shapes must be equal"):
        psnr_y(gray, gray[:4])


def test_degradation_is_decided_by_its_generator() -> None:
    picture = draw(96, 96)
    one, two, other = (degrade(picture, Degradation(), np.random.default_rng(s)) for s in (1, 1, 2))
    assert one.shape == (24, 24, 3)
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    clean = degrade(picture, Degradation(clean=1), np.random.default_rng(1))
    np.testing.assert_array_equal(clean, shrink(picture, 4))


def test_wear_is_as_strong_as_it_says() -> None:
    gray = np.full((64, 64, 3), 128, np.uint8)
    noisy = add_noise(gray, 4.0, np.random.default_rng(0))
    assert np.std(noisy) == pytest.approx(4, rel=0.05)
    single = add_noise(gray, 4.0, np.random.default_rng(0), gray=True)
    assert (single == single[:, :, :1]).all()
    photo = draw(64, 64)
    errors = [np.mean((jpeg(photo, q).astype(float) - photo) ** 2) for q in (95, 75, 50)]
    assert errors == sorted(errors)


def test_batches_are_a_function_of_the_step(photos: Path) -> None:
    def pairs() -> Pairs:
        return Pairs(load_images(photos), patch=12, batch=3, degradation=Degradation(), seed=1)

    straight = list(pairs().iterate(0, 6))
    resumed = list(pairs().iterate(4, 6))
    for (one, target), (two, other) in zip(straight[4:], resumed, strict=True):
        assert one.shape == (3, 12, 12, 3)
        assert target.shape == (3, 48, 48, 3)
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(target, other)


def test_folders_that_cannot_train(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="contains no images"):
        load_images(tmp_path)
    with pytest.raises(ValueError, match="at least 192 pixels"):
        Pairs([draw(90, 90)], patch=48, batch=1, degradation=Degradation(), seed=1)


def test_the_rate_warms_up_and_decays() -> None:
    plan = TrainingConfig(steps=1000, warmup=100, decay=0.5, learning_rate=1e-3)
    rates = [plan.rate(step) for step in (0, 99, 300, 750, 999)]
    assert rates == pytest.approx([1e-5, 1e-3, 1e-3, 5e-4, 2e-6])


def test_a_resumed_run_is_the_run_that_never_stopped(photos: Path, tmp_path: Path) -> None:
    def state(folder: str) -> dict[str, torch.Tensor]:
        return {
            key: value
            for name in ("network", "average")
            for key, value in torch.load(tmp_path / folder / "last.pt", weights_only=True)[
                name
            ].items()
        }

    whole = TrainingRun(tmp_path / "whole", config(6), photos, photos)
    whole.run(every=3)
    first = TrainingRun(tmp_path / "parts", config(6), photos, photos)
    assert first.run(every=3, until=3)["step"] == 3
    second = TrainingRun(tmp_path / "parts", config(6), photos, photos)
    assert second.resume()
    assert second.step == 3
    second.run(every=3)
    one, two = state("whole"), state("parts")
    assert all(torch.equal(one[key], two[key]) for key in one)
    log = [json.loads(x) for x in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [3, 6]
    load_network(tmp_path / "whole" / "average.pth")


def test_a_run_is_resumed_from_the_host(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam counts its steps there; on a GPU each would be waited for."""
    TrainingRun(tmp_path, config(2), photos, photos).run(every=1)
    places, load = [], torch.load

    def told(path: Path, **options: Any) -> Any:
        places.append(str(options["map_location"]))
        return load(path, **{**options, "map_location": "cpu"})

    monkeypatch.setattr("torch.load", told)
    second = TrainingRun(tmp_path, config(2), photos, photos)
    second.device = "cuda"  # it is not asked for anything else
    assert second.resume()
    assert places == ["cpu"]


def test_training_learns(photos: Path, tmp_path: Path) -> None:
    run = TrainingRun(tmp_path / "run", config(60), photos, photos)
    before = run.validate()
    after = run.run(every=60)
    assert after["clean_gain"] > before["clean_gain"]


def test_validation_of_plain_upscaling_gains_nothing() -> None:
    def bicubic(image: np.ndarray) -> np.ndarray:
        size = (image.shape[1] * 4, image.shape[0] * 4)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)

    for make in (clean_input, degraded_input):
        found = measure([draw(65, 82)], bicubic, make, 4)
        assert found.gain == pytest.approx(0)
        assert found.bicubic > 15
