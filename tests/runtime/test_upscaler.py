from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from resharp import Upscaler
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.errors import BackendError, ImageError, OptionError, OutOfMemoryError
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.onnx import OnnxBackend
from resharp.runtime.backends.torch.backend import TorchBackend

Array = NDArray[Any]


@pytest.fixture(scope="module")
def upscalers(tiny: dict[str, Bundle]) -> Iterator[dict[str, Upscaler]]:
    opened = {kind: Upscaler(bundle, backend="onnx") for kind, bundle in tiny.items()}
    yield opened
    for upscaler in opened.values():
        upscaler.close()


def levels(one: Array, two: Array) -> int:
    """Largest difference, in levels of 255."""
    assert one.shape == two.shape
    assert one.dtype == two.dtype
    white = 1.0 if one.dtype.kind == "f" else float(np.iinfo(one.dtype).max)
    gap = np.abs(one.astype(np.float64) - two.astype(np.float64)).max()
    return int(np.ceil(gap / white * 255 - 1e-3))


def as_dtype(picture: Array, dtype: str) -> Array:
    if dtype == "uint16":
        return picture.astype(np.uint16) * 257
    return picture if dtype == "uint8" else picture.astype(np.float32) / np.float32(255)


@pytest.mark.parametrize("kind", ["compact", "rrdb4", "rrdb2"])
@pytest.mark.parametrize("tile", [64, 80, 96, 150])
def test_tiles_leave_no_seam(upscalers: dict[str, Upscaler], kind: str, tile: int) -> None:
    bundle = upscalers[kind].manifest
    picture = draw(139, 201, seed=3)
    with Upscaler(_bundle_of(upscalers[kind]), backend="onnx", tile=10_000) as whole:
        expected = whole(picture)
    with Upscaler(_bundle_of(upscalers[kind]), backend="onnx", tile=tile) as tiled:
        found = tiled(picture)
    assert found.shape == (139 * bundle.scale, 201 * bundle.scale, 3)
    assert levels(found, expected) <= 1


def _bundle_of(upscaler: Upscaler) -> Bundle:
    backend = upscaler._backend
    assert isinstance(backend, OnnxBackend)
    return backend._bundle


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["compact", "rrdb2"])
def test_torch_and_onnx_agree(tiny: dict[str, Bundle], kind: str, dtype: str) -> None:
    picture = as_dtype(draw(77, 95, seed=5), dtype)
    with Upscaler(tiny[kind], backend="torch", tile=64) as one:
        assert (one.backend, one.device) == ("torch", "cpu")
        with Upscaler(tiny[kind], backend="onnx", tile=64) as two:
            assert levels(one(picture), two(picture)) <= 1


@pytest.mark.slow
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    kind=st.sampled_from(["compact", "rrdb2"]),
    channels=st.sampled_from([None, 1, 3, 4]),
    dtype=st.sampled_from(["uint8", "uint16", "float32"]),
    scale=st.sampled_from([None, 1.0, 1.5, 3.0]),
)
def test_any_size_layout_dtype_and_scale(
    upscalers: dict[str, Upscaler],
    height: int,
    width: int,
    kind: str,
    channels: int | None,
    dtype: str,
    scale: float | None,
) -> None:
    picture = as_dtype(draw(height, width), dtype)
    if channels is None:
        picture = picture[:, :, 0]
    elif channels == 4:
        picture = np.dstack([picture, picture[:, :, 1]])
    else:
        picture = picture[:, :, :channels]
    before = picture.copy()
    with Upscaler(_bundle_of(upscalers[kind]), backend="onnx", tile=60, scale=scale) as upscaler:
        out = upscaler(picture)
    times = scale or 2
    assert out.dtype == picture.dtype
    assert out.shape[:2] == (max(round(height * times), 1), max(round(width * times), 1))
    assert out.shape[2:] == picture.shape[2:]
    np.testing.assert_array_equal(picture, before)
    if dtype == "float32":
        assert np.isfinite(out).all()


def test_sixteen_bits_are_not_cut_to_eight(upscalers: dict[str, Upscaler]) -> None:
    ramp = np.linspace(20_000, 24_000, 48, dtype=np.uint16)
    picture = np.repeat(np.broadcast_to(ramp, (32, 48))[:, :, None], 3, axis=2)
    out = upscalers["compact"](np.ascontiguousarray(picture))
    assert len(np.unique(out % 257)) > 100


def test_a_gray_picture_stays_gray_and_is_the_luma_of_its_color_result(
    upscalers: dict[str, Upscaler],
) -> None:
    gray = draw(40, 50)[:, :, 1]
    out = upscalers["compact"](gray)
    color = upscalers["compact"](np.repeat(gray[:, :, None], 3, axis=2))
    assert levels(out, np.asarray(cv2.cvtColor(color, cv2.COLOR_BGR2GRAY))) <= 1


