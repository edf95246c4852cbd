"""RealESRGANer against Real-ESRGAN's documented algorithm."""

from __future__ import annotations

import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from torch import nn

from resharp import Upscaler, compat
from resharp.compat import RealESRGANer, realesrgan
from resharp.compat.realesrgan import device_of
from resharp.engines import Bundle
from resharp.errors import CheckpointError, ImageError, OptionError
from resharp.gpu.devices import CudaError, Gpu
from resharp.models import load_network
from resharp.runtime.bundle_lookup import builtin_store
from tests.compat.reference import Image, Reference, farthest, picture
from tests.conftest import random_network, save_checkpoint
from tests.shared import ANIMEVIDEO, needs_animevideo

SCALES = {"rrdb4": 4, "rrdb2": 2, "compact": 2}
SETTINGS = (
    (0, 0, None),
    (0, 10, 2),
    (0, 10, 3.5),
    (0, 0, 4),
    (16, 0, None),
    (16, 10, 3.5),
)
"""(tile, pre_pad, outscale)."""


@pytest.fixture(scope="module")
def enhancers(tiny: dict[str, Bundle]) -> dict[str, RealESRGANer]:
    return {kind: RealESRGANer(scale, tiny[kind], device="cpu") for kind, scale in SCALES.items()}


def both(
    ours: RealESRGANer, network: nn.Module, img: Image, **options: Any
) -> tuple[tuple[Image, str], tuple[Image, str]]:
    """Our result and the documented one."""
    reference = Reference(
        network=network,
        scale=ours.scale,
        tile=ours.tile_size,
        tile_pad=ours.tile_pad,
        pre_pad=ours.pre_pad,
    )
    return ours.enhance(img, **options), reference.enhance(img, **options)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("kind", ["gray", "bgr", "bgra"])
