"""Damage to the scans of a JPEG that libjpeg does not report; flat images have none."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from resharp.errors import ImageError
from resharp.images import decode
from resharp.images.containers import jpeg_scans
from tests.images import test_samples as samples
from tests.images.test_samples import encoded, photo

Array = NDArray[Any]
END = b"\xff\xd9"
HINT = "or use `allow_truncated` to restore the readable part"
OPTIMIZED = (cv2.IMWRITE_JPEG_OPTIMIZE, 1)
PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
FULL_COLOR = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
KINDS = [(), OPTIMIZED, RESTARTS, FULL_COLOR]


def detailed(height: int = 160, width: int = 176) -> Array:
    soft = photo(height, width).astype(np.int16) + samples.noise(height, width, 3) // 8
    return np.asarray(soft.clip(0, 255), np.uint8)


def first_scan(data: bytes) -> int:
    return data.index(b"\xff\xda") + 14


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("quality", [60, 95])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_scan_that_was_closed_early_is_truncated(
    how: tuple[int, ...], quality: int, share: float
) -> None:
    data = encoded(".jpg", detailed(), cv2.IMWRITE_JPEG_QUALITY, quality, *how)
    cut = data[: int(len(data) * share)].rstrip(b"\xff") + END
    with pytest.raises(ImageError, match=HINT):
        decode(cut)
    found = decode(cut, allow_truncated=True)
    assert found.metadata.lost[0].startswith("the file is truncated: at least the last ")
    assert len(found.metadata.lost) == 1


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_progressive_image_without_its_last_scans_is_truncated(share: float) -> None:
    data = encoded(".jpg", detailed(), *PROGRESSIVE)
    cut = data[: int(len(data) * share)].rstrip(b"\xff") + END
    with pytest.raises(ImageError, match=f"its last scans are missing.*{HINT}"):
        decode(cut)
    assert len(decode(cut, allow_truncated=True).metadata.lost) == 1


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_sector_of_zeros_is_damage(how: tuple[int, ...], share: float) -> None:
    data = encoded(".jpg", detailed(), *how)
    at = first_scan(data) + int((len(data) - first_scan(data) - 600) * share)
    bad = data[:at] + bytes(512) + data[at + 512 :]
    wanted = "restart markers" if how == RESTARTS else "is overwritten with zeros"
    with pytest.raises(ImageError, match=f"damaged JPEG file: .*{wanted}"):
        decode(bad, allow_truncated=True)


def test_restart_markers_count() -> None:
    data = encoded(".jpg", detailed(), *RESTARTS)
    found = [at for at in range(first_scan(data), len(data)) if 0xD0 <= data[at] <= 0xD7]
    places = [at for at in found if data[at - 1] == 0xFF]
    assert len(places) == 10 * 11 // 4
    decode(data)
    decode(data[:-2] + bytes((0xFF, 0xD0 + len(places) % 8)) + END)  # one more at the end
    lost = data[: places[3] - 1] + data[places[4] - 1 :]
    swapped = bytearray(data)
    swapped[places[3]], swapped[places[4]] = swapped[places[4]], swapped[places[3]]
    with pytest.raises(ImageError, match="ends early, after 10 of 27 restart markers"):
        decode(data[: places[10] - 1] + END)
    for bad in (lost, bytes(swapped)):
        with pytest.raises(ImageError, match="its restart markers are not 27 in order"):
            decode(bad)


@pytest.mark.parametrize("how", [*KINDS, PROGRESSIVE, (*PROGRESSIVE, *RESTARTS)])
@pytest.mark.parametrize("quality", [1, 50, 90, 100])
def test_flat_images_are_sound(how: tuple[int, ...], quality: int) -> None:
    """Gray areas look like missing data, and their codes can be zeros throughout."""
    pictures: list[Array] = [np.full((1, 1, 3), 128, np.uint8), np.full((9, 300, 3), 128, np.uint8)]
    for level in (0, 127, 128, 129, 255):
        picture = detailed()
        picture[50:] = level
        pictures += [picture, np.full((150, 90, 3), level, np.uint8), picture[..., 0].copy()]
    nearly = detailed()
    nearly[50:] = 128 + (samples.noise(110, 176, 1) < 20)
    for picture in (*pictures, nearly):
        decode(encoded(".jpg", picture, cv2.IMWRITE_JPEG_QUALITY, quality, *how))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize(
    "how",
    [
        {"optimize": True},
        {"progressive": True, "restart_marker_rows": 1},
        {"restart_marker_blocks": 3},
        {"subsampling": 0},
        {"subsampling": "4:1:1"},
    ],
)
def test_files_of_pillow_are_sound(mode: str, how: dict[str, Any]) -> None:
    import io

    image = pytest.importorskip("PIL.Image")
    for height, width in ((1, 1), (17, 9), (99, 131)):
        file = io.BytesIO()
        image.fromarray(detailed()[:height, :width].copy()).convert(mode).save(file, "JPEG", **how)
        decode(file.getvalue())


def test_headers_that_contradict_themselves_are_damage() -> None:
    data = encoded(".jpg", detailed(), *RESTARTS)
    for seed in range(60):
        random = np.random.default_rng(seed)
        bad = bytearray(data)
        for at in random.integers(2, first_scan(data), 3):
            bad[at] = random.integers(256)
        try:
            decode(bytes(bad))
        except ImageError:
            continue


def test_the_check_reads_a_large_file_quickly() -> None:
    """It searches for markers and does not decode."""
    data = encoded(".jpg", np.tile(detailed(), (12, 12, 1)))
    assert len(list(jpeg_scans._scans(data))) == 1
    assert jpeg_scans.check(data) is data


@pytest.mark.parametrize("how", [(), RESTARTS, PROGRESSIVE])
def test_scans_that_repeat_each_other_are_damage(how: tuple[int, ...]) -> None:
    data = encoded(".jpg", detailed(), *how)
    start = data.index(b"\xff\xda")
    end = data.find(b"\xff\xc4", start)
    scan = data[start : end if end > 0 else -2]
    with pytest.raises(ImageError, match="its scans repeat each other"):
        decode(data[:start] + scan + data[start:])


def test_a_color_that_has_no_scan_is_missing() -> None:
    data = encoded(".jpg", detailed(), *FULL_COLOR)
    start = data.index(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + data[first_scan(data) :]
    with pytest.raises(ImageError, match=f"its last scans are missing.*{HINT}"):
        decode(data[:start] + scan)
