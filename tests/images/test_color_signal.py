"""Colors without ICC: published values of PQ and HLG, and LittleCMS against our own conversion."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from resharp.images.color_signal import ColorSignal, describe, icc_profile, to_srgb
from resharp.images.formats import choose
from resharp.images.picture import Metadata
from resharp.images.transfer import fit
from tests.images.test_samples import noise

Array = npt.NDArray[Any]

BT709 = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
PQ, HLG = ColorSignal(cicp=(9, 16)), ColorSignal(cicp=(9, 18))
SDR = [
    *(ColorSignal(cicp=(primaries, 13)) for primaries in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22)),
    *(ColorSignal(cicp=(12, transfer)) for transfer in (1, 4, 5, 6, 7, 8, 9, 10, 14, 15, 17)),
    ColorSignal(cicp=(9, 2)),
    ColorSignal(gamma=1.0),
    ColorSignal(gamma=1 / 1.8),
    ColorSignal(gamma=0.45455, chromaticities=ADOBE),
    ColorSignal(chromaticities=ADOBE),
]


def lcms(pixels: Array, profile: bytes) -> Array:
    """Convert RGB or gray pixels to sRGB by LittleCMS."""
    exact = ImageCms.Flags.NOOPTIMIZE | ImageCms.Flags.HIGHRESPRECALC
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        "RGB" if pixels.ndim == 3 else "L",
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=exact,
    )
    converted = ImageCms.applyTransform(Image.fromarray(pixels), transform)
    assert converted is not None
    return np.asarray(converted).astype(int)


@pytest.mark.parametrize("signal", SDR, ids=describe)
def test_a_profile_means_the_same_to_littlecms(signal: ColorSignal) -> None:
    rgb = noise(48, 48, 3)
    ours = to_srgb(np.ascontiguousarray(rgb[..., ::-1]), signal)[..., ::-1]
    profile = icc_profile(signal)
    assert np.abs(lcms(rgb, profile) - ours).max() <= 1
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    seen = lcms(gray, icc_profile(signal, gray=True))
    assert np.abs(seen[..., 1] - to_srgb(gray, signal)).max() <= 1
    assert np.ptp(seen, axis=-1).max() == 0
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    assert name.strip() == describe(signal)


@pytest.mark.parametrize("signal", SDR, ids=describe)
@pytest.mark.parametrize("gray", [False, True])
def test_a_profile_is_small_and_carried(signal: ColorSignal, gray: bool) -> None:
    profile = icc_profile(signal, gray=gray)
    assert len(profile) < (9_000 if signal.cicp and signal.cicp[1] in (9, 10) else 800)
    pixels = noise(4, 4) if gray else noise(4, 4, 3)
    _, kept, notes = fit(pixels, Metadata(icc=profile), choose("jpeg"))
    assert (kept.icc, notes) == (profile, [])
    assert icc_profile(signal, gray=gray) == profile


def test_profiles_have_the_published_colorants_of_display_p3() -> None:
    """Apple's profile of that name: colorants adapted to D50, and white exactly D50."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile(ColorSignal(cicp=(12, 13))))).profile
    assert profile.red_colorant is not None
    assert profile.green_colorant is not None
    assert profile.blue_colorant is not None
    columns = [profile.red_colorant[0], profile.green_colorant[0], profile.blue_colorant[0]]
    expected = [
        (0.51512, 0.2412, -0.00105),
        (0.29198, 0.69225, 0.04189),
        (0.1571, 0.06657, 0.78407),
    ]
    np.testing.assert_allclose(columns, expected, atol=3e-4)
    np.testing.assert_allclose(np.sum(columns, axis=0), (0.9642, 1, 0.8249), atol=2e-5)


def linear(values: Array) -> Array:
    """Undo sRGB, written here once more."""
    values = np.asarray(values, np.float64)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def shown(signal: ColorSignal, *rgb: float) -> Array:
    """Linear light in sRGB, as RGB, of one color in 0..1."""
    out = to_srgb(np.array([[rgb[::-1]]], np.float32), signal)[0, 0, ::-1]
    return linear(out)


# ST 2084: codes, and their luminance in cd/m2.
PQ_CODES = [(0.0623, 0.1), (0.1499, 1), (0.2994, 10), (0.5081, 100)]


