"""Colors that a file states without an ICC profile: code points, gamma, chromaticities.

PNG has cICP, sRGB, gAMA and cHRM, AVIF and video have the code points of cICP (nclx). Other formats
get the same colors as an ICC profile (:func:`icc_profile`), or as sRGB pixels (:func:`to_srgb`).

Sources: ITU-T H.273 (code points), PNG third edition (gAMA, cHRM, sRGB, mDCV, cLLI), ICC.1:2022
(profiles), ITU-R BT.2100 (PQ and HLG), ITU-R BT.2408 (reference white).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resharp.images.picture import Pixels

REFERENCE_WHITE = 203.0
"""Luminance of diffuse white in PQ and HLG, in cd/m2 (BT.2408); it becomes white in sRGB."""

_UNSTATED = frozenset((0, 2, 3))
"""Code points that are reserved or mean "unspecified": those of sRGB are assumed."""
_SRGB, _PQ, _HLG = 13, 16, 18
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_BT709 = (*_D65, 0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
_BT601 = (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
_PRIMARIES = {
    1: ("BT.709", _BT709),
    4: ("BT.470 M", (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),
    5: ("BT.470 BG", (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),
    6: ("BT.601", _BT601),
    7: ("SMPTE 240M", _BT601),
    8: ("film", (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049)),
    9: ("BT.2020", (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    10: ("XYZ", (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0)),
    11: ("DCI P3", (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    12: ("Display P3", (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
    22: ("EBU 3213", (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077)),
}
"""Code point -> name; white, red, green, blue as x, y."""
_ADOBE_RGB = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)

# As color management does (Skia, libavif), video curves are undone as the inverse of the camera's
# curve, not as the display gamma of BT.1886. Parameters: g, a, b, c, d of the ICC's parametric
# curve, which is (a x + b)^g from d on, and c x below.
_ALPHA, _BETA = 1.09929682680944, 0.018053968510807
_BT709_CURVE = (1 / 0.45, 1 / _ALPHA, 1 - 1 / _ALPHA, 1 / 4.5, 4.5 * _BETA)
_ALPHA_240, _BETA_240 = 1.111572195921731, 0.022821585529445
_CURVES = {
    4: ("gamma 2.2", (2.2, 1.0, 0.0, 0.0, 0.0)),
    5: ("gamma 2.8", (2.8, 1.0, 0.0, 0.0, 0.0)),
    7: ("SMPTE 240M", (1 / 0.45, 1 / _ALPHA_240, 1 - 1 / _ALPHA_240, 0.25, 4 * _BETA_240)),
    8: ("gamma 1.0", (1.0, 1.0, 0.0, 0.0, 0.0)),
    _SRGB: ("sRGB curve", (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)),
    17: ("ST 428 curve", (2.6, (52.37 / 48) ** (1 / 2.6), 0.0, 0.0, 0.0)),
}
_CURVES |= dict.fromkeys((1, 6, 11, 12, 14, 15), ("BT.709 curve", _BT709_CURVE))
"""Code point -> name and parameters."""
_LOGARITHMIC = {9: ("logarithmic 100:1", 2.0), 10: ("logarithmic 316:1", 2.5)}
"""Code point -> name and decades of light."""
_BROADCAST = frozenset((1, 6, 14, 15))
"""Transfers that need no mention beside the primaries of BT.709, BT.601 and BT.2020."""

_GAMMA_TOLERANCE, _XY_TOLERANCE = 0.02, 0.005
"""Differences that do not matter: of gamma as a ratio (at most 2 of 255 levels), of x and y."""

_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D50 = np.array([0.9642, 1.0, 0.8249])
_BAND = 1 << 18
"""Pixels that are converted at a time."""

_Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class ColorSignal:
    """The meaning of an image's color values, as stated by its file outside an ICC profile.

    If several fields are set, the first of ``cicp``, ``intent``, ``gamma`` with ``chromaticities``
    decides, as in PNG.
    """

    cicp: tuple[int, int] | None = None
    """Color primaries and transfer characteristics, as code points of H.273."""

    gamma: float | None = None
    """Encoding exponent as in PNG's gAMA: 0.45455 for a display gamma of 2.2."""

    chromaticities: tuple[float, ...] | None = None
    """Eight numbers in the order of PNG's cHRM: x and y of white, red, green and blue."""

    intent: int | None = None
    """Rendering intent of PNG's sRGB chunk, 0 to 3; not None means sRGB."""

    light: tuple[tuple[str, bytes], ...] = ()
    """Names and payloads of PNG's mDCV and cLLI chunks, as they are in the file."""

    @property
    def is_srgb(self) -> bool:
        """Whether an untagged image means the same colors, because readers assume sRGB."""
        if self.cicp is not None:
            primaries, transfer = self.cicp
            return primaries in _UNSTATED | {1} and transfer in _UNSTATED | {_SRGB}
        if self.intent is not None:
            return True
        flat = self.gamma is None or abs(self.gamma * 2.2 - 1) <= _GAMMA_TOLERANCE
        return flat and (self.chromaticities is None or _close(self.chromaticities, _BT709))

    @property
    def is_hdr(self) -> bool:
        """Whether the values are PQ or HLG, which no ICC profile of this module can describe."""
        return self.cicp is not None and self.cicp[1] in (_PQ, _HLG)


