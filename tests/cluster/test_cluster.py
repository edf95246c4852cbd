"""Folders and video on a local Ray cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resharp import video
from resharp.cluster import ClusterOptions, cluster_stages, restore_video
from resharp.cluster.session import ClusterSession, _shares
from resharp.engines import Bundle
from resharp.errors import BackendError, OptionError, ResharpError, UnknownModelError, VideoError
from resharp.folders import FolderRun, Output, restore_folder
from resharp.pipeline.restorer import RestoreConfig
from resharp.video import VideoOptions
from tests.cli.commands import call
from tests.video.kit import Spec, make, parts
from tests.waiting import LIMIT, until

pytestmark = [pytest.mark.processes, pytest.mark.slow]

ray = pytest.importorskip("ray", reason="needs Ray (pip install 'resharp[ray]')")

OPTIONS = VideoOptions(segment=8, encoder_threads=2)
TWO = ClusterOptions(workers=2, cpus=1)


_get_node = ray._private.services.get_node


def _patient(*where: Any) -> Any:
    """Wait longer for Ray's own processes than Ray's 30 seconds."""
    found: list[Any] = []

    def there() -> bool:
        with suppress(RuntimeError):
            found.append(_get_node(*where))
        return bool(found)

    until(there, "Ray starts")
    return found[0]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """One cluster for all tests: it takes seconds to start."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray._private.services.get_node", _patient)
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _system_config={
                "worker_register_timeout_seconds": int(LIMIT),  # the machine may be busy
                "health_check_failure_threshold": 100,
                "worker_niceness": 0,  # by default Ray gives way to all other processes
                "memory_monitor_refresh_ms": 0,  # ignore other processes' memory
            },
        )
    yield
    ray.shutdown()


