"""Which variants of TIFF OpenCV reads correctly: all others are refused before it sees them.

libtiff ignores many tags that contradict each other, and OpenCV returns whatever is in its memory
where libtiff reports an error on standard error only. So the tags that say how pixels are stored
must agree, and the compression is one that ``tiff_strips`` can check. docs/design/files.md has the
list of what was measured.
"""

from __future__ import annotations

from resharp.images import ifd
from resharp.images.containers.info import DamagedContainerError, UnsupportedError
from resharp.images.containers.tiff_strips import (
    BITS,
    COMPRESSION,
    FILL_ORDER,
    HEIGHT,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    ROWS,
    SAMPLES,
    STRIP_SIZES,
    STRIPS,
    TILE_HEIGHT,
    TILE_SIZES,
    TILE_WIDTH,
    TILES,
    WIDTH,
)

_TILED = {TILE_WIDTH, TILE_HEIGHT, TILES}
_COLORS, _INK_SET, _EXTRA, _SAMPLE_FORMAT, _SUBSAMPLING = 320, 332, 338, 339, 530
_NUMBERS = (
    *(WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, SAMPLES, ROWS, PLANAR),
    *(PREDICTOR, _COLORS, STRIPS, STRIP_SIZES, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_SIZES),
    *(_INK_SET, _EXTRA, _SAMPLE_FORMAT, _SUBSAMPLING),
)
_INTEGERS = (ifd.BYTE, ifd.SHORT, ifd.LONG, 13, 16, 18)
_BLACK_IS_ZERO, _RGB, _PALETTE, _INKS = 1, 2, 3, 5
_NAMES = {
    0: ("white-is-zero", 1), _BLACK_IS_ZERO: ("gray", 1), _RGB: ("RGB", 3),
    _PALETTE: ("palette", 1), _INKS: ("CMYK", 4), 6: ("YCbCr", 3),
}  # fmt: skip
"""What pixels are, by photometric interpretation, and of how many channels."""
_KINDS = {1: "unsigned", 2: "signed", 3: "float"}
_LZW, _JPEG, _DEFLATE, _FAX = 5, 7, (8, 32946), (2, 3, 4, 32771)
_READ = (1, _LZW, _JPEG, *_DEFLATE, 32773, *_FAX)
_OTHERS = {
    6: "old JPEG", 9: "JBIG", 10: "JBIG", 32766: "NeXT", 32809: "ThunderScan", 32908: "PixarFilm",
    32909: "PixarLog", 33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG", 34676: "LogLuv",
    34677: "LogLuv", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 50000: "Zstandard",
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_EXTRAS = {0, 1, 2, 999}
"""Meanings of an extra channel; 999 is the straight alpha of old Corel programs."""


def predicted(page: ifd.Page) -> int:
    """Return the predictor that applies: 1 for none, 2 for differences, 3 for those of floats."""
    used = first(page, COMPRESSION, 1) in (_LZW, *_DEFLATE)
    return first(page, PREDICTOR, 1) if used else 1


def first(page: ifd.Page, tag: int, default: int) -> int:
    """Return the first integer of a tag."""
    return next(iter(page.integers(tag)), default)


def check(page: ifd.Page) -> None:
    """Refuse a page that OpenCV would read incorrectly.

    Raises:
        DamagedContainerError: its tags contradict each other.
        UnsupportedError: it is a variant outside the measured list.
    """
    for tag in _NUMBERS:
        if tag in page.values and page.values[tag][0] not in _INTEGERS:
            raise DamagedContainerError(f"the value of its tag {tag} is not an integer")
    there = page.values.keys()
    if there & _TILED and (not there >= _TILED or there & {STRIPS, STRIP_SIZES}):
        raise DamagedContainerError("its directory does not state whether it has strips or tiles")
    samples = first(page, SAMPLES, 1)
    bits = _of_all(page, BITS, "bits")
    kind = _KINDS.get(_of_all(page, _SAMPLE_FORMAT, "kinds"), "other")
    if not {"unsigned": bits <= 16, "float": bits in (32, 64)}.get(kind, False):
        raise UnsupportedError(f"{bits}-bit {kind} samples")
    planar = first(page, PLANAR, 1)
    if planar not in (1, 2):
        raise DamagedContainerError(f"its planar configuration is {planar}, which is not defined")
    _check_channels(page, bits, samples, planes=planar == 2)
    _check_colors(page, bits)
    _check_compression(page, bits, kind, samples)


def _of_all(page: ifd.Page, tag: int, what: str) -> int:
    """Return the number that a tag states for every channel; 1 if it is absent."""
    values = page.integers(tag) or (1,)
    if len(set(values)) > 1:
        raise UnsupportedError(f"channels of different {what} {values[:8]}")
    return values[0]


def _check_channels(page: ifd.Page, bits: int, samples: int, *, planes: bool) -> None:
    photometric = first(page, PHOTOMETRIC, _BLACK_IS_ZERO)
    if photometric not in (range(7) if bits <= 8 else (_BLACK_IS_ZERO, _RGB)) or photometric == 4:
        raise UnsupportedError(f"{bits} bits and photometric interpretation {photometric}")
    name, colors = _NAMES[photometric]
    extra = page.integers(_EXTRA)
    if samples < colors:
        raise DamagedContainerError(
            f"{name} needs {colors} channels, but its directory states {samples}"
        )
    if len(extra) > samples - colors or not set(extra) <= _EXTRAS:
        raise DamagedContainerError(
            f"its extra channels {extra[:8]} do not fit {samples} channels of {name}"
        )
    gray_alpha = (
        photometric == _BLACK_IS_ZERO and bits in (8, 16, 32) and not planes and not page.big
    )
    if samples not in (1, 3, 4) and not (samples == 2 and gray_alpha and extra):
        raise UnsupportedError(f"{samples} channels")
    if samples > colors and not (photometric == _RGB or (gray_alpha and samples == 2)):
        raise UnsupportedError(f"{samples} channels that are {name} with others")
    if bits > 8 and samples > 1 and planes:
        raise UnsupportedError(f"{bits} bits with one plane per channel")


def _check_colors(page: ifd.Page, bits: int) -> None:
    photometric = first(page, PHOTOMETRIC, _BLACK_IS_ZERO)
    known = page.values[_COLORS][1] if _COLORS in page.values else 0
    if photometric == _PALETTE and known < 3 << bits:
        raise DamagedContainerError(f"its palette has {known} of {3 << bits} values")
    if photometric == _INKS and first(page, _INK_SET, 1) != 1:
        raise UnsupportedError("inks other than CMYK")


def _check_compression(page: ifd.Page, bits: int, kind: str, samples: int) -> None:
    compression = first(page, COMPRESSION, 1)
    if compression in _OTHERS:
        raise UnsupportedError(
            f"{_OTHERS[compression]} compression", "Save it with LZW or deflate, or as PNG."
        )
    if compression not in _READ:
        raise DamagedContainerError(f"its compression {compression} is not known")
    if compression in _FAX and (bits, samples) != (1, 1):
        raise DamagedContainerError(f"its {samples} channels of {bits} bits are compressed as fax")
    if compression == _JPEG and bits != 8:
        raise UnsupportedError(f"JPEG compression of {bits} bits")
    predictor = predicted(page)
    if predictor not in (1, 2, 3) or (predictor == 3) > (kind == "float"):
        raise DamagedContainerError(f"its predictor {predictor} is not that of {kind} samples")
    if predictor == 2 and bits not in (8, 16, 32, 64):
        raise DamagedContainerError(f"its predictor 2 is not that of {bits} bits")