def test_non_contiguous_and_read_only_arrays(upscalers: dict[str, Upscaler]) -> None:
    picture = draw(40, 50)
    rgb = picture[:, :, ::-1]
    rgb.flags.writeable = False
    out = upscalers["compact"](rgb)
    np.testing.assert_array_equal(out, upscalers["compact"](np.ascontiguousarray(rgb)))


def test_opaque_alpha_is_kept_and_costs_no_pass(upscalers: dict[str, Upscaler]) -> None:
    picture = draw(40, 50)
    calls: list[tuple[int, int]] = []
    opaque = np.dstack([picture, np.full((40, 50), 255, np.uint8)])
    out = upscalers["compact"](opaque, progress=lambda *at: calls.append(at))
    assert (out[:, :, 3] == 255).all()
    assert calls == [(1, 1)]
    np.testing.assert_array_equal(out[:, :, :3], upscalers["compact"](picture))


def test_progress_counts_all_tiles_from_this_thread(compact: Bundle) -> None:
    calls, threads = [], set()

    def progress(done: float, total: float) -> None:
        calls.append((done, total))
        threads.add(threading.get_ident())

    with Upscaler(compact, backend="onnx", tile=64) as upscaler:
        upscaler(draw(120, 180), progress=progress)
    total = round(calls[0][1])
    assert total > 4
    assert calls == [(i + 1, total) for i in range(total)]
    assert threads == {threading.get_ident()}


def test_raising_in_progress_cancels_and_the_upscaler_goes_on(compact: Bundle) -> None:
    class StopNowError(Exception):
        pass

    def stop(done: float, total: float) -> None:
        raise StopNowError

    with Upscaler(compact, backend="onnx", tile=64) as upscaler:
        with pytest.raises(StopNowError):
            upscaler(draw(120, 180), progress=stop)
        assert upscaler(draw(8, 8)).shape == (16, 16, 3)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
