"""GFPGANer over the face runtime, with a network that paints faces gray."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from resharp.compat import GFPGANer, RealESRGANer, gfpgan
from resharp.engines import Bundle
from resharp.errors import ImageError, OptionError
from resharp.faces import Face, FaceRestorer
from resharp.faces.alignment import TEMPLATE
from tests.compat.reference import Image, picture

PAINT = 90


def network(faces: Image, fidelity: float) -> Image:
    return np.full_like(faces, PAINT)


def faces_at(*corners: tuple[float, float]) -> tuple[Face, ...]:
    """Upright faces whose crops are 128 pixels wide, by the crops' corners (x, y)."""
    return tuple(Face(landmarks=TEMPLATE / 4 + np.array(at), score=1.0) for at in corners)


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, compact: Bundle) -> Any:
    """Makes one, with a detector that finds two faces."""

    def restorer(bundle: Bundle, device: str) -> FaceRestorer:
        return FaceRestorer(network, detector=lambda image: faces_at((10, 10), (150, 60)))

    monkeypatch.setattr(gfpgan, "_restorer", restorer)
    return lambda **options: GFPGANer(compact, **options)


def test_faces_are_cut_out_restored_and_pasted(make: Any) -> None:
    img = picture("bgr", 200, 300)
    cropped, restored, out = make(upscale=2).enhance(img)
    assert len(cropped) == len(restored) == 2
    assert {face.shape for face in (*cropped, *restored)} == {(512, 512, 3)}
    assert all((face == PAINT).all() for face in restored)
    assert cropped[0].std() > 8
    assert out.shape == (400, 600, 3)
    assert out.dtype == np.uint8
    assert (out[2 * 70 : 2 * 78, 2 * 70 : 2 * 78] == PAINT).all()  # within the first face
    plain = make(upscale=2)
    plain._restorer._detector = lambda image: ()
    background = plain.enhance(img)[2]
    assert np.array_equal(out[:, 570:], background[:, 570:])


def test_only_the_face_in_the_middle(make: Any) -> None:
    cropped, _, _ = make().enhance(picture("bgr", 200, 300), only_center_face=True)
    assert len(cropped) == 1


def test_without_pasting_there_is_no_picture(make: Any) -> None:
    cropped, _, out = make().enhance(picture("bgr", 200, 300), paste_back=False)
    assert len(cropped) == 2
    assert out is None


def test_an_aligned_face(make: Any) -> None:
    cropped, restored, out = make().enhance(picture("bgr", 100, 100), has_aligned=True)
    assert out is None
    assert cropped[0].shape == (512, 512, 3)
    assert (restored[0] == PAINT).all()


@pytest.mark.parametrize(("kind", "channels"), [("gray", 1), ("bgr", 3), ("bgra", 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_the_background_is_the_upsamplers(
    kind: str, channels: int, dtype: str, make: Any, compact: Bundle
) -> None:
    img = picture(kind, 200, 300, dtype)
    background = RealESRGANer(2, compact, device="cpu")
    _, restored, out = make(upscale=3, bg_upsampler=background).enhance(img)
    expected, _ = background.enhance(img, outscale=3)
    assert restored[0].dtype == np.uint8
    assert (out.shape, out.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(out[:, 870:], expected[:, 870:])
    assert not np.array_equal(out, expected)


def test_bad_options(make: Any) -> None:
    with pytest.raises(OptionError, match="arch"):
        make(arch="bilinear")
    with pytest.raises(OptionError, match="upscale"):
        make(upscale=0)
    with pytest.raises(OptionError, match="weight"):
        make().enhance(picture("bgr"), weight=2)
    with pytest.raises(ImageError):
        make().enhance(None)


@pytest.mark.parametrize("upscale", [None, "2", 0, -1, float("nan"), 99])
def test_upscales_that_are_none(upscale: Any) -> None:
    with pytest.raises(OptionError, match="upscale"):
        GFPGANer("nothing.pth", upscale=upscale)
