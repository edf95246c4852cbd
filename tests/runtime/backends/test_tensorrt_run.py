"""The tensorrt backend's runs, on a fake GPU that does nothing before it is waited for."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resharp import Upscaler
from resharp.engines import ExtraInput, Tuning
from resharp.errors import BackendError, OptionError, OutOfMemoryError
from resharp.runtime.backends import Backend
from resharp.runtime.backends.tensorrt import backend as backend_module
from resharp.runtime.backends.tensorrt import buffers, contexts, tile_run
from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
from resharp.runtime.backends.tensorrt.lane import AHEAD
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine
from resharp.runtime.tiling import bands
from resharp.runtime.tiling.bands import Tiling, choose_tiling
from resharp.runtime.tiling.plan import plan
from tests.fakes.tensorrt_kit import SCALE, Array, Kit, expected, machine, picture
from tests.waiting import LIMIT, Watched, joined, until

FIDELITY = (ExtraInput(name="fidelity", default=0.5),)


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    with machine(tmp_path, monkeypatch) as made:
        made.add()
        made.add(dtype="float32")
        yield made


@pytest.fixture
def rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    with machine(tmp_path, monkeypatch, rtx=True) as made:
        yield made


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kit, TensorrtBackend]]:
    folder = tmp_path_factory.mktemp("machine")
    with pytest.MonkeyPatch.context() as patch, machine(folder, patch) as made:
        made.add()
        made.add(dtype="float32")
        backend = made.open()
        with backend:
            yield made, backend


def release_memory(upscaler: Upscaler) -> None:
    """Drop what the lanes keep from the parity run."""
    backend = upscaler._backend
    assert isinstance(backend, TensorrtBackend)
    release_memory_of(backend)


def release_memory_of(backend: TensorrtBackend) -> None:
    with backend._executor.scope():
        backend._executor._release_idle()
        for lane in backend._executor._lanes:
            lane.staging.free()
            for slot in lane.slots:
                slot.buffer.free()


def tiles_of(image: Any, tile: int = 48) -> Any:
    return plan(image.shape[0], image.shape[1], tile, 4, 1, 16)


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    tile=st.integers(24, 48),
    batch=st.integers(1, 6),
    dtype=st.sampled_from(["uint8", "float32"]),
    pinned=st.booleans(),
)
def test_tiles_are_the_picture_untiled(
    opened: tuple[Kit, TensorrtBackend],
    height: int,
    width: int,
    tile: int,
    batch: int,
    dtype: str,
    pinned: bool,
) -> None:
    _, backend = opened
    image = picture(height, width, seed=height, dtype=dtype)
    tiles = tiles_of(image, tile)
    shape = (height * SCALE, width * SCALE, 3)
    out = (backend.allocate if pinned else np.empty)(shape, image.dtype)
    done: list[int] = []
    found = backend.run(image, tiles, done.append, batch, out)
    assert found is out
    assert sum(done) == len(tiles)
    np.testing.assert_array_equal(found, expected(image))


def test_bands_in_the_middle_of_a_picture_and_odd_arrays(kit: Kit) -> None:
    whole = picture(150, 100)
    view = whole[:, ::-1, ::-1]
    view.flags.writeable = False
    tiles = [t for t in tiles_of(view) if 0 < t.core[0] < 100]
    start, end = min(t.core[0] for t in tiles), max(t.core[2] for t in tiles)
    with kit.open() as backend:
        found = backend.run(view, tiles, batch=3)
    np.testing.assert_array_equal(found, expected(view)[start * SCALE : end * SCALE])


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("size", [(16, 16), (48, 31), (5, 40), (1, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_batches(
    opened: tuple[Kit, TensorrtBackend], count: int, size: tuple[int, int], dtype: str
) -> None:
    batch = np.stack([picture(*size, seed=i, dtype=dtype) for i in range(count)])
    found = opened[1].infer(batch)
    np.testing.assert_array_equal(found, np.stack([expected(one) for one in batch]))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_further_inputs_and_one_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    batch = np.stack([picture(48, 48, seed=i, dtype=dtype) for i in range(5)])
    with machine(tmp_path, monkeypatch) as kit:
        manifest = replace(kit.bundle.manifest, extra=FIDELITY, fixed_size=48, overlap=0)
        kit.bundle = replace(kit.bundle, manifest=manifest)
        kit.add(profile=(48, 48, 4))
        kit.add(dtype="float32", profile=(48, 48, 4))
        with kit.open() as backend:
            check_numbers(backend, batch)


def check_numbers(backend: Backend, batch: Array) -> None:
    whole = np.stack([expected(one) for one in batch])
    for _ in range(4):  # graphs are captured on the way, and hold addresses, not numbers
        for extra, number in (({"fidelity": 0.25}, 0.25), (None, 0.5), ({"fidelity": 1.0}, 1.0)):
            wanted = (whole * np.float32(number)).astype(batch.dtype)
            np.testing.assert_array_equal(backend.infer(batch, extra), wanted)
    with pytest.raises(OptionError, match=r"`fidelity` must be between 0 and 1, got 1.5"):
        backend.infer(batch, {"fidelity": 1.5})
    with pytest.raises(OptionError, match="takes images of 48x48 pixels, got 40x48"):
        backend.infer(batch[:, :, :40])


def test_an_engine_without_the_models_further_input_is_refused(kit: Kit) -> None:
    kit.bundle = replace(kit.bundle, manifest=replace(kit.bundle.manifest, extra=FIDELITY))
    text = "its tensors are image, restored, expected one input and fidelity and one output"
    with pytest.raises(BackendError, match=text):
        kit.open()


def test_large_results_come_in_pieces(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile_run, "PIECE", 1000)
    image = picture(70, 90)
    with kit.open() as backend:
        out = np.empty((140, 180, 3), np.uint8)
        np.testing.assert_array_equal(backend.run(image, tiles_of(image), None, 2, out), out)
        np.testing.assert_array_equal(out, expected(image))


def test_several_threads_at_once(kit: Kit) -> None:
    pictures = [
        picture(40 + 13 * i, 90 - 7 * i, seed=i, dtype="float32" if i % 3 == 0 else "uint8")
        for i in range(9)
    ]
    wrong: list[int] = []

    def work(backend: TensorrtBackend, index: int) -> None:
        image = pictures[index]
        for _ in range(3):
            found = backend.run(image, tiles_of(image), batch=1 + index % 4)
            if not np.array_equal(found, expected(image)):
                wrong.append(index)

    with kit.open() as backend:
        threads = [threading.Thread(target=work, args=(backend, i)) for i in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_advance_comes_from_this_thread_row_by_row(kit: Kit) -> None:
    image, calls = picture(200, 100), []
    tiles = tiles_of(image)
    columns = len({tile.x for tile in tiles})
    with kit.open() as backend:
        backend.run(image, tiles, lambda n: calls.append((n, threading.get_ident())))
    assert calls == [(columns, threading.get_ident())] * (len(tiles) // columns)
    assert len(calls) > 3


def test_a_chunk_is_not_waited_for_with_those_behind_it(kit: Kit) -> None:
    image, waiting = picture(400, 40), []

    def advance(count: int) -> None:
        waiting.append(any(stream.queue for stream in kit.provider.streams.values()))

    with kit.open() as backend:
        backend.run(image, tiles_of(image), advance)
    assert all(waiting[:-2])
    assert len(waiting) > 6


@pytest.mark.processes
def test_two_runs_at_once(kit: Kit) -> None:
    image = picture(300, 200)  # many tiles: no run takes both lanes
    with kit.open() as backend:

        def advance(count: int) -> None:
            thread = threading.Thread(target=backend.run, args=(image, tiles_of(image)))
            thread.start()
            joined(thread)

        backend.run(image, tiles_of(image), advance)


def test_closing_in_the_midst_of_a_run_ends_with_it(kit: Kit) -> None:
    image = picture(200, 100)
    backend = kit.open()
    found = backend.run(image, tiles_of(image), lambda count: backend.close())
    np.testing.assert_array_equal(found, expected(image))
    with pytest.raises(BackendError, match="closed"):
        backend.run(image, tiles_of(image))
    del found  # the kit sees that nothing is left


def test_what_nobody_closes_is_closed_when_it_goes(kit: Kit) -> None:
    backend = kit.open()
    image = picture(60, 60)
    np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))
    assert kit.provider.live["stream"] > 0
    del backend
    gc.collect()
    assert kit.provider.leaks() == {}
    assert kit.provider.closed == kit.provider.opened


def test_rows_are_sent_as_tiles_need_them(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    image, sent = picture(400, 40), []
    upload = kit.provider.upload

    def note(address: int, array: Any, stream: Any) -> None:
        sent.append(array.nbytes)
        upload(address, array, stream)

    with kit.open() as backend:
        monkeypatch.setattr(kit.provider, "upload", note)
        done: list[int] = []
        backend.run(image, tiles_of(image), lambda count: done.append(len(sent)))
    assert sum(sent) == image.nbytes
    assert done[0] == 1 + AHEAD  # the first rows are back before most were sent
    assert len(sent) == len(done)


def test_without_page_locked_memory_it_is_slower_and_right(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    image = picture(150, 130)
    backend = kit.open()
    with backend:
        kit.provider.pins = False
        release_memory_of(backend)
        np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))
    assert "without page-locked memory" in caplog.text


@pytest.mark.parametrize("captures", [True, False])
def test_memory_that_moves_between_runs_and_in_the_midst_of_one(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, captures: bool
) -> None:
    kit.provider.captures = captures
    monkeypatch.setattr(buffers, "STEP", 256)
    kit.fake.greedy = True
    image = picture(48, 150)
    with kit.open() as backend:
        for batch in (2, 3):  # of ten tiles: the last group is whole, or one tile that needs more
            for dtype in ("uint8", "float32", "uint8"):
                one = image if dtype == "uint8" else image.astype(np.float32) / np.float32(255)
                found = backend.run(one, tiles_of(one, 40), batch=batch)
                np.testing.assert_array_equal(found, expected(one))


def test_raising_in_advance_cancels_and_the_lanes_are_clean(kit: Kit) -> None:
    class StopNowError(Exception):
        pass

    def stop(count: int) -> None:
        raise StopNowError

    image = picture(200, 100)
    with kit.open() as backend:
        for _ in range(4):
            with pytest.raises(StopNowError):
                backend.run(image, tiles_of(image), stop)
            assert all(not stream.queue for stream in kit.provider.streams.values())
        np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))


def test_graphs_are_captured_for_shapes_that_come_again(kit: Kit) -> None:
    image = picture(150, 150)
    with kit.open() as backend:
        before = kit.provider.launches
        for _ in range(3):
            found = backend.run(image, tiles_of(image))
            np.testing.assert_array_equal(found, expected(image))
        assert kit.provider.launches > before
        assert kit.provider.live["graph"] >= 1
        for side in range(24, 48, 2):  # more shapes than graphs are kept for; batches grow buffers
            for batch in (1, 4):
                found = backend.run(image, tiles_of(image, side), batch=batch)
                np.testing.assert_array_equal(found, expected(image))
        assert kit.provider.live["graph"] <= 2 * contexts.GRAPHS


def test_without_capture_it_goes_on_without(kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    kit.provider.captures = False
    image = picture(150, 150)
    with caplog.at_level("DEBUG"), kit.open() as backend:
        for _ in range(3):
            np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))
        assert kit.provider.live["graph"] == 0
    assert "continuing without CUDA graphs" in caplog.text


def test_one_spoilt_capture_is_not_the_end_of_graphs(kit: Kit) -> None:
    image = picture(48, 48)
    backend = kit.open()
    with backend:

        def run(times: int) -> int:
            for _ in range(times):
                found = backend.run(image, tiles_of(image))
                np.testing.assert_array_equal(found, expected(image))
            return kit.provider.launches

        kit.provider.accidents = 1
        assert run(3) == 0  # e.g. a device-wide wait in another thread
        assert run(3) == 2
        release_memory_of(backend)
        kit.provider.accidents = contexts.ACCIDENTS
        before = run(12)
        assert kit.provider.accidents == 0
        assert run(4) == before  # that many in a row are no accident


def test_no_room_for_a_graph_today_is_no_reason_tomorrow(kit: Kit) -> None:
    image = picture(48, 48)
    with kit.open() as backend:
        kit.provider.full = 3
        for _ in range(30):
            np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))
        assert kit.provider.full == 0
        assert kit.provider.launches > 0


def test_accidents_far_apart_do_not_add_up(rtx: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx_engine(rtx)

    def refuse(model: LoadedEngine) -> Any:
        raise BackendError("TensorRT could not create an execution context")

    with rtx.open() as backend:
        for side in (48, 40, 32):
            image = picture(side, side)
            for _ in range(2):
                backend.run(image, tiles_of(image))
            with monkeypatch.context() as once:
                once.setattr(LoadedEngine, "create_context", refuse)
                backend.run(image, tiles_of(image))
            for _ in range(6):
                found = backend.run(image, tiles_of(image))
                np.testing.assert_array_equal(found, expected(image))
            other, before = picture(24 + side // 8, 24), rtx.fake.replayed
            backend.run(other, tiles_of(other))  # in the roaming context, whose graph that ends
            backend.run(image, tiles_of(image))
            assert rtx.fake.replayed == before + 1


def test_nobody_waits_for_the_whole_device_during_a_capture(kit: Kit) -> None:
    image = picture(48, 48)
    with kit.open() as backend:
        for _ in range(6):
            backend.run(image, tiles_of(image))
    assert kit.provider.launches > 0
    assert kit.provider.unguarded == 0


def test_no_room_for_a_context_of_its_own_today_is_no_reason_tomorrow(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(48, 48)
    with kit.open() as backend:
        backend.run(image, tiles_of(image))
        with monkeypatch.context() as crowded:
            crowded.setattr(LoadedEngine, "create_context", refuse_for_memory)
            for _ in range(9):
                np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))
        assert kit.provider.launches == 0
        for _ in range(9):
            np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))
        assert kit.provider.launches > 0


def test_a_shape_of_which_tensorrt_does_not_say_the_memory_gets_the_largest(kit: Kit) -> None:
    image = picture(48, 48)
    backend = kit.open()
    with backend:
        release_memory_of(backend)
        kit.fake.untold = True
        np.testing.assert_array_equal(backend.run(image, tiles_of(image)), expected(image))
        most = backend._loaded("uint8").activation_bytes()
        held = [lane.activations.size for lane in backend._executor._lanes]
        assert max(held) >= most > 0


def test_contexts_of_one_engine_are_made_one_after_the_other(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, create, coming = picture(48, 48), LoadedEngine.create_context, set[int]()

    def told(self: LoadedEngine) -> Any:
        coming.add(threading.get_ident())
        return create(self)

    def in_the_midst() -> None:
        until(lambda: len(coming) == 2, "the other thread makes one too")
        time.sleep(0.05)  # it would be in here by now

    backend = kit.open()
    with backend:
        release_memory_of(backend)
        monkeypatch.setattr(LoadedEngine, "create_context", told)
        kit.fake.on_context = in_the_midst
        found: list[Array] = []
        threads = [
            threading.Thread(target=lambda: found.append(backend.run(image, tiles_of(image))))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        joined(*threads)
        assert len(found) == 2


def rtx_engine(kit: Kit) -> None:
    kit.add(targets=("sm89",), gpu="", capability="", driver="")


def test_rtx_runs_the_kernels_that_were_proven_from_the_first_picture_on(rtx: Kit) -> None:
    rtx_engine(rtx)
    with rtx.open() as backend:
        for side in (48, 30):
            image = picture(side, side)
            for _ in range(3):
                found = backend.run(image, tiles_of(image))
                np.testing.assert_array_equal(found, expected(image))


def test_rtx_replays_its_graphs_of_pictures_whose_last_batch_is_smaller(rtx: Kit) -> None:
    rtx_engine(rtx)
    image = picture(200, 100)  # of 15 tiles
    with rtx.open() as backend:
        tiles = tiles_of(image)
        assert len(tiles) % 4
        for _ in range(6):
            backend.run(image, tiles, batch=4)
        runs, before = -(-len(tiles) // 4), rtx.fake.replayed
        for _ in range(3):
            found = backend.run(image, tiles, batch=4)
            np.testing.assert_array_equal(found, expected(image))
        assert rtx.fake.replayed - before == 3 * runs


@pytest.mark.parametrize("roaming", [True, False])
def test_rtx_replays_no_graph_on_memory_that_moved(
    rtx: Kit, monkeypatch: pytest.MonkeyPatch, roaming: bool
) -> None:
    rtx_engine(rtx)
    rtx.fake.greedy = True  # one image takes more than two of half its size
    batch = np.stack([picture(48, 24), picture(48, 24, seed=1)])
    backend = rtx.open()
    with backend:
        release_memory_of(backend)
        backend.infer(batch)
        with monkeypatch.context() as crowded:
            if roaming:  # there is no room for a context of the shape's own
                crowded.setattr(LoadedEngine, "create_context", refuse_for_memory)
            for _ in range(6):
                backend.infer(batch)
        assert rtx.fake.replayed > 0
        for lane in backend._executor._lanes:
            with backend._executor.scope():
                before = lane.activations.address
                lane.prepare(backend._loaded("uint8"), (1, 48, 48))  # for a run that is cancelled
                assert lane.activations.address != before
        for _ in range(3):
            np.testing.assert_array_equal(backend.infer(batch)[0], expected(batch[0]))


def refuse_for_memory(model: LoadedEngine) -> Any:
    raise OutOfMemoryError("TensorRT could not create an execution context: out of memory")


def test_tuned_settings_are_used_as_far_as_the_engine_takes_them(kit: Kit) -> None:
    tuning = Tuning(
        backend="tensorrt", device="here", tile=40, batch=99, lanes=3, bytes_per_pixel=10.0
    )
    image = picture(150, 150)
    with kit.open(tuning=tuning) as backend:
        assert backend.workers() == 3
        assert backend.memory(40, 2) == 10 * 40 * 40 * 2
        tiling = choose_tiling(backend, None)
        assert tiling == Tiling(size=40, batch=backend.batch_limit() or 0)
        tiles = bands.plan_for(backend, 150, 150, tiling.size)
        result = backend.run(image, tiles, batch=tiling.batch)
        np.testing.assert_array_equal(result, expected(image))
    with kit.open(tuning=replace(tuning, tile=400)) as backend:
        assert choose_tiling(backend, None).size == backend.largest_tile() == 48


def test_tiles_outside_the_profile(kit: Kit) -> None:
    image = picture(100, 100)
    with kit.open() as backend:
        assert (backend.largest_tile(), backend.smallest_side(), backend.workers()) == (48, 16, 2)
        with pytest.raises(OptionError, match=r"16 to 48.*'export-engines tiny' with `tile`=54"):
            backend.run(image, plan(100, 100, 60, 4))
        for bad in (
            np.empty((200, 400, 3), np.uint8)[:, ::2],
            np.empty((198, 200, 3), np.uint8),
            np.empty((200, 200, 3), np.float32),
        ):
            with pytest.raises(OptionError, match=r"C-contiguous array of uint8 \(200, 200, 3\)"):
                backend.run(image, tiles_of(image), out=bad)


def test_a_tile_that_the_engine_does_not_take_is_brought_down(
    kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    image = picture(100, 100)
    with Upscaler(kit.bundle, backend="tensorrt", tile=60) as upscaler:
        np.testing.assert_array_equal(upscaler(image), expected(image))
    assert "of up to 48, not 60: run 'export-engines tiny' with `tile`=60" in caplog.text


def test_small_tiles_go_together(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    with kit.open() as backend:
        assert choose_tiling(backend, 24).batch == 4  # the profile's
        monkeypatch.setattr(backend_module, "FILLING", 2 * 24 * 24)
        assert choose_tiling(backend, 24).batch == 2
        assert choose_tiling(backend, 48).batch == 1
        assert choose_tiling(backend, None) == Tiling(size=48)


def test_out_of_memory_gives_up_the_batch_before_the_tile(
    kit: Kit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(90, 120)
    with Upscaler(kit.bundle, backend="tensorrt", tile=48) as upscaler:
        release_memory(upscaler)
        monkeypatch.setattr(buffers, "STEP", 256)
        kit.provider.limit = 300_000
        np.testing.assert_array_equal(upscaler(image), expected(image))
    assert "out of memory with 4 tiles per run: continuing with 1" in caplog.text
    assert "with tiles of" not in caplog.text


def test_through_the_upscaler(kit: Kit) -> None:
    image = picture(131, 77)
    with Upscaler(kit.bundle, backend="tensorrt") as upscaler:
        assert (upscaler.backend, upscaler.device) == ("tensorrt", "cuda")
        np.testing.assert_array_equal(upscaler(image), expected(image))
        small = [picture(9, 7, seed=i) for i in range(7)]
        for one, found in zip(small, upscaler.batch(small), strict=True):
            np.testing.assert_array_equal(found, expected(one))
        frames = [picture(60, 50, seed=i) for i in range(5)]
        for one, found in zip(frames, upscaler.stream(frames), strict=True):
            np.testing.assert_array_equal(found, expected(one))
        deep = upscaler(picture(30, 60).astype(np.uint16) * 257)
        assert deep.dtype == np.uint16


@pytest.mark.parametrize(("limit", "halved"), [(200_000, True), (260_000, False)])
def test_out_of_memory_halves_the_tile_and_gives_the_same_picture(
    kit: Kit,
    limit: int,
    halved: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = picture(90, 120)
    monkeypatch.setattr(backend_module, "FILLING", 1)
    with Upscaler(kit.bundle, backend="tensorrt", tile=48) as upscaler:
        release_memory(upscaler)
        monkeypatch.setattr(buffers, "STEP", 256)
        kit.provider.limit = limit
        np.testing.assert_array_equal(upscaler(image), expected(image))
    assert ("out of memory with tiles of 48" in caplog.text) == halved


def test_out_of_memory_makes_the_bands_small_again(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = picture(400, 60)
    monkeypatch.setattr(bands, "BAND_BYTES", 80_000)
    monkeypatch.setattr(buffers, "STEP", 256)
    with Upscaler(kit.bundle, backend="tensorrt", tile=24) as upscaler:
        release_memory(upscaler)
        kit.provider.limit = 230_000  # the rows of a large band alone take 288,000
        np.testing.assert_array_equal(upscaler(image), expected(image))


def test_out_of_memory_at_the_smallest_tile_says_so_with_a_batch_too(kit: Kit) -> None:
    with Upscaler(kit.bundle, backend="tensorrt", tile=24) as upscaler:
        release_memory(upscaler)
        kit.provider.limit = kit.provider.used
        with pytest.raises(OutOfMemoryError, match="is the smallest"):
            upscaler(picture(23, 23))


def test_no_memory_for_anything(kit: Kit) -> None:
    with Upscaler(kit.bundle, backend="tensorrt", tile=48) as upscaler:
        kit.provider.limit = kit.provider.used
        with pytest.raises(OutOfMemoryError, match="is the smallest"):
            upscaler(picture(300, 300))
        assert kit.provider.used == 0  # the lanes gave all back
        kit.provider.limit = 1 << 30
        np.testing.assert_array_equal(upscaler(picture(50, 50)), expected(picture(50, 50)))


def test_free_memory_counts_what_the_lanes_keep(kit: Kit) -> None:
    with kit.open() as backend:
        assert backend.free_memory() == kit.provider.limit
        image = picture(200, 200)
        backend.run(image, tiles_of(image))
        assert kit.provider.used > 0
        assert backend.free_memory() == kit.provider.limit
        assert backend.memory(48) > backend.memory(32) > 0


def test_a_refused_run_says_what_tensorrt_logged(kit: Kit) -> None:
    with kit.open() as backend:
        kit.fake.says = "Cuda Runtime (misaligned address)"
        with pytest.raises(BackendError, match=r"could not run it: Cuda Runtime .misaligned"):
            backend.infer(picture(16, 16)[None])
        kit.fake.says = ""
        backend.infer(picture(16, 16)[None])


def in_time(work: Callable[[], object]) -> None:
    """Run in a thread that must end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    joined(thread)
    if failed:
        raise failed[0]