@pytest.mark.parametrize("model", list(SCALES))
def test_as_upstream_documents(
    model: str,
    kind: str,
    dtype: str,
    enhancers: dict[str, RealESRGANer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, network = enhancers[model], random_network(model)
    img = picture(kind, 37, 50, dtype)
    for tile, pre_pad, outscale in SETTINGS:
        monkeypatch.setattr(ours, "tile_size", tile)  # upstream's names, which scripts set too
        monkeypatch.setattr(ours, "pre_pad", pre_pad)
        (out, mode), (expected, name) = both(ours, network, img, outscale=outscale)
        assert mode == name
        # Of 65535 levels each may be off by one, and Lanczos sums up to three of them.
        resized = outscale not in (None, ours.scale)
        allowed = 2 if dtype == "uint16" and resized else 1
        assert farthest(out, expected) <= allowed, (tile, pre_pad, outscale)


def test_what_is_compared_is_not_flat(enhancers: dict[str, RealESRGANer]) -> None:
    for kind, ours in enhancers.items():
        out, _ = ours.enhance(picture("bgr"))
        assert out.std() > 8, kind


@pytest.mark.parametrize("upsampler", ["bicubic", "anything"])
def test_alpha_without_the_network(
    upsampler: str, enhancers: dict[str, RealESRGANer], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, img = enhancers["rrdb4"], picture("bgra")
    (out, mode), (expected, _) = both(ours, random_network("rrdb4"), img, alpha_upsampler=upsampler)
    assert mode == "RGBA"
    assert farthest(out, expected) <= 1
    monkeypatch.setattr(ours, "_run", lambda image: ours._upscaler(image))
    assert farthest(out[:, :, 3], ours.enhance(img)[0][:, :, 3]) > 1  # it made a difference


def test_tiles_have_nine_shapes(
    enhancers: dict[str, RealESRGANer], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, shapes = enhancers["compact"], []
    upscaler = ours._upscaler

    def spy(image: Image) -> Image:
        shapes.append(image.shape[:2])
        return upscaler(image)

    monkeypatch.setattr(ours, "_upscaler", spy)
    for name, value in {"tile_size": 16, "tile_pad": 4, "pre_pad": 0}.items():
        monkeypatch.setattr(ours, name, value)
    ours.enhance(picture("bgr", 40, 58))
    sides = {20, 24, 12}, {20, 24, 14}
    assert {shape[0] for shape in shapes} == sides[0]
    assert {shape[1] for shape in shapes} == sides[1]
    assert len(shapes) == 3 * 4
    assert len(set(shapes)) == 9


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 40)])
def test_pictures_smaller_than_the_padding(
    size: tuple[int, int], enhancers: dict[str, RealESRGANer]
) -> None:
    out, _ = enhancers["rrdb2"].enhance(picture("bgr", *size))
    assert out.shape == (2 * size[0], 2 * size[1], 3)


def test_a_dark_picture_of_16_bits_stays_one(enhancers: dict[str, RealESRGANer]) -> None:
    img = picture("bgr").astype(np.uint16)  # at most 255 of 65535: upstream takes it for 8 bits
    out, _ = enhancers["compact"].enhance(img)
    assert out.dtype == np.uint16
    assert out.mean() < 6000


def test_gray_with_an_axis_for_it(enhancers: dict[str, RealESRGANer]) -> None:
    img = picture("gray")
    out, mode = enhancers["compact"].enhance(img[:, :, None])
    assert mode == "L"
    assert np.array_equal(out, enhancers["compact"].enhance(img)[0])


def test_the_input_is_not_changed_and_threads_may_share(
    enhancers: dict[str, RealESRGANer],
) -> None:
    ours = enhancers["compact"]
    pictures = [picture("bgra", 30 + i, 40) for i in range(6)]
    kept = [img.copy() for img in pictures]
    alone = [ours.enhance(img)[0] for img in pictures]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda img: ours.enhance(img)[0], pictures))
    for one, other, img, before in zip(alone, together, pictures, kept, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(img, before)


@pytest.mark.slow
def test_the_built_in_weights() -> None:
    bundle = builtin_store().find("resharp-x4")
    file = bundle.path(bundle.manifest.weights)
    check_whole(RealESRGANer(4, file, device="cpu"), load_network(file))
    check_whole(RealESRGANer(4, "resharp-x4", device="cpu", pre_pad=0), load_network(file))


@pytest.mark.slow
@needs_animevideo
@pytest.mark.shared
def test_animevideov3() -> None:
    check_whole(RealESRGANer(4, ANIMEVIDEO, device="cpu"), load_network(ANIMEVIDEO))


def check_whole(ours: RealESRGANer, network: nn.Module) -> None:
    for kind in ("gray", "bgr", "bgra"):
        for outscale in (None, 2, 3.5):
            (out, mode), (expected, name) = both(
                ours, network, picture(kind, 60, 48), outscale=outscale
            )
            assert mode == name
            assert farthest(out, expected) <= 1, (kind, outscale)


def test_without_tiles_the_picture_is_whole(compact: Bundle) -> None:
    img = picture("bgr", 40, 640)
    totals = []
    with Upscaler(compact, device="cpu", tile="whole") as upscaler:
        upscaler(img, progress=lambda done, total: totals.append(total))
    assert totals == [1]
    with Upscaler(compact, device="cpu", tile="whole", memory_fraction=1e-9) as upscaler:
        upscaler(img, progress=lambda done, total: totals.append(total))
    assert totals[-1] > 1  # as few tiles as the memory allows


SCRIPT = """
import cv2
from realesrgan import RealESRGANer

upsampler = RealESRGANer(
    scale=2,
    model_path='weights/mine.pth',
    model=None,
    tile=0,
    tile_pad=10,
    pre_pad=0,
    half=False,
    gpu_id=None,
)
img = cv2.imread('in.png', cv2.IMREAD_UNCHANGED)
try:
    output, img_mode = upsampler.enhance(img, outscale=3.5)
except RuntimeError as error:
    print('Error', error)
else:
    cv2.imwrite('out.png', output)
"""


@pytest.mark.slow
def test_a_script_changes_one_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    network = random_network("compact")
    save_checkpoint(network, tmp_path / "weights" / "mine.pth")
    cv2.imwrite(str(tmp_path / "in.png"), picture("bgra"))
    old, new = "from realesrgan import", "from resharp.compat import"
    assert SCRIPT.count(old) == 1
    (tmp_path / "script.py").write_text(SCRIPT.replace(old, new))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("script.py")
    expected, _ = Reference(network=network, scale=2, pre_pad=0).enhance(picture("bgra"), 3.5)
    found = cv2.imread("out.png", cv2.IMREAD_UNCHANGED)
    assert found is not None
    assert farthest(found, expected) <= 1


def test_the_networks_come_along() -> None:
    assert compat.RRDBNet(num_in_ch=3, num_out_ch=3, num_feat=4, num_block=1, num_grow_ch=4)
    assert compat.SRVGGNetCompact(num_feat=4, num_conv=1)
    with pytest.raises(AttributeError, match="PrefetchReader"):
        compat.PrefetchReader  # noqa: B018
    assert all(hasattr(compat, name) for name in compat.__all__)


@pytest.mark.parametrize(
    ("img", "says"),
    [
        (None, "cannot read"),
        (np.zeros((8, 8, 3), np.float32), "uint8 or uint16"),
        (np.zeros((8, 8, 3), np.int32), "int32"),
        (np.zeros((8, 8, 2), np.uint8), "must be gray"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
    ],
)
def test_what_is_no_picture(img: Any, says: str, enhancers: dict[str, RealESRGANer]) -> None:
    with pytest.raises(ImageError, match=says):
        enhancers["compact"].enhance(img)


@pytest.mark.parametrize("outscale", [0, -1, 0.01, float("nan"), "2", 1e9])
def test_outscales_that_make_no_sense(outscale: Any, enhancers: dict[str, RealESRGANer]) -> None:
    with pytest.raises(OptionError, match="outscale"):
        enhancers["compact"].enhance(picture("bgr"), outscale=outscale)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale": 4}, "`scale` must be 2 for .*, got 4"),
        ({"tile": -1}, "`tile` must be a non-negative number of pixels, got -1"),
        ({"tile_pad": 1.5}, "tile_pad"),
        ({"pre_pad": True}, "pre_pad"),
        ({"device": "mps"}, "mps"),
        ({"dni_weight": [0.5, 0.5]}, "list of two"),
        ({"gpu_id": -1}, "`gpu_id` must be a non-negative GPU index, got -1"),
    ],
)
def test_bad_options(options: dict[str, Any], says: str, tmp_path: Path, compact: Bundle) -> None:
    with pytest.raises(OptionError, match=says):
        RealESRGANer(**{"scale": 2, "model_path": compact.folder, **options})


