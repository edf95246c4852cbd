"""Tuning: the choice of settings from measurements, and one real run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from resharp import Upscaler
from resharp.bench import tune
from resharp.bench.cases import Budget, Case
from resharp.bench.records import Estimate, PeakMemory, ResolvedCase
from resharp.bench.tune import Trial, Tuned, Tuner
from resharp.bench.worker_process import WorkerProcess
from resharp.engines import Bundle
from resharp.errors import BackendError
from resharp.gpu.devices import device_name
from tests.cli.commands import call

Speed = Mapping[object, float]


class FakeTuner(Tuner):
    """Takes trials from a table: by tile or threads, and on later images by (that, height)."""

    def __init__(self, bundle: Bundle, speeds: Speed, memory: int | None = None) -> None:
        super().__init__(bundle, "onnx", memory)
        self._speeds = speeds
        self.tried: list[Case] = []

    def _sizes(self) -> tuple[tuple[int, int], ...]:
        return ((300, 400), (200, 200), (500, 100))

    def _open(self, process: WorkerProcess, case: Case) -> ResolvedCase:
        return ResolvedCase(backend="onnx", device="cpu")

    def _trial(
        self, process: WorkerProcess, actual: ResolvedCase, case: Case, ratio: Estimate
    ) -> Trial:
        return self.made(case, ratio)

    def _against(self, default: WorkerProcess, case: Case, budget: Budget) -> list[Trial]:
        self.tried.append(case)
        key = case.threads or case.tile
        speed = self._speeds.get((key, case.height), self._speeds.get(key, 0.9))
        return [self.made(case, Estimate(median=speed, low=speed - 0.01, high=speed + 0.01))]

    def made(self, case: Case, ratio: Estimate) -> Trial:
        tile = case.tile if isinstance(case.tile, int) else 512
        actual = ResolvedCase(
            backend="onnx", device="cpu", tile=tile, pixels=tile**2, lanes=1, batch=1
        )
        memory = PeakMemory(host=10**8 + 1000 * tile**2)
        return Trial(case=case, ratio=ratio, actual=actual, memory=memory)


def tuned(bundle: Bundle, speeds: Speed, memory: int | None = None) -> Tuned:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "WorkerProcess", nullcontext)
        return FakeTuner(bundle, speeds, memory).tune()


def test_the_fastest_on_every_picture_is_chosen(compact: Bundle) -> None:
    found = tuned(compact, {128: 1.2, 256: 1.3, (256, 200): 0.99, 192: 1.1})
    assert found.tuning.tile == 128  # 256 loses on the second picture
    assert found.tuning.gain == pytest.approx(1.2)
    assert found.tuning.bytes_per_pixel == pytest.approx(1000)
    assert (found.tuning.backend, found.tuning.device) == ("onnx", device_name("cpu"))


def test_the_defaults_stay_where_nothing_is_faster_beyond_doubt(compact: Bundle) -> None:
    tables: list[dict[object, float]] = [{}, {128: 1.015}, {128: 1.2, (128, 500): 1.005}]
    for speeds in tables:
        found = tuned(compact, speeds)
        assert (found.tuning.tile, found.tuning.threads, found.tuning.gain) == (512, None, 1.0)


def test_threads_can_win_too(compact: Bundle) -> None:
    found = tuned(compact, {1: 1.5})
    assert (found.tuning.threads, found.tuning.tile) == (1, 512)


def test_a_budget_is_kept(compact: Bundle) -> None:
    fits_256 = 10**8 + 1000 * 256**2
    found = tuned(compact, {128: 0.7, 192: 0.8, 256: 0.85, 384: 1.5}, fits_256)
    assert (found.tuning.tile, found.tuning.memory) == (256, fits_256)
    assert found.tuning.gain == pytest.approx(0.85)  # the defaults do not fit
    with pytest.raises(BackendError, match=r"`memory` must be at least .*, got 5"):
        tuned(compact, {}, 5)


def test_the_front_is_the_pareto_front(compact: Bundle) -> None:
    found = tuned(compact, {128: 0.7, 192: 0.6, 256: 0.9, 384: 0.8})
    assert [trial.actual.tile for trial in found.front] == [128, 256, 512]


def test_slow_networks_get_smaller_pictures() -> None:
    assert tune._shrunk((360, 640), 1e9) == (360, 640)
    height, width = tune._shrunk((1080, 1920), 1080 * 1920 / 4)
    assert (height, width) == (540, 960)
    assert min(tune._shrunk((1080, 1920), 10)) == tune.LEAST_SIDE
    assert tune._shrunk((100, 3000), 10) == (100, tune.LEAST_SIDE)


def test_what_has_nothing_to_tune(compact: Bundle) -> None:
    with pytest.raises(BackendError, match="ncnn has no settings to tune"):
        Tuner(compact, "ncnn")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that can be measured."""
    monkeypatch.setattr(tune, "CPU_SIZES", ((tune.LEAST_SIDE, tune.LEAST_SIDE),))  # no other one
    monkeypatch.setattr(tune, "CPU_TILES", (128,))
    monkeypatch.setattr(tune, "usable_threads", lambda: 1)
    brief = Budget(pairs=2, most_pairs=2, seconds=0, limit=0)
    monkeypatch.setattr(tune, "SCREEN", brief)
    monkeypatch.setattr(tune, "PROVE", brief)
    monkeypatch.setattr(tune, "FINAL", 1)
    monkeypatch.setattr("resharp.cli.tuning.has_gpu", lambda: False)


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "without_torch")
def test_the_command_measures_and_writes_the_manifest(compact: Bundle, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(compact.folder, store / "compact")
    code, text = call("export-engines", "compact", "--tune", "--store", str(store))
    assert code == 0, text
    assert "front: " in text
    assert f"compact on {device_name('cpu')}: " in text
    (found,) = json.loads((store / "compact" / "manifest.json").read_text())["tunings"]
    assert found["tile"] in (128, 512)
    assert found["bytes_per_pixel"] is None or found["bytes_per_pixel"] > 0
    with Upscaler("compact", store=store, backend="onnx") as upscaler:
        assert upscaler.tile == found["tile"]


def test_options_that_make_no_sense() -> None:
    code, text = call("export-engines", "--memory", "8GB")
    assert code == 1
    assert "--memory requires --tune" in text
    code, text = call("export-engines", "--tune", "--memory", "lots")
    assert code == 1
    assert "must be a size such as 8GB" in text


def test_engines_are_built_where_they_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from resharp.cli.tuning import builds

    monkeypatch.setattr("resharp.cli.tuning.has_gpu", lambda: False)
    assert builds(False, None, None)
    assert not builds(True, None, None)
    assert builds(True, "sm86", None)
    monkeypatch.setattr("resharp.cli.tuning.has_gpu", lambda: True)
    monkeypatch.setattr("resharp.gpu.tensorrt.installed", lambda: ("tensorrt_rtx",))
    assert builds(True, None, None)
    monkeypatch.setattr("resharp.gpu.tensorrt.installed", tuple)
    assert not builds(True, None, None)


def test_a_gpus_candidates_are_tiles_batches_and_lanes(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "has_gpu", lambda: True)
    tuner = Tuner(compact, "tensorrt_rtx")
    default = tuner._default((1080, 1920))
    assert (default.lanes, default.batch, default.tile) == (2, None, "auto")
    found = tuner._candidates((1080, 1920))
    assert len(found) == len(set(found)) == 5 * 4 * 3
    assert replace(default, tile=1024, batch=8, lanes=3) in found
    assert {case.threads for case in found} == {None}