def describe(signal: ColorSignal) -> str:
    """Return a short name for messages: ``Display P3``, ``BT.2020 PQ``, ``gamma 1.0``."""
    if signal.is_srgb:
        return "sRGB"
    if signal.cicp is not None:
        return _describe_cicp(*signal.cicp)
    curve = ""
    if signal.gamma is not None:
        curve = f"gamma {_short(1 / signal.gamma)}" if signal.gamma > 0 else "an invalid gamma"
    if signal.chromaticities is None or _close(signal.chromaticities, _BT709):
        return curve
    known = (("Adobe RGB", _ADOBE_RGB), *_PRIMARIES.values())
    close = (name for name, xy in known if _close(signal.chromaticities, xy))
    name = next(close, "custom primaries")
    return f"{name} ({curve})" if curve else name


def _describe_cicp(primaries: int, transfer: int) -> str:
    name = "BT.709" if primaries in _UNSTATED else f"primaries {primaries}"
    if primaries in _PRIMARIES:
        name = _PRIMARIES[primaries][0]
    if transfer in _UNSTATED or (transfer == _SRGB and primaries in (11, 12)):
        return name
    if transfer in _BROADCAST and primaries in (1, 5, 6, 9):
        return name
    special = {_PQ: "PQ", _HLG: "HLG"}
    for known in (_CURVES, _LOGARITHMIC):
        special |= {code: entry[0] for code, entry in known.items()}
    return f"{name} {special.get(transfer, f'transfer {transfer}')}"


def icc_profile(signal: ColorSignal, *, gray: bool = False) -> bytes:
    """Return an ICC profile (version 4, matrix and curves) that means the same colors.

    Args:
        signal: not HDR.
        gray: make a profile for gray images, which has no primaries.

    Returns:
        A display profile of less than 1 KiB (9 KiB for logarithmic curves). It is the same for
        the same signal.

    Raises:
        ValueError: PQ or HLG, an unknown code point, or numbers that are no colors.
    """
    tags = {
        b"desc": _multilingual(describe(signal)),
        b"cprt": _multilingual("No copyright, use freely"),
        b"wtpt": _xyz(_fixed(_D50)),
    }
    if gray:
        tags[b"kTRC"] = _curve_tag(signal)
    else:
        white, to_xyz = _to_xyz(signal)
        adaptation = _adaptation(white, _D50)
        columns = _fixed(adaptation @ to_xyz)
        # Rounding must not tint white.
        columns[:, 1] += _fixed(_D50) - columns.sum(axis=1)
        tags[b"chad"] = b"sf32" + bytes(4) + _packed(_fixed(adaptation).ravel())
        for at, color in enumerate((b"r", b"g", b"b")):
            tags[color + b"XYZ"] = _xyz(columns[:, at])
            tags[color + b"TRC"] = _curve_tag(signal)
    return _profile(tags, b"GRAY" if gray else b"RGB ")


