"""The order of things in the torch backend's GPU path, on the CPU with a lane of its own making."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from resharp import Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import BackendError, OutOfMemoryError
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.base import Image
from resharp.runtime.backends.torch import TorchBackend
from resharp.runtime.backends.torch_cuda import CudaLane, cut
from resharp.runtime.backends.torch_kept import REMEMBERED, PinnedResults, Recordings
from resharp.runtime.backends.torch_lanes import (
    IN_FLIGHT,
    Lane,
    Wait,
    chunks,
    run_batch,
    run_tiles,
)
from resharp.runtime.lanes import LanePool
from resharp.runtime.plan import Tile, plan
from tests.waiting import LIMIT, joined

SCALE = 2


class Late:
    """A lane without a GPU. Downloads are done when they are waited for, and not before."""

    def __init__(self, failing: int = 0) -> None:
        self.log: list[str] = []
        self.in_flight = self.settled = self.closed = 0
        self.current = False
        self._forwards, self._failing = 0, failing

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        assert not self.current
        self.current = True
        try:
            yield
        finally:
            self.current = False

    def upload(self, image: Image) -> torch.Tensor:
        return torch.from_numpy(image.copy())

    def prepare(self, count: int, height: int, width: int, dtype: torch.dtype) -> None:
        self.log.append(f"prepare {count}x{height}x{width} {dtype}")

    def empty(self, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((height, width, 3), 99, dtype=dtype)

    def cut(self, source: torch.Tensor, tile: Tile) -> torch.Tensor:
        return cut(source, tile)

    def forward(self, windows: Sequence[torch.Tensor]) -> torch.Tensor:
        assert self.current
        self._forwards += 1
        if self._forwards == self._failing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.log.append("forward")
        large = torch.stack(list(windows)).repeat_interleave(SCALE, 1)
        return large.repeat_interleave(SCALE, 2)

    def download(self, rows: torch.Tensor, target: Image) -> Wait:
        self.in_flight += 1
        self.log.append("download")

        def wait() -> None:
            assert not self.current
            self.in_flight -= 1
            self.log.append("wait")
            np.copyto(target, rows.numpy())

        return wait

    def tune(self, numbers: Sequence[float]) -> None:
        assert self.current

    def settle(self) -> None:
        self.settled += 1
        self.in_flight = 0

    def relieve(self) -> None:
        self.log.append("relieve")

    def close(self) -> None:
        self.closed += 1


def enlarge(picture: Image) -> Image:
    return picture.repeat(SCALE, 0).repeat(SCALE, 1)


def run(lane: Lane, picture: Image, tiles: Sequence[Tile], batch: int = 1, **kw: Any) -> Image:
    out = np.zeros((picture.shape[0] * SCALE, picture.shape[1] * SCALE, 3), picture.dtype)
    run_tiles(lane, picture, tiles, out, scale=SCALE, advance=kw.get("advance"), batch=batch)
    return out


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(("height", "width"), [(200, 130), (9, 7), (61, 300)])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_tiles_come_together(height: int, width: int, batch: int, dtype: str) -> None:
    picture = draw(height, width).astype(dtype)
    tiles, done = plan(height, width, 60, 10, 4, 16), list[int]()
    out = run(Late(), picture, tiles, batch, advance=done.append)
    np.testing.assert_array_equal(out, enlarge(picture))
    assert sum(done) == len(tiles)


def test_the_host_waits_only_with_newer_rows_queued() -> None:
    tiles, lane, most = plan(600, 100, 60, 10), Late(), []
    rows = list(chunks(tiles, 1))
    run(lane, draw(600, 100), tiles, advance=lambda count: most.append(lane.in_flight))
    assert lane.log[0].startswith("prepare 1x")
    waits = [i for i, what in enumerate(lane.log) if what == "wait"]
    assert lane.log[: waits[0]].count("download") == IN_FLIGHT + 1
    assert most == [IN_FLIGHT] * (len(rows) - IN_FLIGHT) + list(reversed(range(IN_FLIGHT)))
    assert lane.settled == 0


def test_chunks_are_whole_rows_that_fill_a_batch() -> None:
    tiles = plan(200, 130, 60, 10)
    across = sum(tile.y == 0 for tile in tiles)
    assert [len(chunk) for chunk in chunks(tiles, 1)] == [across] * (len(tiles) // across)
    large = list(chunks(tiles, across + 1))
    assert all(len(chunk) % across == 0 for chunk in large)
    assert [tile for chunk in large for tile in chunk] == list(tiles)


def test_cancelling_leaves_the_lane_idle_and_the_next_run_right() -> None:
    picture, lane = draw(300, 100), Late()
    tiles, calls = plan(300, 100, 60, 10), list[int]()

    def cancel(count: int) -> None:
        calls.append(count)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(lane, picture, tiles, advance=cancel)
    assert (lane.settled, lane.in_flight, lane.current) == (1, 0, False)
    np.testing.assert_array_equal(run(lane, picture, tiles), enlarge(picture))


def test_a_batch() -> None:
    batch = np.stack([draw(20, 30, seed=i) for i in range(3)])
    out, lane = np.zeros((3, 40, 60, 3), np.uint8), Late()
    run_batch(lane, batch, out)
    for picture, result in zip(batch, out, strict=True):
        np.testing.assert_array_equal(result, enlarge(picture))
    with pytest.raises(torch.OutOfMemoryError):
        run_batch(Late(failing=1), batch, out)


def test_more_threads_than_lanes_wait_and_none_shares() -> None:
    pool, picture = LanePool([Late(), Late()], "torch"), draw(90, 100)
    tiles, out, users = plan(90, 100, 60, 10), dict[int, Image](), list[int]()

    def work(index: int) -> None:
        with pool.take() as lane:
            assert not lane.current
            users.append(id(lane))
            out[index] = run(lane, picture, tiles)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(out) == 9
    assert all((one == enlarge(picture)).all() for one in out.values())
    with pool.take() as first, pool.take() as second:
        assert first is not second
    with pool.take() as again:
        assert again is first  # given back last, since the inner one came back before it


@pytest.mark.processes
def test_closing_waits_for_a_run_and_turns_away_who_waits() -> None:
    lane = Late()
    pool, inside, told = LanePool([lane], "torch"), threading.Event(), list[str]()
    go_on = threading.Event()

    def work() -> None:
        with pool.take():
            inside.set()
            go_on.wait(LIMIT)
            assert not lane.closed
        told.append("run")

    def late() -> None:
        with pytest.raises(BackendError, match="closed"), pool.take():
            pass
        told.append("late")

    threads = [threading.Thread(target=work)]
    threads[0].start()
    assert inside.wait(LIMIT)
    threads += [threading.Thread(target=late), threading.Thread(target=pool.close)]
    for thread in threads[1:]:
        thread.start()
    try:
        joined(threads[1])
        assert told == ["late"]
        assert threads[2].is_alive()
    finally:
        go_on.set()
    joined(*threads)
    assert (told, lane.closed) == (["late", "run"], 1)
    pool.close()


@pytest.mark.processes
def test_closing_from_within_a_run_does_not_wait_for_itself() -> None:
    lane = Late()
    pool = LanePool([lane], "torch")
    with pool.take():
        pool.close()
        during = lane.closed
    assert (during, lane.closed) == (0, 1)
    with pytest.raises(BackendError), pool.take():
        pass


class Recorder:
    def __init__(self, limit: int = 3) -> None:
        self.made: list[Any] = []
        self.pools, self.settled, self.told = 0, 0, list[str]()
        self.error: Exception | None = None
        self.kept: Recordings[Any, str] = Recordings(
            self.record, make_pool=self.pool, settle=self.settle, tell=self.told.append, limit=limit
        )

    def record(self, key: Any, pool: Any) -> str:
        if self.error:
            raise self.error
        self.made.append(key)
        return f"{key} in {pool}"

    def pool(self) -> int:
        self.pools += 1
        return self.pools

    def settle(self) -> None:
        self.settled += 1

    def use(self, *keys: Any) -> None:
        for key in keys:
            self.kept.prepare(key)


def test_a_shape_is_recorded_at_its_second_use() -> None:
    recorder = Recorder()
    recorder.use("a", "b")
    assert recorder.kept.get("a") is None
    recorder.use("a", "a", "a")
    assert recorder.kept.get("a") == "a in 1"
    assert recorder.kept.get("b") is None
    assert recorder.made == ["a"]


def test_the_least_recently_used_goes_after_a_wait() -> None:
    recorder = Recorder()
    recorder.use(*"aabbcc", "a", "d")
    assert recorder.settled == 0
    recorder.use("d")
    assert [key for key in "abcd" if recorder.kept.get(key)] == ["a", "c", "d"]
    assert recorder.settled == 1
    recorder.use("b")  # starts from nothing: five shapes in turn would else record for ever
    assert recorder.kept.get("b") is None


def test_many_shapes_begin_a_new_pool_now_and_then() -> None:
    recorder = Recorder()
    for shape in range(40):
        recorder.use(shape, shape)
    assert len(recorder.made) == 40
    assert recorder.pools == -(-40 // 9)
    assert sum(recorder.kept.get(shape) is not None for shape in range(40)) <= 3
    recorder.use(*range(100, 100 + REMEMBERED + 1), 100)
    assert recorder.kept.get(100) is None  # forgotten: memory of uses has an end too


def test_a_failed_recording_ends_recording_and_tells_once() -> None:
    recorder = Recorder()
    recorder.use("a", "a")
    recorder.error = RuntimeError("operation not permitted when stream is capturing")
    recorder.use("b", "b", "c", "c", "a", "a")
    assert recorder.kept.get("a") is None
    assert recorder.told == ["RuntimeError: operation not permitted when stream is capturing"]


def test_dropping_forgets_and_goes_on_with_a_new_pool() -> None:
    recorder = Recorder()
    recorder.use("a", "a")
    recorder.kept.drop()
    assert recorder.kept.get("a") is None
    recorder.use("a", "a")
    assert recorder.kept.get("a") == "a in 2"


def test_page_locked_results_have_an_allowance() -> None:
    made: list[int] = []

    def make(size: int) -> Image | None:
        made.append(size)
        return np.empty(size, np.uint8)

    results = PinnedResults(1 << 12, make)
    first = results.allocate((20, 30, 3), np.dtype(np.uint8))
    row = results.allocate((10, 15, 3), np.dtype(np.float32))[3:5]
    assert (first.shape, row.shape) == ((20, 30, 3), (2, 15, 3))
    assert row.dtype == np.float32
    assert made == [1800, 1800]
    over = results.allocate((20, 30, 3), np.dtype(np.uint8))
    assert (over.shape, len(made)) == ((20, 30, 3), 2)
    del first
    gc.collect()
    assert results.allocate((20, 30, 3), np.dtype(np.uint8)).flags.writeable
    assert len(made) == 3
    nothing = PinnedResults(1 << 12, lambda size: None)
    assert nothing.allocate((2, 2), np.dtype(np.uint16)).dtype == np.uint16


@pytest.fixture
def backend(compact: Bundle) -> Iterator[TorchBackend]:
    opened = TorchBackend(compact, BackendOptions())
    yield opened
    opened.close()


def test_the_result_goes_where_it_is_wanted(backend: TorchBackend) -> None:
    picture, tiles = draw(100, 90), plan(100, 90, 64, backend.manifest.overlap)
    out = backend.allocate((200, 180, 3), np.dtype(np.uint8))
    assert backend.run(picture, tiles, out=out) is out
    np.testing.assert_array_equal(out, backend.run(picture, tiles))
    assert backend.workers() == 1


def test_memory_errors_relieve_the_lane_and_become_ours(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = Late(failing=3)
    monkeypatch.setattr(backend, "_lanes", LanePool([lane], "torch"))
    picture, tiles = draw(200, 90), plan(200, 90, 60, 10)
    with pytest.raises(OutOfMemoryError, match="CUDA out of memory"):
        backend.run(picture, tiles)
    assert lane.log[-1] == "relieve"
    np.testing.assert_array_equal(backend.run(picture, tiles), enlarge(picture))
    np.testing.assert_array_equal(backend.infer(picture[None])[0], enlarge(picture))


def test_a_lane_without_graphs_is_noted(backend: TorchBackend) -> None:
    backend._no_graphs("RuntimeError: no")
    backend._no_graphs("RuntimeError: the other lane's")
    assert backend.note == "without CUDA graphs (RuntimeError: no)"


class FakeStream:
    """Work on the CPU is done when it is called, so there is nothing to wait for."""

    def __init__(self, device: object = None) -> None:
        self.waits = 0

    def record_event(self) -> FakeStream:
        return self

    def wait_event(self, event: FakeStream) -> None:
        self.waits += 1

    def synchronize(self) -> None:
        pass


class FakeGraph:
    def replay(self) -> None:
        raise NotImplementedError


@pytest.fixture
def cuda_lane(backend: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> CudaLane:
    """The real lane over a CUDA of the CPU: shows slips of the pen, not races."""

    @contextlib.contextmanager
    def anything(*args: object, **kw: object) -> Iterator[None]:
        yield

    for name in ("device", "stream", "graph"):
        monkeypatch.setattr(f"torch.cuda.{name}", anything)
    for name in ("empty_cache", "graph_pool_handle"):
        monkeypatch.setattr(f"torch.cuda.{name}", lambda: None)
    monkeypatch.setattr("torch.cuda.Stream", FakeStream)
    monkeypatch.setattr("torch.cuda.CUDAGraph", FakeGraph)
    monkeypatch.setattr("torch.Tensor.is_pinned", lambda self: False)
    modules, lane = (
        backend._modules,
        CudaLane(torch.device("cpu"), backend._modules, backend._no_graphs),
    )

    def replay(self: FakeGraph) -> None:
        one = next(one for one in lane.graphs._kept.values() if one.graph is self)  # type: ignore[comparison-overlap]
        one.result.copy_(modules[one.given.dtype](one.given))

    monkeypatch.setattr(FakeGraph, "replay", replay)
    return lane


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_lane_of_cuda_computes_what_the_cpu_does(
    backend: TorchBackend, cuda_lane: CudaLane, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    picture = draw(150, 90).astype(dtype)
    if dtype == "float32":
        picture /= 255
    tiles = plan(150, 90, 64, backend.manifest.overlap)
    whole, batch = backend.run(picture, tiles), backend.infer(picture[None])
    monkeypatch.setattr(backend, "_lanes", LanePool([cuda_lane], "torch"))
    key = (1, tiles[0].height, tiles[0].width, torch.from_numpy(picture).dtype)
    for use in range(3):
        np.testing.assert_array_equal(backend.run(picture, tiles), whole)
        assert (cuda_lane.graphs.get(key) is not None) == (use >= 1)
        np.testing.assert_array_equal(backend.infer(picture[None]), batch)
    cuda_lane.relieve()
    assert cuda_lane.graphs.get(key) is None
    np.testing.assert_array_equal(backend.run(picture, tiles), whole)
    assert not backend.note


def test_a_lane_whose_capture_fails_goes_on_without(
    backend: TorchBackend, cuda_lane: CudaLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kw: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("torch.cuda.graph", refuse)
    picture, tiles = draw(60, 60), plan(60, 60, 64, 10)
    expected = backend.run(picture, tiles)
    monkeypatch.setattr(backend, "_lanes", LanePool([cuda_lane], "torch"))
    for _ in range(3):
        np.testing.assert_array_equal(backend.run(picture, tiles), expected)
    assert "without CUDA graphs (OutOfMemoryError: CUDA out of memory)" in backend.note
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(picture, tiles)


def test_closed(compact: Bundle) -> None:
    upscaler = Upscaler(compact, backend="torch", device="cpu")
    upscaler.close()
    upscaler.close()
    with pytest.raises(BackendError, match="closed"):
        upscaler(draw(8, 8))