@pytest.fixture
def config(compact: Bundle) -> RestoreConfig:
    return RestoreConfig(model=str(compact.folder), device="cpu", tile=64)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process numbers of the workers of the last session."""
    pids: list[int] = []
    start = ClusterSession.start

    def started(self: ClusterSession) -> None:
        start(self)
        pids[:] = ray.get([actor.pid.remote() for actor in self._actors])

    monkeypatch.setattr(ClusterSession, "start", started)
    return pids


def test_a_video_is_the_one_of_a_single_machine_though_a_worker_dies(
    tmp_path: Path, config: RestoreConfig, workers: list[int]
) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=60, sound=("aac",), options={"g": "13"}))
    alone = video.run.render_video(clip, tmp_path / "alone.mp4", config, options=OPTIONS).target
    killed: list[int] = []

    def kill_one(done: float, total: float) -> None:
        if not killed and done >= 16:
            killed.append(workers[0])
            os.kill(workers[0], signal.SIGKILL)

    target = tmp_path / "out.mp4"
    report = restore_video(clip, target, config, options=OPTIONS, cluster=TWO, progress=kill_one)
    assert killed
    assert target.read_bytes() == alone.read_bytes()
    assert parts(target).times == parts(clip).times
    assert (report.frames, report.restored) == (60, 60)
    assert not list(tmp_path.glob("*.resharp"))


def test_an_interrupted_video_goes_on_here_or_there(tmp_path: Path, config: RestoreConfig) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=60))
    alone = video.run.render_video(clip, tmp_path / "alone.mp4", config, options=OPTIONS).target

    class StopError(Exception):
        pass

    def stop(done: float, total: float) -> None:
        # A single machine resumes after the last segment without a gap before it.
        if done >= 24 and (tmp_path / "out.mp4.resharp" / "000000.mp4").exists():
            raise StopError

    target = tmp_path / "out.mp4"
    with pytest.raises(StopError):
        restore_video(clip, target, config, options=OPTIONS, cluster=TWO, progress=stop)
    report = restore_video(clip, target, config, options=OPTIONS, cluster=TWO)
    assert report.resumed_at >= 24
    assert report.restored == 60 - report.resumed_at
    assert target.read_bytes() == alone.read_bytes()
    target.unlink()
    with pytest.raises(StopError):
        restore_video(clip, target, config, options=OPTIONS, cluster=TWO, progress=stop)
    assert video.run.render_video(clip, target, config, options=OPTIONS).resumed_at >= 8
    assert target.read_bytes() == alone.read_bytes()
    assert restore_video(clip, target, config, options=OPTIONS, cluster=TWO).skipped


def test_a_video_that_ends_early_keeps_its_beginning(tmp_path: Path, config: RestoreConfig) -> None:
    clip = make(tmp_path / "in.mkv", Spec(frames=60))
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    with pytest.raises(VideoError, match="ends early"):
        restore_video(clip, tmp_path / "out.mkv", config, options=OPTIONS, cluster=TWO)
    assert len(list((tmp_path / "out.mkv.resharp").glob("*.mp4"))) >= 3


def _pictures(folder: Path, count: int) -> Path:
    (folder / "sub").mkdir(parents=True)
    for number in range(count):
        image = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        name = f"{number:02d}.png" if number % 2 else f"sub/{number:02d}.jpg"
        assert cv2.imwrite(str(folder / name), image)
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".resharp" not in path.parts
    }


def test_a_folder_is_the_one_of_a_single_machine_though_a_worker_dies(
    tmp_path: Path, config: RestoreConfig, workers: list[int]
) -> None:
    inputs = _pictures(tmp_path / "in", 24)
    (inputs / "bad.png").write_text("no picture")
    restore_folder(inputs, tmp_path / "alone", config=config)
    killed: list[int] = []

    def kill_one(result: Any) -> None:
        if not killed and workers:
            killed.append(workers[1])
            os.kill(workers[1], signal.SIGKILL)

    target = Output(path=tmp_path / "out", suffix="", format=None)
    run = partial(FolderRun, [str(inputs)], target, config, open_stages=cluster_stages(TWO))
    report = run(on_result=kill_one).run()
    assert killed
    assert sum(one.status == "restored" for one in report.results) == 24
    (failed,) = [one for one in report.results if one.status == "failed"]
    assert "bad.png" in failed.error
    assert failed.code == "invalid-image"
    assert _files(tmp_path / "out") == _files(tmp_path / "alone")
    again = run().run()
    assert sum(one.status == "skipped" for one in again.results) == 24


def test_a_worker_that_dies_again_and_again_is_an_error(
    tmp_path: Path, config: RestoreConfig, workers: list[int]
) -> None:
    inputs = _pictures(
        tmp_path / "in", 24
    )  # more than can be in flight before the first one is done
    once = ClusterOptions(workers=1, cpus=1, retries=0)

    def kill(result: Any) -> None:
        with suppress(ProcessLookupError):  # a second result may have been on its way
            os.kill(workers[0], signal.SIGKILL)

    target = Output(path=tmp_path / "out", suffix="", format=None)
    stages = cluster_stages(once)
    run = FolderRun([str(inputs)], target, config, open_stages=stages, on_result=kill)
    with pytest.raises(BackendError, match="a worker died"):
        run.run()


def test_the_command(tmp_path: Path, compact: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _pictures(tmp_path / "in", 4)
    clip = make(tmp_path / "in.mp4", Spec(frames=16))
    cluster = ("-m", str(compact.folder), "--workers", "2", "--cpus-per-worker", "1")
    code, said = call("cluster", "folder", "in", "-o", "out", *cluster)
    assert code == 0, said
    assert "4 restored with compact, onnx on cpu" in said
    args = ("--segment", "8", "--json")
    code, said = call("cluster", "video", str(clip), "-o", "out.mp4", *cluster, *args)
    assert code == 0, said
    assert json.loads(said.splitlines()[-1])["frames"] == 16
    code, said = call("cluster", "folder", "in", "-o", "out", *cluster, "--device", "cuda:0,1")
    assert code == 1
    assert "--device cuda:0,1 is for one machine" in said
    code, said = call("cluster", "folder", "in", "-o", "out", "--cpus-per-worker", "0")
    assert code == 1
    assert "--cpus-per-worker must be a number above 0" in said


def test_what_cannot_be_is_said(tmp_path: Path, config: RestoreConfig) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=3))
    with pytest.raises(OptionError, match="need more than the cluster has"):
        restore_video(clip, tmp_path / "out.mp4", config, cluster=ClusterOptions(workers=9))
    with pytest.raises(UnknownModelError, match="nobody"):
        restore_video(clip, tmp_path / "out.mp4", config.on(model="nobody"), cluster=TWO)
    with pytest.raises(ResharpError, match="there is no file"):
        restore_video(tmp_path / "none.mp4", tmp_path / "out.mp4", config, cluster=TWO)
    with pytest.raises(OptionError, match="leave out `aligned`"):
        restore_video(clip, tmp_path / "out.mp4", RestoreConfig(face="codeformer", aligned=True))
    with pytest.raises(OptionError, match="`workers` must be a positive integer, got 0"):
        ClusterOptions(workers=0)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("have", "options", "count", "each"),
    [
        ({"CPU": 16.0}, ClusterOptions(), 4, (4.0, 0.0)),
        ({"CPU": 2.0}, ClusterOptions(), 1, (2.0, 0.0)),
        ({"CPU": 16.0, "GPU": 2.0}, ClusterOptions(), 2, (8.0, 1.0)),
        ({"CPU": 16.0, "GPU": 2.0}, ClusterOptions(gpus=0.5), 4, (4.0, 0.5)),
        ({"CPU": 16.0, "GPU": 2.0}, ClusterOptions(gpus=1, workers=1, cpus=3), 1, (3.0, 1.0)),
    ],
)
def test_resources_are_shared(
    have: dict[str, float], options: ClusterOptions, count: int, each: tuple[float, float]
) -> None:
    assert _shares(have, options) == (count, each)


def test_without_ray_the_extra_is_named(
    tmp_path: Path, config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    clip = make(tmp_path / "in.mp4", Spec(frames=3))
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResharpError, match=r"pip install 'resharp\[ray\]'"):
        restore_video(clip, tmp_path / "out.mp4", config)


def test_a_cluster_that_is_not_there_is_said_at_once(
    tmp_path: Path, config: RestoreConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = make(tmp_path / "in.mp4", Spec(frames=3))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    for address in ("127.0.0.1:9", "ray://127.0.0.1:9"):
        nobody = ClusterOptions(address=address)
        with pytest.raises(BackendError, match=r"cannot connect to the Ray cluster .*refused"):
            restore_video(clip, tmp_path / "out.mp4", config, cluster=nobody)
    assert not list(tmp_path.glob("out*"))
