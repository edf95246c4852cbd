from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from resharp.errors import CheckpointError, ImageError
from resharp.models import ByteImage, FloatImage, build, read_checkpoint
from tests.models.nets import rrdbnet, srvgg
from tests.shared import ANIMEVIDEO, needs_animevideo

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "x1": lambda: rrdbnet(1),
    "x2": lambda: rrdbnet(2),
    "x4": lambda: rrdbnet(4),
    "srvgg": lambda: srvgg(),
}


class Colors(nn.Module):
    """Knows its planes: halves red, keeps green, and overshoots blue."""

    def forward(self, x: Tensor) -> Tensor:
        red, green, blue = x.unbind(1)
        return torch.stack((red * 0.5, green, blue * 2 - 0.5), 1)


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(3))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 4)])
def test_bytes_equal_plain_numpy(kind: str, height: int, width: int) -> None:
    network = NETWORKS[kind]()
    images = bytes_of(2, height, width, 3)
    planes = images.numpy()[..., ::-1].astype(np.float32).transpose(0, 3, 1, 2) / np.float32(255)
    with torch.no_grad():
        raw = network(torch.from_numpy(planes.copy())).numpy()
        out = ByteImage(network)(images)
    expected = np.rint(np.clip(raw * np.float32(255), 0, 255)).astype(np.uint8)
    expected = expected.transpose(0, 2, 3, 1)[..., ::-1]
    assert out.dtype is torch.uint8
    assert out.is_contiguous()
    assert out.shape == expected.shape
    # 1/255 is multiplied here and divided there, so a value on an edge may fall either way.
    assert np.abs(out.numpy().astype(int) - expected).max() <= 1
    assert (out.numpy() != expected).mean() < 0.01


def test_bytes_keep_colors_apart_and_clamp() -> None:
    images = torch.tensor([[[[0, 10, 100], [255, 20, 200]]]], dtype=torch.uint8)  # B, G, R
    assert ByteImage(Colors())(images).tolist() == [[[[0, 10, 50], [255, 20, 100]]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_level_survives_every_dtype(dtype: torch.dtype) -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype is dtype
            return x * self.one

    levels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).T.reshape(1, 16, 16, 3)
    assert torch.equal(ByteImage(Same())(levels), levels)


def test_floats_equal_the_network_between_0_and_1() -> None:
    images = torch.rand(2, 3, 5, 3)
    network = rrdbnet(2)
    with torch.no_grad():
        raw = network(images.flip(3).permute(0, 3, 1, 2))
        out = FloatImage(network)(images)
    torch.testing.assert_close(out, raw.clamp(0, 1).permute(0, 2, 3, 1).flip(3))
    assert bool((raw < 0).any())
    assert out.is_contiguous()


def test_floats_keep_more_than_8_bits() -> None:
    images = torch.full((1, 2, 2, 3), 1000.25 / 65535)
    out = FloatImage(Colors())(images)
    torch.testing.assert_close(out[..., 1], images[..., 1], rtol=0, atol=1e-7)
    assert float(out[..., 0].max()) == 0  # blue * 2 - 0.5 is below 0


@pytest.mark.parametrize("wrapper", [ByteImage, FloatImage])
def test_half_networks_answer_in_full(wrapper: type[ByteImage] | type[FloatImage]) -> None:
    images = bytes_of(1, 3, 5, 3)
    given = images if wrapper is ByteImage else images / 255
    with torch.no_grad():
        full = wrapper(rrdbnet(2))(given)
        half = wrapper(rrdbnet(2)).half()(given)
    assert half.dtype is full.dtype
    tolerance = 1 if wrapper is ByteImage else 2e-3
    assert float((half.float() - full.float()).abs().max()) <= tolerance


@pytest.mark.parametrize("wrapper", [ByteImage, FloatImage])
def test_the_input_is_left_alone(wrapper: type[ByteImage] | type[FloatImage]) -> None:
    images = bytes_of(1, 3, 5, 3)
    given = images if wrapper is ByteImage else images / 255
    before = given.clone()
    wrapper(srvgg())(given)
    assert torch.equal(given, before)


GRAY: dict[str, Callable[[], nn.Module]] = {
    "rrdbnet": lambda: rrdbnet(2, num_in_ch=1, num_out_ch=1),
    "srvgg": lambda: srvgg(num_in_ch=1, num_out_ch=1),
}


@pytest.mark.parametrize("kind", GRAY)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5)])
def test_gray_networks_see_the_luma_and_answer_thrice(kind: str, height: int, width: int) -> None:
    """As OpenCV makes gray; on bytes it rounds the luma and the graph does not."""
    network, images = GRAY[kind](), bytes_of(2, height, width, 3)
    floats = images.numpy().astype(np.float32) / np.float32(255)
    gray = np.stack([cv2.cvtColor(one, cv2.COLOR_BGR2GRAY) for one in floats])
    with torch.no_grad():
        raw = network(torch.from_numpy(gray)[:, None])[:, 0].clamp(0, 1)
        levels = ByteImage(network)(images)
        restored = FloatImage(network)(torch.from_numpy(floats))
    assert levels.shape[-1] == restored.shape[-1] == 3
    for channel in range(3):
        torch.testing.assert_close(restored[..., channel], raw, atol=2e-6, rtol=0)
        assert float((levels[..., channel] - raw * 255).abs().max()) < 0.501


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_gray_level_survives(dtype: torch.dtype) -> None:
    class Same(nn.Module):
        num_in_ch = num_out_ch = 1

        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.ones(1, dtype=dtype))

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype is dtype
            assert x.shape[1] == 1
            return x * self.one

    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).repeat(1, 1, 1, 3)
    assert torch.equal(ByteImage(Same())(levels), levels)


@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (4, 4)])
def test_other_channels_are_refused(channels: tuple[int, int]) -> None:
    network = rrdbnet(num_in_ch=channels[0], num_out_ch=channels[1])
    with pytest.raises(CheckpointError, match=f"takes {channels[0]} and returns {channels[1]}"):
        ByteImage(network)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(1, 4, 4, 3), torch.zeros(4, 4, 3, dtype=torch.uint8), bytes_of(1, 3, 4, 4)],
)
def test_other_pictures_are_refused(images: Tensor) -> None:
    with pytest.raises(ImageError, match=r"images must (be|have)"):
        ByteImage(srvgg())(images)


@needs_animevideo
@pytest.mark.shared
def test_the_official_network_keeps_a_color() -> None:
    """Real weights, real color order: a flat image barely changes."""
    network = ByteImage(build(read_checkpoint(ANIMEVIDEO)))
    images = torch.tensor([30, 120, 220], dtype=torch.uint8).expand(1, 16, 16, 3)
    with torch.no_grad():
        out = network(images)
    inner = out[0, 24:40, 24:40].float().mean((0, 1))
    torch.testing.assert_close(inner, torch.tensor([30.0, 120.0, 220.0]), rtol=0, atol=6)