def with_bad_float_engine(kit: Kit) -> None:
    for engine in kit.bundle.engine_store.engines()[0]:
        if engine.spec.dtype == "float32":
            kit.bundle.engine_store.remove(engine)
    kit.add(dtype="float32", spoil="nan")


@pytest.mark.processes
def test_restoring_in_a_callback_never_waits_for_itself(kit: Kit) -> None:
    image = picture(120, 60)
    errors: list[str] = []

    def deeper(level: int) -> Callable[[int], None]:
        def advance(count: int) -> None:
            if level < 3:
                try:
                    backend.run(image, tiles_of(image), deeper(level + 1))
                except BackendError as error:
                    errors.append(str(error))

        return advance

    with kit.open() as backend:
        in_time(lambda: backend.run(image, tiles_of(image), deeper(0)))
    assert errors
    assert all("all lanes are in use" in text for text in errors)


@pytest.mark.processes
def test_an_engine_rejected_within_a_callback(kit: Kit) -> None:
    """Its contexts go from all lanes, that of the callback's own run too."""
    with_bad_float_engine(kit)
    image, deep = picture(120, 60), picture(20, 20, dtype="float32")
    said: list[str | None] = []
    with kit.open() as backend:
        in_time(
            lambda: backend.run(
                image,
                tiles_of(image),
                lambda count: said.append(backend.unsupported_reason("float32")),
            )
        )
        with pytest.raises(BackendError, match="no float32 engine"):
            backend.infer(deep[None])
    assert said
    assert all("no float32 engine" in str(text) for text in said)


