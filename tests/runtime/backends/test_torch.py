"""The order of things in the torch backend's GPU path, on the CPU with a lane of its own making."""

from __future__ import annotations

import contextlib
import gc
import itertools
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from resharp import Upscaler, models
from resharp.drawing import draw
from resharp.engines import Bundle, Tuning
from resharp.errors import BackendError, OutOfMemoryError
from resharp.gpu.cuda import CAPTURING
from resharp.runtime.backends import BackendOptions, base
from resharp.runtime.backends.lane_pool import LanePool
from resharp.runtime.backends.torch.backend import TorchBackend, _tf32, _translated
from resharp.runtime.backends.torch.cuda_graph_cache import (
    PAUSE,
    REMEMBERED,
    CudaGraphCache,
    PinnedResults,
)
from resharp.runtime.backends.torch.cuda_lane import TorchCudaLane, cut, release_cache
from resharp.runtime.backends.torch.lane import (
    IN_FLIGHT,
    TorchLane,
    Wait,
    chunks,
    run_batch,
    run_tiles,
)
from resharp.runtime.tiling.plan import Tile, plan
from resharp.types import Image
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

    def set_scalars(self, numbers: Sequence[float]) -> None:
        assert self.current

    def synchronize(self) -> None:
        self.settled += 1
        self.in_flight = 0

    def release_memory(self) -> None:
        self.log.append("release_memory")

    def close(self) -> None:
        self.closed += 1


def enlarge(picture: Image) -> Image:
    return picture.repeat(SCALE, 0).repeat(SCALE, 1)


def run(lane: TorchLane, picture: Image, tiles: Sequence[Tile], batch: int = 1, **kw: Any) -> Image:
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
        self.pools, self.settled, self.told, self.tries = 0, 0, list[str](), 0
        self.error: Exception | None = None
        self.kept: CudaGraphCache[Any, str] = CudaGraphCache(
            self.record,
            make_pool=self.pool,
            synchronize=self.synchronize,
            log=self.told.append,
            passing=lambda error: isinstance(error, MemoryError),
            limit=limit,
        )

    def record(self, key: Any, pool: Any) -> str:
        self.tries += 1
        if self.error:
            raise self.error
        self.made.append(key)
        return f"{key} in {pool}"

    def pool(self) -> int:
        self.pools += 1
        return self.pools

    def synchronize(self) -> None:
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
    recorder.use("b")  # starts from nothing: otherwise five shapes in turn would record endlessly
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


def test_two_failures_in_a_row_end_recording_and_are_told_once() -> None:
    recorder = Recorder()
    recorder.use("a", "a")
    recorder.error = RuntimeError("operation not permitted when stream is capturing")
    recorder.use("b", "b")
    recorder.error = None
    recorder.use("b", "b")
    assert recorder.kept.get("b") == "b in 2"  # one accident is no end, but that of its pool
    recorder.error = RuntimeError("operation not permitted when stream is capturing")
    recorder.use("c", "c", "d", "d")
    assert recorder.told == ["RuntimeError: operation not permitted when stream is capturing"]
    recorder.error = None
    recorder.use("c", "c", "c", "a")
    assert recorder.kept.get("c") is None
    assert recorder.kept.get("a") is not None  # what was recorded is as good as before


def test_where_memory_ran_out_recording_is_tried_again_ever_more_seldom() -> None:
    recorder = Recorder()
    recorder.error = MemoryError("out of memory")
    recorder.use(*["a"] * 1000)
    assert recorder.tries <= 10
    assert recorder.told == ["MemoryError: out of memory; will retry later"]
    recorder.error = None
    recorder.use(*["a"] * 2000)
    assert recorder.kept.get("a") is not None
    assert recorder.told[1:] == [""]  # they work again
    recorder.error = MemoryError("out of memory")
    recorder.use("b", "b")
    recorder.error = None
    recorder.use(*["b"] * (PAUSE + 2))  # it had worked in between: the first pause again
    assert recorder.kept.get("b") is not None


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
    assert lane.log[-1] == "release_memory"
    np.testing.assert_array_equal(backend.run(picture, tiles), enlarge(picture))
    np.testing.assert_array_equal(backend.infer(picture[None])[0], enlarge(picture))


