"""Configs and the pools that share the devices."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from resharp.engines import Bundle
from resharp.errors import BackendError, OptionError, UnknownModelError
from resharp.pipeline.restorer import RestoreConfig, RestorerPool
from resharp.runtime import Upscaler


def _config(bundle: Bundle, **settings: object) -> RestoreConfig:
    return RestoreConfig(model=str(bundle.folder), device="cpu", **settings)  # type: ignore[arg-type]


def test_a_restorer_does_what_an_upscaler_does(compact: Bundle) -> None:
    images = [np.random.default_rng(n).integers(0, 256, (20, 24, 3), np.uint8) for n in range(3)]
    with _config(compact).open() as restorer, Upscaler(compact, device="cpu") as upscaler:
        wanted = [upscaler(image) for image in images]
        assert all(np.array_equal(restorer(i), w) for i, w in zip(images, wanted, strict=True))
        together = restorer.batch(images)
        assert all(np.array_equal(a, w) for a, w in zip(together, wanted, strict=True))
        assert restorer.batch_for(20, 24) == 1  # batches do not help on a CPU
        assert restorer.info.scale == 2


def test_the_key_is_of_what_decides_the_pixels(compact: Bundle, tiny: dict[str, Bundle]) -> None:
    def key(config: RestoreConfig) -> str:
        with config.open() as restorer:
            return restorer.info.key

    base = _config(compact)
    assert key(base) == key(base.on(threads=1, tile=64, memory_fraction=0.25))
    others = [base.on(scale=3), _config(tiny["rrdb2"]), base.on(tta=2)]
    assert len({key(one) for one in [base, *others]}) == 4


@pytest.mark.parametrize(
    ("cores", "options", "restorers", "calls", "threads"),
    [
        (2, {}, 1, 2, 1),
        (4, {}, 1, 4, 1),
        (16, {}, 4, 4, 4),
        (16, {"workers": 2}, 2, 2, 8),
        (16, {"most": 1}, 1, 1, None),
        (1, {}, 1, 1, None),
        (2, {"workers": 1}, 1, 1, None),
    ],
)
def test_cores_are_shared(
    compact: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    options: dict[str, int],
    restorers: int,
    calls: int,
    threads: int | None,
) -> None:
    monkeypatch.setattr("resharp.pipeline.restorer.usable_threads", lambda: cores)
    with RestorerPool(_config(compact), **options) as pool:
        assert len(pool.workers) == restorers
        assert len(pool.slots) == calls
        assert pool.first.config.threads == threads
        assert pool.first.config.memory_fraction == pytest.approx(0.5 / calls)


def test_the_users_threads_are_kept(compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resharp.pipeline.restorer.usable_threads", lambda: 8)
    with RestorerPool(_config(compact, threads=4)) as pool:
        assert [one.config.threads for one in pool.workers] == [4, 4]


class _OnGpu:
    """Fake restorer on a GPU that needs two images in flight."""

    threads = 2

    def __init__(self, config: RestoreConfig) -> None:
        self.device, self.closed = config.device, False
        self.info = SimpleNamespace(device_label="tensorrt on cuda")

    def __enter__(self) -> _OnGpu:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True


def test_gpus_take_pictures_in_turn(compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RestoreConfig, "open", lambda self: _OnGpu(self))
    both = RestoreConfig(model=str(compact.folder), device="cuda:0,2")
    with RestorerPool(both) as pool:
        assert [one.device for one in pool.slots] == ["cuda:0", "cuda:2"] * 2  # type: ignore[attr-defined]
    assert all(one.closed for one in pool.workers)  # type: ignore[attr-defined]
    with RestorerPool(both, workers=1) as pool:
        assert [one.device for one in pool.slots] == ["cuda:0", "cuda:2"]  # type: ignore[attr-defined]
    with RestorerPool(both.on(device="cuda"), workers=3) as pool:
        assert len(pool.workers) == 1
        assert len(pool.slots) == 3


def test_what_makes_no_sense_is_refused(compact: Bundle, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="`workers` must be an integer between 1 and 256, got 0"):
        RestorerPool(_config(compact), workers=0)
    with pytest.raises(OptionError, match="each once"):
        RestorerPool(_config(compact).on(device="cuda:0,0"))
    with pytest.raises((OptionError, BackendError), match=r"each once|no NVIDIA driver"):
        RestorerPool(_config(compact).on(device="cuda:all"))
    with pytest.raises(OptionError, match="`fidelity` requires a face network"):
        RestoreConfig(fidelity=0.5)
    with pytest.raises(OptionError, match="leave out `tta`"):
        RestoreConfig(face="codeformer", aligned=True, tta=2)
    with pytest.raises(UnknownModelError):
        RestoreConfig(model="nobody", store=str(tmp_path)).open()


def test_a_config_can_be_sent(compact: Bundle) -> None:
    config = _config(compact, scale=3.0)
    assert pickle.loads(pickle.dumps(config)) == config