@pytest.mark.parametrize(("code", "luminance"), PQ_CODES)
def test_pq_shows_the_luminance_below_the_shoulder(code: float, luminance: float) -> None:
    np.testing.assert_allclose(shown(PQ, code, code, code), luminance / 203, rtol=0.01)


@pytest.mark.parametrize("signal", [PQ, HLG])
def test_reference_white_is_neutral_and_bright(signal: ColorSignal) -> None:
    code = 0.5807 if signal is PQ else 0.75
    white = shown(signal, code, code, code)
    np.testing.assert_allclose(white, 0.9, atol=0.002)
    gray = to_srgb(np.full((1, 1), code, np.float32), signal)
    assert linear(gray)[0, 0] == pytest.approx(0.9, abs=0.002)


def test_hlg_follows_its_system_gamma() -> None:
    """BT.2100: at 1000 cd/m2, code 0.5 is 1/12 of the scene's light to the power of 1.2."""
    expected = 1000 * (1 / 12) ** 1.2 / 203
    np.testing.assert_allclose(shown(HLG, 0.5, 0.5, 0.5), expected, rtol=0.005)
    assert shown(HLG, 0, 0, 0).max() == 0


@pytest.mark.parametrize("signal", [PQ, HLG])
def test_highlights_stay_in_order_and_below_full(signal: ColorSignal) -> None:
    ramp = np.linspace(0, 1, 1001, dtype=np.float32)[None]
    out = to_srgb(ramp, signal)[0]
    assert out[0] == 0
    assert (np.diff(out) >= 0).all()
    assert (np.diff(out[20:]) > 0).all()
    assert 0.99 < out[-1] <= 1


def test_the_curve_has_no_step_where_it_begins() -> None:
    codes = np.linspace(0.5, 0.6, 4001, dtype=np.float32)[None]
    light = linear(to_srgb(codes, PQ)[0])
    assert np.abs(np.diff(light)).max() < 3 * np.diff(light).mean()