def to_srgb(pixels: Pixels, signal: ColorSignal) -> Pixels:
    """Convert pixels to sRGB.

    PQ and HLG are shown at a reference white of 203 cd/m2 (BT.2408), which for HLG implies a
    display of 1000 cd/m2 and a system gamma of 1.2 (BT.2100). Up to 80% of white the light is
    unchanged; above, it is compressed by the curve of the Khronos PBR Neutral tone mapper (2024;
    without its Fresnel offset), so white itself arrives at 90% of the light (code 243 of 255) and
    the brightest highlight below 100%. Colors outside the gamut of sRGB are clipped.

    Args:
        pixels: gray [h,w], BGR [h,w,3] or BGRA [h,w,4] with straight alpha; uint8, uint16 or
            float32 in 0..1, with the full range of the dtype.
        signal: what the values mean.

    Returns:
        Pixels of the same shape and dtype; ``pixels`` itself if they are sRGB already.

    Raises:
        ValueError: an unknown code point, or numbers that are no colors.
    """
    if signal.is_srgb:
        return pixels
    matrix = None
    weights = None
    if pixels.ndim == 3:
        white, to_xyz = _to_xyz(signal)
        target_white, target = _matrix(_BT709)
        adapted = _adaptation(white, target_white) @ to_xyz
        matrix = np.linalg.solve(target, adapted).T.astype(np.float32)
        weights = to_xyz[1].astype(np.float32)
    table = None
    if pixels.dtype.kind == "u":
        codes = np.arange(np.iinfo(pixels.dtype).max + 1)
        table = _light(codes / codes[-1], signal).astype(np.float32)
    out = np.empty_like(pixels)
    band = max(1, _BAND // max(1, pixels.shape[1]))
    for at in range(0, len(pixels), band):
        rows = pixels[at : at + band]
        colors = rows[..., 2::-1] if matrix is not None else rows[..., None]
        if table is None:
            codes = np.clip(np.nan_to_num(colors, nan=0.0, posinf=1.0, neginf=0.0), 0, 1)
            light = _light(codes, signal).astype(np.float32)
        else:
            light = table[colors]
        if signal.cicp is not None and signal.cicp[1] == _HLG:
            luminance = light if weights is None else (light @ weights)[..., None]
            light = light * np.maximum(luminance, 0) ** np.float32(0.2)
            light *= np.float32(1000 / REFERENCE_WHITE)
        if matrix is not None:
            light = np.maximum(light @ matrix, 0)
        if signal.is_hdr:
            light = _compressed(light)
        coded = _srgb_code(np.minimum(light, 1))
        if table is not None:
            coded = np.rint(coded * np.float32(len(table) - 1))
        if matrix is None:
            out[at : at + band] = coded[..., 0]
        else:
            out[at : at + band, :, :3] = coded[..., ::-1]
            out[at : at + band, :, 3:] = rows[..., 3:]
    return out


def _light(codes: _Floats, signal: ColorSignal) -> _Floats:
    """Undo the transfer characteristics of values in 0..1.

    White is 1, except that PQ is in units of the reference white and HLG is light of the scene.
    """
    transfer = _transfer(signal)
    if transfer == _PQ:
        m1, m2 = 2610 / 16384, 2523 / 32
        c1, c2, c3 = 3424 / 4096, 2413 / 128, 2392 / 128
        root = codes.astype(np.float64) ** (1 / m2)
        fraction = np.maximum(root - c1, 0) / (c2 - c3 * root)
        return np.asarray(fraction ** (1 / m1) * (10_000 / REFERENCE_WHITE))
    if transfer == _HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12)
    if transfer in _LOGARITHMIC:
        decades = _LOGARITHMIC[transfer][1]
        return np.where(codes > 0, 10 ** (decades * (codes - 1)), 0)
    gamma, scale, offset, slope, start = _parameters(signal)
    return np.where(codes >= start, (scale * codes + offset) ** gamma, slope * codes)


def _compressed(light: _Floats) -> _Floats:
    """Compress light [..., channels] to less than 1, keeping hues and desaturating highlights."""
    start, desaturation = 0.8, 0.15
    peak = light.max(axis=-1, keepdims=True)
    above = np.maximum(peak, start)
    squeezed = 1 - (1 - start) ** 2 / (above + 1 - 2 * start)
    ratio = squeezed / above
    toward_white = 1 - 1 / (desaturation * (above - squeezed) + 1)
    mixed = light * ratio * (1 - toward_white) + squeezed * toward_white
    return np.where(peak > start, mixed, light)


def _srgb_code(light: _Floats) -> _Floats:
    curved = 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, curved)


def _transfer(signal: ColorSignal) -> int | None:
    """Return the code point of the curve; None if it is that of ``gamma``."""
    if signal.cicp is not None:
        return _SRGB if signal.cicp[1] in _UNSTATED else signal.cicp[1]
    return _SRGB if signal.intent is not None or signal.gamma is None else None