def test_a_lane_without_graphs_is_noted(backend: TorchBackend) -> None:
    backend._add_note("fp32")
    backend._no_graphs(0, "RuntimeError: no")
    backend._no_graphs(1, "RuntimeError: no")
    assert backend.note == "fp32; without CUDA graphs (RuntimeError: no)"
    backend._no_graphs(1, "OutOfMemoryError: full; will retry later")
    assert backend.note.endswith("(RuntimeError: no and OutOfMemoryError: full; will retry later)")
    backend._no_graphs(1, "")
    assert backend.note == "fp32; without CUDA graphs (RuntimeError: no)"
    backend._no_graphs(0, "")
    assert backend.note == "fp32"


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
def cuda_lane(backend: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> TorchCudaLane:
    """The real lane over a CUDA on the CPU: shows mistakes, but no races."""

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
        TorchCudaLane(torch.device("cpu"), backend._modules, partial(backend._no_graphs, 0)),
    )

    def replay(self: FakeGraph) -> None:
        one = next(one for one in lane.graphs._kept.values() if one.graph is self)  # type: ignore[comparison-overlap]
        one.result.copy_(modules[one.given.dtype](one.given))

    monkeypatch.setattr(FakeGraph, "replay", replay)
    return lane


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_lane_of_cuda_computes_what_the_cpu_does(
    backend: TorchBackend, cuda_lane: TorchCudaLane, monkeypatch: pytest.MonkeyPatch, dtype: str
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
    cuda_lane.release_memory()
    assert cuda_lane.graphs.get(key) is None
    np.testing.assert_array_equal(backend.run(picture, tiles), whole)
    assert not backend.note


def test_a_lane_without_room_for_a_graph_goes_on_without_and_tries_again(
    backend: TorchBackend, cuda_lane: TorchCudaLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kw: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    picture, tiles = draw(60, 60), plan(60, 60, 64, 10)
    expected = backend.run(picture, tiles)
    monkeypatch.setattr(backend, "_lanes", LanePool([cuda_lane], "torch"))

    def run(times: int) -> int:
        for _ in range(times):
            np.testing.assert_array_equal(backend.run(picture, tiles), expected)
        return len(cuda_lane.graphs._kept)

    with monkeypatch.context() as full:
        full.setattr("torch.cuda.graph", refuse)
        assert run(3) == 0
    assert "without CUDA graphs (OutOfMemoryError: CUDA out of memory" in backend.note
    assert run(PAUSE + 2) == 1
    assert not backend.note
    backend.close()
    assert not cuda_lane._modules  # the pool outlives this, and the weights must not
    with pytest.raises(BackendError, match="closed"):
        backend.run(picture, tiles)


class Allocator:
    """PyTorch's up to 2.11: a capture that CUDA refuses to end stays under way, in the allocators
    of the device and of page-locked memory, and for the generator of random numbers."""

    def __init__(self) -> None:
        self.underway, self.locked, self.random = list[object](), set[object](), True
        self.holders, self.spoilt = Counter[object](), 0

    @contextlib.contextmanager
    def graph(self, graph: object, *, pool: object, **options: object) -> Iterator[None]:
        assert CAPTURING.locked(), "others may wait for the whole device meanwhile"
        self.empty_cache()
        if pool in self.locked:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.underway.append(pool)
        self.locked.add(pool)
        self.holders[pool] += 1
        self.random = False
        try:
            yield
        finally:
            if self.spoilt:
                self.spoilt -= 1
                raise RuntimeError("CUDA error: failed due to a previous error in capture")
            self.end(0, pool)
            self.locked.remove(pool)
            self.random = True

    def empty_cache(self) -> None:
        assert CAPTURING.locked(), "another thread's capture may be under way"
        if self.underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def end(self, device: int, pool: object) -> None:
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def release(self, device: int, pool: object) -> None:
        self.holders[pool] -= 1


@pytest.fixture
def allocator(cuda_lane: TorchCudaLane, monkeypatch: pytest.MonkeyPatch) -> Allocator:
    made = Allocator()
    pools = itertools.count(1)
    monkeypatch.setattr("torch.cuda.graph", made.graph)
    monkeypatch.setattr("torch.cuda.empty_cache", made.empty_cache)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", made.end, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", made.release, raising=False)
    monkeypatch.setattr(cuda_lane.graphs, "_make_pool", lambda: (0, next(pools)))
    monkeypatch.setattr("torch.cuda.graph_pool_handle", lambda: (0, next(pools)))
    return made


def test_a_spoilt_capture_leaves_the_allocator_sound(
    backend: TorchBackend,
    cuda_lane: TorchCudaLane,
    allocator: Allocator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture, tiles = draw(60, 60), plan(60, 60, 64, 10)
    expected = backend.run(picture, tiles)
    monkeypatch.setattr(backend, "_lanes", LanePool([cuda_lane], "torch"))
    allocator.spoilt = 1
    for _ in range(2):
        np.testing.assert_array_equal(backend.run(picture, tiles), expected)
    assert allocator.underway == []
    assert allocator.random
    assert allocator.holders[(0, 1)] == 0
    for _ in range(3):
        np.testing.assert_array_equal(backend.run(picture, tiles), expected)
    assert len(cuda_lane.graphs._kept) == 1  # the next capture works
    assert not backend.note
    cuda_lane.release_memory()  # as after memory ran out


def test_a_capture_of_somebody_else_that_never_ends_costs_memory_and_no_picture(
    allocator: Allocator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator.underway.append("another library's")
    release_cache()
    assert "PyTorch keeps its unused memory" in caplog.text

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("torch.cuda.empty_cache", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        release_cache()


@pytest.mark.parametrize(
    "said",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_memory_that_runs_out_within_a_library_is_memory(said: str) -> None:
    relieved: list[bool] = []
    with (
        pytest.raises(OutOfMemoryError, match=re.escape(said)),
        _translated(lambda: relieved.append(True)),
    ):
        raise RuntimeError(said)
    assert relieved
    with pytest.raises(RuntimeError, match="size mismatch"), _translated():
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("said", ["FIND", "GET"])
def test_where_a_full_card_leaves_cudnn_no_plan_that_is_memory(
    monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    text = f"{said} was unable to find an engine to execute this computation"
    device = torch.device("cuda", 1)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda on: (100, 1000) if on == device else None)
    with pytest.raises(OutOfMemoryError, match=text), _translated(device=device):
        raise RuntimeError(text)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda on: (900, 1000))
    with pytest.raises(RuntimeError, match=text), _translated(device=device):
        raise RuntimeError(text)  # cuDNN has nothing for this GPU


@pytest.mark.parametrize(
    ("said", "falls_back"),
    [
        ("GET was unable to find an engine to execute this computation", True),
        ("CUDNN_STATUS_ALLOC_FAILED", False),
    ],
)
def test_a_gpu_without_fp16_falls_to_fp32_and_a_full_one_does_not(
    backend: TorchBackend,
    compact: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    falls_back: bool,
) -> None:
    checkpoint = models.read_checkpoint(compact.path(compact.manifest.weights))
    network, calls = models.build(checkpoint), list[int]()
    for_images = models.for_images

    def second_fails(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            return for_images(*args)

        def fail(*given: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(said)

        return fail

    monkeypatch.setattr(models, "for_images", second_fails)
    if falls_back:
        assert backend._halved(network) is network
        assert backend.note.startswith("fp32, since fp16 fails")
    else:
        with pytest.raises(RuntimeError, match=said):
            backend._halved(network)


def test_opening_waits_for_its_own_stream_once_the_lanes_are_there(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    class Own:
        def synchronize(self) -> None:
            done.append("stream")

    def everything(device: object = None) -> None:
        done.append("the whole device")

    def lane(*args: object) -> FakeStream:
        done.append("lane")
        return FakeStream()

    monkeypatch.setattr("torch.cuda.synchronize", everything)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: Own())
    monkeypatch.setattr("resharp.runtime.backends.torch.backend.TorchCudaLane", lane)
    backend._make_lanes()
    assert done == ["lane", "lane", "stream"]


@pytest.mark.parametrize(
    ("foreign", "graphs", "recorded"),
    [(False, None, True), (False, False, False), (True, None, False), (True, True, True)],
)
def test_a_foreign_network_is_not_recorded_unless_that_is_asked_for(
    backend: TorchBackend, foreign: bool, graphs: bool | None, recorded: bool
) -> None:
    backend._foreign = foreign
    tuning = Tuning(backend="torch", device="here", graphs=graphs)
    backend.options = replace(backend.options, tuning=tuning)
    assert backend._graphs() is recorded
    assert ("without CUDA graphs" in backend.note) is (foreign and graphs is None)


@pytest.mark.parametrize(
    ("capability", "set_to", "rounds"),
    [((7, 5), "tf32", False), ((9, 0), "tf32", True), ((9, 0), "ieee", False)],
)
def test_whether_fp32_is_tf32(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], set_to: str, rounds: bool
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda index: capability)
    conv = SimpleNamespace(fp32_precision=set_to)
    monkeypatch.setattr(torch.backends.cudnn, "conv", conv, raising=False)
    assert _tf32(0) is rounds


def test_what_graphs_hold_is_not_free(
    backend: TorchBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def segment(device: int, pool: tuple[int, int], total: int, allocated: int) -> dict[str, Any]:
        sizes = {"total_size": total, "allocated_size": allocated}
        return {"device": device, "segment_pool_id": pool, **sizes}

    segments = [
        segment(0, (0, 0), 100, 30),
        segment(0, (0, 7), 1000, 10),  # a graph's
        segment(1, (0, 7), 5000, 0),
    ]
    asked: list[int] = []

    def snapshot() -> list[dict[str, Any]]:
        asked.append(1)
        return segments

    lane = SimpleNamespace(graphs=SimpleNamespace(changes=0))
    monkeypatch.setattr(backend, "options", replace(backend.options, device="cuda"))
    monkeypatch.setattr(backend, "_lanes", SimpleNamespace(lanes=[lane], close=lambda: None))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (10_000, 20_000))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda device: 1100)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda device: 40)
    monkeypatch.setattr("torch.cuda.memory_snapshot", snapshot)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    assert backend.free_memory() == 11_060
    assert asked == []  # it takes long, and nothing was recorded
    lane.graphs.changes = 1
    for _ in range(3):
        assert backend.free_memory() == 10_070
    assert asked == [1]


def test_a_tile_that_hangs_over_is_cut_without_a_copy_from_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture, tile = draw(20, 30), Tile(4, 10, 40, 50, 0, 0, 0, 0)
    source, wanted = torch.from_numpy(picture), base.cut(picture, tile)

    def refuse(array: object) -> None:
        raise AssertionError("a copy that the host waits for")

    monkeypatch.setattr("torch.from_numpy", refuse)
    np.testing.assert_array_equal(cut(source, tile).numpy(), wanted)


def test_what_a_backend_learns_in_its_runs_is_explained(compact: Bundle) -> None:
    with Upscaler(compact, backend="torch", device="cpu") as upscaler:
        assert upscaler.explain() == "torch on cpu: works"
        assert isinstance(upscaler._backend, TorchBackend)
        upscaler._backend._no_graphs(0, "RuntimeError: no")
        assert upscaler.explain() == "torch on cpu: works (without CUDA graphs (RuntimeError: no))"


def test_closed(compact: Bundle) -> None:
    upscaler = Upscaler(compact, backend="torch", device="cpu")
    upscaler.close()
    upscaler.close()
    with pytest.raises(BackendError, match="closed"):
        upscaler(draw(8, 8))