def test_a_missing_file_says_where_it_is_from(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no such file: .*: pass https://.*RealESRGAN_x4plus.pth"
    ):
        RealESRGANer(4, tmp_path / "RealESRGAN_x4plus.pth")


def test_half_and_device_go_to_the_upscaler(
    compact: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(realesrgan, "Upscaler", lambda model, **options: seen.update(options))
    RealESRGANer(2, compact, half=True, device="cuda:1")
    assert seen == {"device": "cuda:1", "tile": "whole", "precision": "auto"}
    RealESRGANer(2, compact)
    assert seen == {"device": "auto", "tile": "whole", "precision": "fp32"}


def test_gpu_id_where_there_is_a_gpu_and_where_not(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = Gpu(index=0, name="a card", capability="8.9", memory=1 << 30)
    monkeypatch.setattr(realesrgan, "gpus", lambda: (card, card))
    assert device_of(None, 1) == "cuda:1"
    assert device_of("cpu", 1) == "cpu"
    assert device_of(None, None) == "auto"

    def none() -> tuple[Gpu, ...]:
        raise CudaError("no NVIDIA driver")

    monkeypatch.setattr(realesrgan, "gpus", none)
    assert device_of(None, 0) == "cpu"
    assert "using the CPU: no NVIDIA driver" in caplog.text


@pytest.mark.parametrize("model", ["codeformer", "weights/GFPGANv1.4.pth", "yunet"])
def test_what_upscales_nothing_is_refused_before_any_export(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("exported")

    monkeypatch.setattr("resharp.export.export", never)
    with pytest.raises(OptionError, match="does not upscale"):
        RealESRGANer(4, model)