def test_colors_keep_their_place_in_the_gamut() -> None:
    """A red of BT.709, written as BT.2020 PQ by the matrix of BT.2087, is that red again."""
    to_2020 = np.array(
        [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
    )
    light = np.array([0.5, 0.05, 0.1])
    fraction = (to_2020 @ light * 203 / 10_000) ** (2610 / 16384)
    codes = ((3424 / 4096 + 2413 / 128 * fraction) / (1 + 2392 / 128 * fraction)) ** (2523 / 32)
    np.testing.assert_allclose(shown(PQ, *codes), light, atol=0.002)


def test_a_color_outside_the_gamut_is_clipped_and_not_wrapped() -> None:
    green = to_srgb(np.array([[[0, 255, 0]]], np.uint8), ColorSignal(cicp=(9, 13)))
    assert green.tolist() == [[[0, 255, 0]]]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("signal", [PQ, HLG, ColorSignal(cicp=(12, 13))], ids=describe)
def test_shape_dtype_and_alpha_stay(
    signal: ColorSignal, shape: tuple[int, ...], dtype: str
) -> None:
    pixels = noise(*shape, dtype=dtype)
    before = pixels.copy()
    out = to_srgb(pixels, signal)
    assert (out.shape, out.dtype) == (pixels.shape, pixels.dtype)
    np.testing.assert_array_equal(pixels, before)
    if len(shape) == 3:
        np.testing.assert_array_equal(out[..., 3:], pixels[..., 3:])
    top = 1.0 if dtype == "float32" else float(np.iinfo(dtype).max)
    as_float = to_srgb((pixels / top).astype(np.float32), signal)
    np.testing.assert_allclose(out / top, as_float, atol=0.51 / top if top > 1 else 0)


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(9, 5, 3, dtype="uint16")
    whole = to_srgb(pixels, HLG)
    monkeypatch.setattr("resharp.images.color_signal._BAND", 10)
    np.testing.assert_array_equal(to_srgb(pixels, HLG), whole)


def test_odd_floats_become_colors() -> None:
    pixels = np.array([[np.nan, -1, 2, np.inf, -np.inf]], np.float32)
    assert np.isfinite(to_srgb(pixels, PQ)).all()


SRGB = [
    ColorSignal(),
    ColorSignal(intent=0),
    ColorSignal(intent=3, gamma=0.45455, chromaticities=BT709),
    ColorSignal(gamma=0.45455),
    ColorSignal(gamma=0.45455, chromaticities=BT709),
    ColorSignal(gamma=0.45, chromaticities=BT709),
    ColorSignal(cicp=(1, 13)),
    ColorSignal(cicp=(2, 2)),
    ColorSignal(cicp=(1, 2)),
    ColorSignal(cicp=(1, 13), gamma=1.0),
]
OTHERS = {
    ColorSignal(cicp=(12, 13)): "Display P3",
    ColorSignal(cicp=(12, 13), intent=0): "Display P3",
    PQ: "BT.2020 PQ",
    HLG: "BT.2020 HLG",
    ColorSignal(cicp=(1, 1)): "BT.709",
    ColorSignal(cicp=(9, 14)): "BT.2020",
    ColorSignal(cicp=(2, 16)): "BT.709 PQ",
    ColorSignal(cicp=(1, 8)): "BT.709 gamma 1.0",
    ColorSignal(cicp=(99, 98)): "primaries 99 transfer 98",
    ColorSignal(gamma=0.45455, chromaticities=ADOBE): "Adobe RGB (gamma 2.2)",
    ColorSignal(gamma=1.0): "gamma 1.0",
    ColorSignal(gamma=1 / 1.85): "gamma 1.85",
    ColorSignal(gamma=0.0): "an invalid gamma",
    ColorSignal(
        gamma=0.45455, chromaticities=(0.3, 0.3, *ADOBE[2:])
    ): "custom primaries (gamma 2.2)",
}


@pytest.mark.parametrize("signal", SRGB)
def test_what_readers_assume_is_srgb(signal: ColorSignal) -> None:
    assert signal.is_srgb
    assert not signal.is_hdr
    assert describe(signal) == "sRGB"
    pixels = noise(2, 3, 3)
    assert to_srgb(pixels, signal) is pixels


@pytest.mark.parametrize(("signal", "name"), OTHERS.items(), ids=OTHERS.values())
def test_other_colors_have_a_name(signal: ColorSignal, name: str) -> None:
    assert not signal.is_srgb
    assert signal.is_hdr is (signal in (PQ, HLG, ColorSignal(cicp=(2, 16))))
    assert describe(signal) == name


INVALID = [
    ColorSignal(cicp=(99, 13)),
    ColorSignal(cicp=(9, 98)),
    ColorSignal(gamma=0.0),
    ColorSignal(gamma=-1.0),
    ColorSignal(gamma=float("nan")),
    ColorSignal(gamma=1.0, chromaticities=(0.0,) * 8),
    ColorSignal(gamma=1.0, chromaticities=(0.3, 0.3, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3)),
    ColorSignal(gamma=1.0, chromaticities=(0.3, 0.3)),
    ColorSignal(gamma=1.0, chromaticities=(0.9, 0.9, *ADOBE[2:])),
]


@pytest.mark.parametrize("signal", INVALID)
def test_what_is_no_color_is_a_value_error(signal: ColorSignal) -> None:
    assert describe(signal)
    with pytest.raises(ValueError, match=r"color|gamma|transfer"):
        icc_profile(signal)
    with pytest.raises(ValueError, match=r"color|gamma|transfer"):
        to_srgb(noise(2, 2, 3), signal)


@pytest.mark.parametrize("signal", [PQ, HLG])
def test_no_profile_pretends_to_describe_hdr(signal: ColorSignal) -> None:
    with pytest.raises(ValueError, match="transfer characteristics"):
        icc_profile(signal)


@settings(max_examples=200, deadline=None)
@given(
    cicp=st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255)),
    gamma=st.none() | st.floats(),
    chromaticities=st.none() | st.tuples(*[st.floats(-1, 2)] * 8),
)
def test_no_signal_raises_anything_else(
    cicp: tuple[int, int] | None, gamma: float | None, chromaticities: tuple[float, ...] | None
) -> None:
    signal = ColorSignal(cicp=cicp, gamma=gamma, chromaticities=chromaticities)
    assert describe(signal).isascii()
    for work in (icc_profile, lambda each: to_srgb(noise(2, 2, 3), each)):
        try:
            work(signal)
        except ValueError:
            continue