@pytest.mark.parametrize(
    "kind", [MemoryError, OutOfMemoryError, RuntimeError, BackendError, KeyboardInterrupt]
)
def test_what_progress_raises_is_not_taken_for_an_error_of_the_backend(
    compact: Bundle, backend: Any, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    raised, calls, why = kind("CUDA out of memory"), list[float](), ValueError("the reason")

    def stop(done: float, total: float) -> None:
        calls.append(done)
        raise raised from why

    with Upscaler(compact, backend=backend, device="cpu", tile=64) as upscaler:
        with pytest.raises(kind) as found:
            upscaler(draw(120, 180), progress=stop)
        assert found.value is raised
        assert (raised.__cause__, raised.__context__) == (why, None)
        assert calls == [1]  # and no smaller tiles were tried
        with pytest.raises(kind) as found:
            upscaler.batch([draw(8, 8)] * 2, progress=stop)
        assert found.value is raised
    assert "out of memory" not in caplog.text


def test_several_threads_at_once(upscalers: dict[str, Upscaler]) -> None:
    pictures = [draw(60 + 7 * i, 50 + 11 * i, seed=i) for i in range(6)]
    expected = [upscalers["compact"](picture) for picture in pictures]
    found: dict[int, Array] = {}

    def work(index: int) -> None:
        found[index] = upscalers["compact"](pictures[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(pictures))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, picture in enumerate(expected):
        np.testing.assert_array_equal(found[index], picture)


class Cramped(OnnxBackend):
    """Finds no memory for a window over 70 pixels, as a small GPU would."""

    def infer(self, batch: Array, extra: Mapping[str, float] | None = None) -> Array:
        if batch.shape[0] * batch.shape[1] * batch.shape[2] > 70 * 70:
            raise OutOfMemoryError("cramped")
        return super().infer(batch, extra)


@pytest.fixture
def cramped(compact: Bundle) -> Iterator[Upscaler]:
    with Upscaler(compact, backend="onnx", tile=100) as upscaler:
        upscaler._backend = Cramped(compact, upscaler._backend.options)
        yield upscaler


def test_out_of_memory_makes_smaller_tiles_and_the_same_picture(
    cramped: Upscaler, upscalers: dict[str, Upscaler], caplog: pytest.LogCaptureFixture
) -> None:
    picture = draw(150, 170)
    calls: list[tuple[int, int]] = []
    out = cramped(picture, progress=lambda *at: calls.append(at))
    assert levels(out, upscalers["compact"](picture)) <= 1
    assert "out of memory with tiles of 100 pixels: continuing with 50" in caplog.text
    assert all(done <= total for done, total in calls)


def test_no_memory_at_all_says_what_to_do(cramped: Upscaler) -> None:
    class Starved(OnnxBackend):
        def infer(self, batch: Array, extra: Mapping[str, float] | None = None) -> Array:
            raise OutOfMemoryError("starved")

    cramped._backend = Starved(_bundle_of(cramped), cramped._backend.options)
    with pytest.raises(OutOfMemoryError, match="is the smallest: close other programs"):
        cramped(draw(150, 170))


def test_finished_rows_are_kept_when_memory_runs_out_midway(compact: Bundle) -> None:
    done: list[int] = []

    class Later(OnnxBackend):
        def infer(self, batch: Array, extra: Mapping[str, float] | None = None) -> Array:
            if batch.shape[1] > 60 and len(done) >= 3:
                raise OutOfMemoryError("later")
            done.append(batch.shape[1])
            return super().infer(batch, extra)

    picture = draw(400, 40)
    with Upscaler(compact, backend="onnx", tile=100) as upscaler:
        expected = upscaler(picture)
        upscaler._backend = Later(compact, upscaler._backend.options)
        from resharp.runtime.tiling import bands

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bands, "BAND_BYTES", 1)  # a row of tiles is a band
            found = upscaler(picture)
    assert levels(found, expected) <= 1
    large = [side for side in done if side > 60]
    assert len(large) == 3
    assert sum(side for side in done if side <= 60) < 300  # not all of it was done again


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batch_is_each_alone(upscalers: dict[str, Upscaler], batch_size: int) -> None:
    shapes = [(20, 30), (20, 30), (31, 17), (20, 30), (1, 1)]
    pictures: list[Array] = [draw(h, w, seed=i) for i, (h, w) in enumerate(shapes)]
    pictures += [draw(20, 30)[:, :, 0], np.dstack([draw(20, 30), draw(20, 30)[:, :, 0]])]
    calls: list[tuple[int, int]] = []
    for kind in ("compact", "rrdb2"):
        found = upscalers[kind].batch(pictures, batch_size, progress=lambda *at: calls.append(at))
        for picture, result in zip(pictures, found, strict=True):
            assert levels(result, upscalers[kind](picture)) <= 1
    assert calls[-1] == (7, 7)


def test_batch_falls_back_to_single_pictures(
    cramped: Upscaler, upscalers: dict[str, Upscaler]
) -> None:
    pictures = [draw(60, 60, seed=i) for i in range(4)]
    for picture, result in zip(pictures, cramped.batch(pictures), strict=True):
        assert levels(result, upscalers["compact"](picture)) <= 1


def test_batch_checks_all_before_any_work(upscalers: dict[str, Upscaler]) -> None:
    with pytest.raises(ImageError):
        upscalers["compact"].batch([draw(8, 8), np.zeros((0, 3), np.uint8)])
    with pytest.raises(OptionError, match="`size` must be a positive integer, got 0"):
        upscalers["compact"].batch([], 0)
    assert upscalers["compact"].batch([]) == []


def test_stream_keeps_order_and_reads_no_further_than_it_must(
    upscalers: dict[str, Upscaler],
) -> None:
    taken = []

    def frames() -> Iterator[Array]:
        for index in range(6):
            taken.append(index)
            yield np.full((10, 12, 3), 40 * index, np.uint8)

    out = upscalers["compact"].stream(frames(), ahead=2)
    for index, frame in enumerate(out):
        assert len(taken) <= index + 2
        np.testing.assert_array_equal(
            frame, upscalers["compact"](np.full((10, 12, 3), 40 * index, np.uint8))
        )
    assert len(taken) == 6


def test_a_stream_that_is_left_early_stops(upscalers: dict[str, Upscaler]) -> None:
    out = upscalers["compact"].stream(iter([draw(9, 9)] * 50))
    next(out)
    out.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("resharp-stream")]


def test_a_bad_frame_raises_in_its_turn(upscalers: dict[str, Upscaler]) -> None:
    out = upscalers["compact"].stream([draw(9, 9), np.zeros((0, 0), np.uint8)])
    assert next(out).shape == (18, 18, 3)
    with pytest.raises(ImageError):
        next(out)


def test_a_stream_copies_frames_that_are_filled_again(upscalers: dict[str, Upscaler]) -> None:
    def frames() -> Iterator[Array]:
        buffer = np.zeros((10, 12, 3), np.uint8)
        for index in range(5):
            buffer[:] = 50 * index
            yield buffer

    found = [int(f[0, 0, 0]) for f in upscalers["compact"].stream(frames(), ahead=3)]
    expected = [
        int(upscalers["compact"](np.full((10, 12, 3), 50 * i, np.uint8))[0, 0, 0]) for i in range(5)
    ]
    assert found == expected


def test_a_source_that_fails_gives_its_frames_first(upscalers: dict[str, Upscaler]) -> None:
    def frames() -> Iterator[Array]:
        yield draw(8, 8)
        yield draw(8, 8)
        raise KeyError("the disk is gone")

    found: list[Array] = []
    with pytest.raises(KeyError, match="the disk is gone"):
        found.extend(upscalers["compact"].stream(frames(), ahead=4))
    assert len(found) == 2


