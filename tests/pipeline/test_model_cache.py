from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resharp import Loader, Settings, Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import BackendError, ImageError, OptionError, UnknownModelError
from tests.faces.test_faces import add_fidelity
from tests.waiting import LIMIT

PICTURE = draw(20, 28)


@pytest.fixture
def loader(compact: Bundle) -> Iterator[Loader]:
    with Loader(Settings(model=str(compact.folder), backend="onnx")) as loader:
        yield loader


def test_one_call_for_an_upscaler(loader: Loader, compact: Bundle) -> None:
    with Upscaler(compact, backend="onnx") as upscaler:
        expected = upscaler(PICTURE)
    np.testing.assert_array_equal(loader(PICTURE), expected)
    assert loader.loaded == (str(compact.folder),)
    assert loader(PICTURE, scale=3, tile=64).shape == (60, 84, 3)
    batch = loader.batch([PICTURE, PICTURE, PICTURE[:9]], size=2)
    np.testing.assert_array_equal(batch[1], expected)
    assert batch[2].shape == (18, 56, 3)
    assert loader.info().name == "compact"


def test_one_call_for_a_face_network(loader: Loader, compact: Bundle, tmp_path: Path) -> None:
    network = add_fidelity(tmp_path / "lighter").folder
    face = draw(512, 512)
    low, high = (
        loader(face, str(network), aligned=True, fidelity=fidelity) for fidelity in (0.0, 1.0)
    )
    assert low.shape == high.shape == face.shape
    assert np.abs(high.astype(int) - low).max() > 5
    with pytest.raises(OptionError, match="`fidelity` must be between 0 and 1, got 2"):
        loader(face, str(network), aligned=True, fidelity=2)
    (again,) = loader.batch([face], str(network), aligned=True, fidelity=0.0)
    np.testing.assert_array_equal(again, low)


def test_what_is_used_stays_open_and_the_rest_is_closed(compact: Bundle) -> None:
    model = str(compact.folder)
    with Loader(Settings(model=model, backend="onnx"), keep=2) as loader:
        for tile in (64, 96, 64, 128, 64):
            loader(PICTURE, tile=tile)
        with loader._use(None, {"tile": 64}) as first, loader._use(None, {"tile": 64}) as second:
            assert first is second
        with loader._use(None, {"tile": 128}) as kept:
            pass
        for tile in (256, 512):
            loader(PICTURE, tile=tile)
        assert len(loader.loaded) == 2
        with pytest.raises(BackendError, match="closed"):
            kept(PICTURE)


def test_a_model_in_use_is_not_closed(compact: Bundle) -> None:
    loader = Loader(Settings(model=str(compact.folder), backend="onnx"), keep=1)
    with loader._use(None, {"tile": 64}) as busy:
        loader(PICTURE, tile=96)
        busy(PICTURE)
        loader.close()
        busy(PICTURE)
    with pytest.raises(BackendError, match="closed"):
        busy(PICTURE)
    with pytest.raises(OptionError, match="this loader is closed"):
        loader(PICTURE)
    loader.close()


def test_threads_share_a_model(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    real = Upscaler.__init__

    def counted(self: Upscaler, **options: Any) -> None:
        opened.append(options)
        real(self, **options)

    monkeypatch.setattr(Upscaler, "__init__", counted)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(loader(PICTURE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(opened) == 1


def test_bad_calls(loader: Loader, compact: Bundle) -> None:
    with pytest.raises(OptionError, match="compact has no option 'fidelity'; it has backend"):
        loader(PICTURE, fidelity=0.5)
    with pytest.raises(UnknownModelError, match="no model is called"):
        loader(PICTURE, "nonesuch")
    with pytest.raises(ImageError):
        loader(PICTURE.astype(np.int64))
    with pytest.raises(OptionError, match="`keep` must be a positive integer"):
        Loader(keep=0)
    assert loader(PICTURE).shape == (40, 56, 3)  # still usable


@pytest.mark.processes
def test_opening_one_model_does_not_stop_the_others(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader(PICTURE)
    go, inside, real = threading.Event(), threading.Event(), Upscaler.__init__

    def slow(self: Upscaler, **options: Any) -> None:
        inside.set()
        assert go.wait(LIMIT)
        real(self, **options)

    monkeypatch.setattr(Upscaler, "__init__", slow)
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(loader(PICTURE, tile=96))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        assert inside.wait(LIMIT)
        loader(PICTURE)  # would block forever behind the model being opened
        assert loader.loaded
    finally:
        go.set()
    for thread in threads:
        thread.join()
    assert len(results) == 2


def test_a_model_that_could_not_be_opened_is_tried_again(
    loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Upscaler, "__init__", lambda self, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loader(PICTURE)
    assert loader.loaded == ()
    assert loader(PICTURE).shape == (40, 56, 3)


def test_options_as_the_settings_have_them_open_no_second_model(loader: Loader) -> None:
    loader(PICTURE)
    loader(PICTURE, tile="auto", memory_fraction=0.5)
    assert len(loader.loaded) == 1
    for images in (PICTURE, np.stack([PICTURE])):
        with pytest.raises(OptionError, match="a list of images"):
            loader.batch(images)
    with pytest.raises(OptionError, match="`size` must be a positive integer"):
        loader.batch([PICTURE], size=0)
