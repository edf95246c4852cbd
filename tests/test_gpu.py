"""What needs an NVIDIA GPU: ``python -m pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from resharp import Upscaler
from resharp.deploy import build_engines
from resharp.drawing import draw
from resharp.engines import Bundle
from resharp.gpu import tensorrt as trt
from resharp.gpu.cuda import open_provider
from resharp.gpu.devices import CudaError, cuda_free_memory, gpus
from resharp.runtime.backends.torch.backend import TorchBackend
from resharp.types import Image

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]
FLOOR_DB = 40.0
Fast = Callable[..., Upscaler]
"""Opens a tiny model on the GPU; takes Upscaler's options."""


@pytest.fixture(scope="session")
def engined(tiny: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The tiny models with engines for this GPU, checked on it."""
    if not trt.installed():
        pytest.skip("no TensorRT is installed")
    variant, folder = trt.pick(), tmp_path_factory.mktemp("engines")
    if variant == trt.RTX and (reason := trt.rtx_refusal(gpus()[0].name, gpus()[0].capability)):
        pytest.skip(reason)
    own = {kind: replace(b, engine_store_folder=folder / kind) for kind, b in tiny.items()}
    for bundle in own.values():
        build_engines(bundle, gpu=0, tile=256)
    return own


@pytest.fixture(
    params=[
        "torch",
        pytest.param("tensorrt+cuda-python", marks=pytest.mark.tensorrt),
        pytest.param("tensorrt+pycuda", marks=pytest.mark.tensorrt),
    ]
)
def fast(
    request: pytest.FixtureRequest, tiny: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> Fast:
    backend, _, provider = request.param.partition("+")
    bundles = tiny
    if provider:
        pytest.importorskip("pycuda" if provider == "pycuda" else "cuda.bindings")
        monkeypatch.setenv("RESHARP_CUDA", provider)
        bundles = request.getfixturevalue("engined")
    return lambda kind, **options: Upscaler(
        bundles[kind], backend=backend, device="cuda", **options
    )


def psnr(one: Image, two: Image) -> float:
    white = 1.0 if one.dtype.kind == "f" else float(np.iinfo(one.dtype).max)
    error = np.mean((one.astype(np.float64) - two.astype(np.float64)) ** 2) / white**2
    return float(-10 * np.log10(error + 1e-20))


def test_the_driver_is_seen() -> None:
    try:
        found = gpus()
    except CudaError as error:
        pytest.fail(str(error))
    assert found[0].name == torch.cuda.get_device_name(0)
    assert 0 < cuda_free_memory(0) <= found[0].memory


@pytest.mark.parametrize("provider", ["cuda-python", "pycuda"])
def test_the_provider_copies_and_records(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycuda" if provider == "pycuda" else "cuda.bindings")
    monkeypatch.setenv("RESHARP_CUDA", provider)
    exercise()


def exercise() -> None:
    """Copies, a capture and its replay, by the provider that the environment asks for."""
    device = open_provider(0)
    try:
        with device.scope():
            stream = device.stream()
            first, last = device.event(timing=True), device.event(timing=True)
            up, down = device.pin(60), device.pin(20)
            source, target = device.allocate(60), device.allocate(20)
            up.array[:] = np.arange(60)
            down.array[:] = 0
            device.begin_capture(stream)
            device.upload(source.address, up.array, stream)
            device.copy_rows(target.address, 5, source.address + 12, 10, 5, 4, stream)
            device.download(down.array, target.address, stream)
            graph = device.end_capture(stream)
            assert not down.array.any()
            first.record(stream)
            graph.launch(stream)
            last.record(stream)
            stream.synchronize()
            expected = np.arange(60).reshape(6, 10)[1:5, 2:7]
            np.testing.assert_array_equal(down.array.reshape(4, 5), expected)
            assert last.elapsed_since(first) >= 0
            for thing in (graph, first, last, source, target, up, down, stream):
                thing.free()
    finally:
        device.close()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["compact", "rrdb4", "rrdb2"])
def test_a_gpu_gives_the_picture_of_the_cpu(
    fast: Fast, tiny: dict[str, Bundle], kind: str, dtype: str
) -> None:
    picture = draw(333, 517).astype(dtype)
    if dtype != "uint8":
        picture = picture * 257 if dtype == "uint16" else picture / np.float32(255)
    with (
        fast(kind, tile=160) as upscaler,
        Upscaler(tiny[kind], backend="onnx", device="cpu") as exact,
    ):
        wanted = exact(picture)
        for _ in range(5):  # eager, then recorded
            assert psnr(upscaler(picture), wanted) >= FLOOR_DB
        for height, width in ((1, 1), (7, 300), (159, 161)):
            small = np.ascontiguousarray(picture[:height, :width])
            assert psnr(upscaler(small), exact(small)) >= FLOOR_DB - 5


def test_auto_takes_the_gpu_and_the_built_in_model_runs_on_it() -> None:
    picture = draw(200, 300)
    with Upscaler() as fast, Upscaler(device="cpu") as exact:
        assert fast.device == "cuda"
        assert psnr(fast(picture), exact(picture)) >= FLOOR_DB


def test_several_threads_share_a_gpu() -> None:
    pictures = [draw(90 + i, 120 + i, seed=i) for i in range(8)]
    found: dict[int, Image] = {}
    with Upscaler(backend="torch", device="cuda") as upscaler:
        expected = [upscaler(picture) for picture in pictures]

        def work(index: int) -> None:
            found[index] = upscaler(pictures[index])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, picture in enumerate(expected):
        assert psnr(found[index], picture) >= 60


@pytest.mark.alone
def test_a_tile_too_large_for_the_card_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(free - (700 << 20), 0), dtype=torch.uint8, device="cuda")
    try:
        with Upscaler(backend="torch", device="cuda", tile=2048) as upscaler:
            out = upscaler(draw(1500, 1500))
    finally:
        del hog
        torch.cuda.empty_cache()
    assert out.shape == (6000, 6000, 3)
    assert "out of memory with tiles" in caplog.text


def levels(one: Image, two: Image) -> int:
    """Largest difference of two uint8 pictures."""
    assert one.shape == two.shape
    return int(np.abs(one.astype(np.int16) - two.astype(np.int16)).max())


def recorded(upscaler: Upscaler) -> int:
    """Shapes that the lane on top of the pool has recorded."""
    backend = upscaler._backend
    assert isinstance(backend, TorchBackend)
    assert backend._lanes is not None
    with backend._lanes.take() as lane:
        return len(lane.graphs._kept)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("tile", [160, 1024])
def test_a_replayed_graph_is_the_eager_picture(
    tiny: dict[str, Bundle], tile: int, dtype: str
) -> None:
    pictures: list[Image] = [draw(333, 517, seed=i).astype(dtype) for i in range(4)]
    if dtype == "float32":
        pictures = [picture / np.float32(255) for picture in pictures]
    with Upscaler(tiny["rrdb4"], backend="torch", device="cuda", tile=tile) as upscaler:
        eager = upscaler(pictures[0])
        assert recorded(upscaler) == 0
        upscaler(pictures[1])
        assert recorded(upscaler) == 1
        results = [upscaler(picture) for picture in pictures]
        assert "without CUDA graphs" not in upscaler._backend.note
    for one in results[1:]:  # no result is overwritten by a later replay
        assert psnr(one, results[0]) < 60
    gap = np.abs(results[0].astype(np.float64) - eager).max()
    assert gap <= (1 if dtype == "uint8" else 1 / 255)


@pytest.mark.slow
def test_many_shapes_do_not_eat_the_memory(tiny: dict[str, Bundle]) -> None:
    reserved = []
    with Upscaler(tiny["rrdb4"], backend="torch", device="cuda", tile=1024) as upscaler:
        for index in range(36):
            picture = draw(200 + 8 * (index % 18), 300 + 4 * (index % 18))
            first = upscaler(picture)
            assert levels(upscaler(picture), first) <= 1
            assert recorded(upscaler) <= 4
            torch.cuda.empty_cache()
            reserved.append(torch.cuda.memory_reserved())
    assert max(reserved[24:]) <= 1.5 * max(reserved[:12]) + (64 << 20)


def test_two_threads_record_and_run_at_once(fast: Fast) -> None:
    pictures = [draw(300 + 20 * (i % 3), 400, seed=i) for i in range(6)]
    wrong: list[int] = []
    with fast("compact", tile=160) as upscaler:
        expected = [upscaler(picture) for picture in pictures]

        def work(order: list[int]) -> None:
            for index in order * 10:
                if levels(upscaler(pictures[index]), expected[index]) > 1:
                    wrong.append(index)

        orders = [[0, 1, 2, 3, 4, 5], [5, 3, 1, 4, 2, 0], [2, 2, 0, 0, 4, 4]]
        threads = [threading.Thread(target=work, args=(order,)) for order in orders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "without CUDA graphs" not in upscaler._backend.note
    assert wrong == []


def test_a_stream_is_its_frames(fast: Fast) -> None:
    frames = [draw(270, 480, seed=i) for i in range(12)]
    with fast("compact") as upscaler:
        expected = [upscaler(frame) for frame in frames]
        for found, one in zip(upscaler.stream(iter(frames), ahead=3), expected, strict=True):
            assert levels(found, one) <= 1


def test_after_a_cancelled_run_the_next_is_right(fast: Fast) -> None:
    class StopNowError(Exception):
        pass

    def stop(done: float, total: float) -> None:
        if done > total // 2:
            raise StopNowError

    picture = draw(600, 500)
    with fast("compact", tile=128) as upscaler:
        expected = upscaler(picture)
        for _ in range(5):
            with pytest.raises(StopNowError):
                upscaler(draw(600, 500, seed=1), progress=stop)
            assert levels(upscaler(picture), expected) <= 1


@pytest.mark.alone
def test_after_the_memory_ran_out_the_next_picture_is_right(fast: Fast) -> None:
    picture = draw(300, 300)
    with fast("rrdb4", tile=2048) as upscaler:
        expected = [upscaler(picture) for _ in range(3)][-1]
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info()
        hog = torch.empty(max(free - (256 << 20), 0), dtype=torch.uint8, device="cuda")
        try:
            large = upscaler(draw(1200, 1300))
        finally:
            del hog
            torch.cuda.empty_cache()
        assert large.shape == (4800, 5200, 3)
        assert levels(upscaler(picture), expected) <= 1


def test_results_kept_by_the_caller_are_his(fast: Fast) -> None:
    with fast("compact") as upscaler:
        kept = [upscaler(draw(200, 200, seed=i)) for i in range(10)]
        copies = [one.copy() for one in kept]
        for i in range(20):
            upscaler(draw(200, 200, seed=50 + i))
    for one, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(one, copy)


def test_two_models_are_opened_and_run_at_once(tiny: dict[str, Bundle]) -> None:
    picture, wrong, notes = draw(300, 400), list[str](), list[str]()
    kinds = ("compact", "rrdb4", "rrdb2")
    expected = {}
    for kind in kinds:
        with Upscaler(tiny[kind], backend="torch", device="cuda", tile=160) as upscaler:
            expected[kind] = upscaler(picture)

    def work(kind: str) -> None:
        for _ in range(4):  # each opens, records and closes while the others do
            with Upscaler(tiny[kind], backend="torch", device="cuda", tile=160) as upscaler:
                for _ in range(4):
                    if levels(upscaler(picture), expected[kind]) > 1:
                        wrong.append(kind)
                notes.append(upscaler.explain())

    threads = [threading.Thread(target=work, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(notes) == 4 * len(kinds)
    assert not any("without CUDA graphs" in note for note in notes)


def test_a_network_that_waits_for_the_gpu_spoils_nothing_but_its_graphs(
    tiny: dict[str, Bundle],
) -> None:
    class Waiting(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(x)
            found.sum().item()
            return found

    picture = draw(100, 120)
    with Upscaler(tiny["compact"], backend="torch", device="cuda") as upscaler:
        expected = upscaler(picture)
    with Upscaler(tiny["compact"], backend="torch", device="cuda") as upscaler:
        backend = upscaler._backend
        assert isinstance(backend, TorchBackend)
        for dtype, module in list(backend._modules.items()):
            backend._modules[dtype] = Waiting(module)
        for _ in range(12):
            assert levels(upscaler(picture), expected) <= 1
        assert "without CUDA graphs" in upscaler.explain()
        torch.cuda.empty_cache()  # raises where the allocator believes in a capture
        torch.rand(1, device="cuda")  # as the generator of random numbers does
    with Upscaler(tiny["compact"], backend="torch", device="cuda") as upscaler:
        for _ in range(3):
            assert levels(upscaler(picture), expected) <= 1
        assert recorded(upscaler) == 1
        assert "without CUDA graphs" not in upscaler.explain()


def test_closing_gives_the_memory_back(tiny: dict[str, Bundle]) -> None:
    before = torch.cuda.memory_allocated()
    upscaler = Upscaler(tiny["rrdb4"], backend="torch", device="cuda")
    for _ in range(3):
        upscaler(draw(200, 200))
    held = torch.cuda.memory_allocated() - before
    upscaler.close()
    assert 0 <= torch.cuda.memory_allocated() - before < held / 10
    upscaler.close()


def test_many_at_once_are_each_alone(fast: Fast) -> None:
    pictures = [draw(64, 48, seed=i) for i in range(9)]
    with fast("rrdb2") as upscaler:
        alone = [upscaler(picture) for picture in pictures]
        for _ in range(3):
            for found, one in zip(upscaler.batch(pictures), alone, strict=True):
                assert levels(found, one) <= 1


def test_fp32_is_nearer_than_fp16_and_says_where_it_rounds(tiny: dict[str, Bundle]) -> None:
    picture = draw(200, 300) / np.float32(255)
    with Upscaler(tiny["rrdb4"], backend="onnx", device="cpu") as exact:
        wanted = exact(picture)
    fp32 = partial(Upscaler, tiny["rrdb4"], backend="torch", device="cuda", precision="fp32")
    with fp32() as upscaler:
        assert psnr(upscaler(picture), wanted) >= 45
        rounds = torch.cuda.get_device_capability() >= (8, 0)
        assert ("TF32" in upscaler.explain()) is rounds
    was = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with fp32() as upscaler:
            assert psnr(upscaler(picture), wanted) >= 80
            assert "TF32" not in upscaler.explain()
    finally:
        torch.backends.cudnn.allow_tf32 = was


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_the_second_gpu(tiny: dict[str, Bundle]) -> None:
    picture = draw(200, 300)
    with (
        Upscaler(tiny["compact"], backend="torch", device="cuda:1") as upscaler,
        Upscaler(tiny["compact"], backend="onnx", device="cpu") as exact,
    ):
        assert upscaler.device == "cuda:1"
        assert psnr(upscaler(picture), exact(picture)) >= FLOOR_DB
        assert torch.cuda.memory_allocated(1) > 0