def test_odd_arguments(upscalers: dict[str, Upscaler], compact: Bundle) -> None:
    upscaler = upscalers["compact"]
    assert len(upscaler.batch(draw(8, 8, seed=i) for i in range(3))) == 3
    with pytest.raises(OptionError, match="`size` must be a positive integer, got '2'"):
        upscaler.batch([], "2")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="`ahead` must be a positive integer, got 0"):
        upscaler.stream([], ahead=0)
    with pytest.warns(PendingDeprecationWarning):
        gray = np.matrix(draw(6, 7)[:, :, 0])
    assert upscaler(gray).shape == (12, 14)
    read_only = np.frombuffer(draw(6, 7).tobytes(), np.uint8).reshape(6, 7, 3)
    with Upscaler(compact, backend="torch", tile=None, threads=2) as torch_one:
        assert torch_one(read_only).shape == (12, 14, 3)
        assert "torch.set_num_threads" in torch_one.explain()


def test_a_closed_upscaler_says_so(compact: Bundle) -> None:
    upscaler = Upscaler(compact, backend="onnx")
    upscaler.close()
    upscaler.close()
    with pytest.raises(BackendError, match="closed"):
        upscaler(draw(8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "must be 'auto', 'whole' or a number"),
        ({"tile": "big"}, "must be 'auto', 'whole' or a number"),
        ({"scale": 0.0}, r"`scale` must be in \(0, 32\], got 0.0"),
        ({"scale": 1000.0}, "must be in"),
        ({"backend": "ncnn"}, "one of auto, tensorrt, torch, onnx, got 'ncnn'"),
        ({"device": "tpu"}, "must be cpu, cuda or cuda:N"),
        ({"device": "cpu:1"}, "must be cpu, cuda or cuda:N"),
        ({"device": "cuda:"}, "must be cpu, cuda or cuda:N"),
        ({"device": 0}, "must be cpu, cuda or cuda:N"),
        ({"device": None}, "must be cpu, cuda or cuda:N"),
        ({"threads": 1.5}, r"must be an integer between 1 and "),
        ({"tile": 1.5}, "must be 'auto', 'whole' or a number"),
        ({"tile": True}, "must be 'auto', 'whole' or a number"),
        ({"scale": "2"}, "must be in"),
        ({"scale": float("nan")}, "must be in"),
        ({"threads": 0}, r"must be an integer between 1 and "),
        ({"threads": 99_999}, r"must be an integer between 1 and "),
    ],
)
def test_options_that_make_no_sense(compact: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Upscaler(compact, **options)


def test_a_tile_under_the_overlap_is_raised_with_a_warning(
    compact: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    picture = draw(90, 90)
    with Upscaler(compact, backend="onnx", tile=8) as upscaler:
        out = upscaler(picture)
    assert "a tile of 8 leaves nothing between overlaps" in caplog.text
    with Upscaler(compact, backend="onnx") as whole:
        assert levels(out, whole(picture)) <= 1


def test_explain_gives_the_reason_of_every_skipped_link(compact: Bundle) -> None:
    with Upscaler(compact) as upscaler:
        attempts = upscaler.attempts
        assert attempts[-1].works
        assert all(one.reason for one in attempts[:-1])
        assert upscaler.explain().splitlines() == [str(one) for one in attempts]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_what_lies_under_transparent_pixels_does_not_shine_through(
    upscalers: dict[str, Upscaler], dtype: str
) -> None:
    color = np.full((40, 40, 3), (40, 60, 220), np.uint8)
    alpha = np.zeros((40, 40), np.uint8)
    cv2.circle(alpha, (20, 20), 12, 255, -1, cv2.LINE_AA)
    results = []
    for under in (0, 255):
        hidden = np.where(alpha[:, :, None] == 0, under, color).astype(np.uint8)
        results.append(upscalers["compact"](as_dtype(np.dstack([hidden, alpha]), dtype)))
    np.testing.assert_array_equal(results[0], results[1])
    flat = upscalers["compact"](as_dtype(color, dtype))
    seen = results[0][:, :, 3] > 0
    assert levels(results[0][:, :, :3][seen], flat[seen]) <= 1


class Wild(torch.nn.Module):
    """Sane in fp32; infinite on the way in fp16."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.one * self.factor / self.factor


@pytest.mark.parametrize(("factor", "half"), [(2.0, True), (1e6, False)])
def test_fp16_is_used_only_if_it_keeps_the_picture(
    compact: Bundle, factor: float, half: bool
) -> None:
    backend = TorchBackend(compact, BackendOptions())
    with backend:
        chosen = backend._halved(Wild(factor))
        assert (next(chosen.parameters()).dtype == torch.float16) == half
        assert ("fp32, since fp16" in backend.note) != half
