"""What needs an NVIDIA GPU: ``python -m pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from resharp import Upscaler
from resharp.engines import Bundle
from resharp.export.picture import draw
from resharp.runtime.devices import CudaError, cuda_free_memory, gpus
from resharp.runtime.image import Image

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]
FLOOR_DB = 40.0


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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", ["compact", "rrdb4", "rrdb2"])
def test_torch_on_cuda_is_the_picture_of_the_cpu(
    tiny: dict[str, Bundle], kind: str, dtype: str
) -> None:
    picture = draw(333, 517).astype(dtype)
    if dtype != "uint8":
        picture = picture * 257 if dtype == "uint16" else picture / np.float32(255)
    with (
        Upscaler(tiny[kind], backend="torch", device="cuda", tile=160) as fast,
        Upscaler(tiny[kind], backend="onnx", device="cpu") as exact,
    ):
        assert (fast.backend, fast.device) == ("torch", "cuda")
        assert psnr(fast(picture), exact(picture)) >= FLOOR_DB


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