def _parameters(signal: ColorSignal) -> tuple[float, float, float, float, float]:
    """Return g, a, b, c and d of the ICC's parametric curve."""
    transfer = _transfer(signal)
    if transfer in _CURVES:
        return _CURVES[transfer][1]
    if transfer is not None:
        raise ValueError(
            f"the transfer characteristics {transfer} are unknown or not supported here"
        )
    if signal.gamma is None or not 0.01 <= signal.gamma <= 100:
        raise ValueError(f"a gamma of {signal.gamma} is not plausible")
    return 1 / signal.gamma, 1.0, 0.0, 0.0, 0.0


def _to_xyz(signal: ColorSignal) -> tuple[_Floats, _Floats]:
    """Return white, and the matrix from linear RGB, as XYZ with a luminance of 1."""
    if signal.cicp is not None:
        code = 1 if signal.cicp[0] in _UNSTATED else signal.cicp[0]
        if code not in _PRIMARIES:
            raise ValueError(f"the color primaries {code} are unknown")
        return _matrix(_PRIMARIES[code][1])
    stated = signal.chromaticities if signal.intent is None else None
    return _matrix(_BT709 if stated is None else stated)


def _matrix(chromaticities: tuple[float, ...]) -> tuple[_Floats, _Floats]:
    invalid = f"the chromaticities {chromaticities} are not colors"
    points = np.array(chromaticities, np.float64)
    if points.shape != (8,) or not np.isfinite(points).all() or points[1] < 1e-4:
        raise ValueError(invalid)
    xy = points.reshape(4, 2)
    xyz = np.column_stack((xy, 1 - xy.sum(axis=1)))
    white = xyz[0] / xyz[0, 1]
    if abs(np.linalg.det(xyz[1:])) < 1e-4:
        raise ValueError(invalid)
    scale = np.linalg.solve(xyz[1:].T, white)
    matrix = xyz[1:].T * scale
    if (scale <= 0).any() or abs(matrix).max() > 100:
        raise ValueError(invalid)
    return white, matrix


def _adaptation(white: _Floats, target: _Floats) -> _Floats:
    """Return the Bradford matrix from one white to another, both as XYZ."""
    cones = (_BRADFORD @ target) / (_BRADFORD @ white)
    return np.asarray(np.linalg.solve(_BRADFORD, cones[:, None] * _BRADFORD))


def _close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(abs(a - b) <= _XY_TOLERANCE for a, b in pairs)


def _short(value: float) -> str:
    return f"{value:.2f}".removesuffix("0")


def _fixed(values: _Floats) -> npt.NDArray[np.int64]:
    """Return numbers as s15Fixed16."""
    return np.rint(values * 65536).astype(np.int64)


def _packed(fixed: npt.NDArray[np.int64]) -> bytes:
    return fixed.astype(">i4").tobytes()


def _xyz(fixed: npt.NDArray[np.int64]) -> bytes:
    return b"XYZ " + bytes(4) + _packed(fixed)


def _multilingual(text: str) -> bytes:
    words = text.encode("utf-16-be")
    return struct.pack(">4s4xII4sII", b"mluc", 1, 12, b"enUS", len(words), 28) + words


def _curve_tag(signal: ColorSignal) -> bytes:
    transfer = _transfer(signal)
    if transfer in _LOGARITHMIC:
        table = np.rint(_light(np.linspace(0, 1, 4096), signal) * 65535).astype(">u2")
        return b"curv" + struct.pack(">4xI", len(table)) + table.tobytes()
    numbers = _parameters(signal)
    kind, used = (0, 1) if numbers[1:] == (1.0, 0.0, 0.0, 0.0) else (3, 5)
    return b"para" + struct.pack(">4xHxx", kind) + _packed(_fixed(np.array(numbers[:used])))


def _profile(tags: dict[bytes, bytes], space: bytes) -> bytes:
    """Assemble a profile; equal tags share their bytes (ICC.1 7.3)."""
    at = 132 + 12 * len(tags)
    table, data, places = struct.pack(">I", len(tags)), b"", dict[bytes, int]()
    for name, body in tags.items():
        if body not in places:
            places[body] = at + len(data)
            data += body + bytes(-len(body) % 4)
        table += name + struct.pack(">II", places[body], len(body))
    head = struct.pack(">I4xI4s4s4s", at + len(data), 0x04400000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s28x", 2026, 1, 1, 0, 0, 0, b"acsp") + _packed(_fixed(_D50))
    return head + bytes(128 - len(head)) + table + data