@pytest.mark.processes
def test_closing_in_a_callback_while_another_thread_opens_an_engine(kit: Kit) -> None:
    with_bad_float_engine(kit)
    image, backend = picture(120, 60), kit.open()
    changed = backend._executor._pool._changed = Watched()
    opening = threading.Thread(target=backend.unsupported_reason, args=("float32",), daemon=True)

    def close(count: int) -> None:
        if not opening.ident:
            opening.start()
            until(lambda: opening.name in changed.waiting, "it waits for this run's lane")
            backend.close()

    in_time(lambda: backend.run(image, tiles_of(image), close))
    joined(opening)


def test_a_closed_upscaler_restores_nothing(kit: Kit) -> None:
    upscaler = Upscaler(kit.bundle, backend="tensorrt")
    upscaler.close()
    for dtype in ("uint8", "float32"):
        with pytest.raises(BackendError, match="closed"):
            upscaler(picture(20, 20, dtype=dtype))


@pytest.mark.processes
def test_closing_waits_for_runs_and_refuses_new_ones(kit: Kit) -> None:
    backend, image = kit.open(), picture(200, 100)
    began, results = threading.Event(), []

    def slow(count: int) -> None:
        began.set()
        until(lambda: backend._executor._closed)  # closing now waits for this run

    def work() -> None:
        results.append(backend.run(image, tiles_of(image), slow))

    thread = threading.Thread(target=work)
    thread.start()
    assert began.wait(LIMIT)
    backend.close()
    joined(thread)
    backend.close()
    np.testing.assert_array_equal(results[0], expected(image))
    for call in (
        lambda: backend.infer(image[None]),
        lambda: backend.run(image, tiles_of(image)),
        backend.free_memory,
        lambda: backend.memory(32),
    ):
        with pytest.raises(BackendError, match="closed"):
            call()
    assert kit.provider.closed == 0  # a result is held
    results.clear()
    assert kit.provider.closed == 1
