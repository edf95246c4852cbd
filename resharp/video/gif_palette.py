"""Palettes of GIF frames.

A palette is kept from frame to frame as long as it serves, since a new one makes still areas
flicker. Measured on eight enlarged photos (docs/design/video.md): median cut with k-means, as here,
against FFmpeg's palettegen and paletteuse.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from resharp.opencv import cv2
from resharp.optional import require
from resharp.types import Image

COLORS = 255
"""Colors of a palette; the last entry is transparent."""
_SAMPLE = 1 << 16
"""Pixels of a frame that a palette is made from, at most."""
_WORSE = 1.5
"""How much larger than at first the error may become until a new palette is made."""
_FLAT_COLORS, _FLAT_SHARE = 32, 0.002
"""Most colors that are kept exactly, and the share of the frame that each of them covers."""
_SLACK = 1.0
"""Mean square error, in levels of 255, that is always accepted."""


class GifColors:
    """Reduces the frames of an animation to palettes."""

    def __init__(self) -> None:
        self._pil = require("PIL.Image", feature="GIF output", extra="video", package="pillow")
        self._palette: Image | None = None
        """Colors in use, RGB ``[n, 3]``; None at the start."""
        self._error = 0.0
        """Error of the palette in the frame that it was made from."""
        self.exact = True
        """Whether all colors so far were kept exactly."""

    def indexed(self, image: Image) -> tuple[Image, Image]:
        """Return the palette indices ``[h, w]`` of a frame, and its palette.

        Args:
            image: BGR or BGRA ``[h, w, c]``, uint8; alpha below 128 becomes transparent.

        Returns:
            uint8 indices, and the palette as ARGB ``[256, 4]``; entry 255 is transparent.
        """
        clear = image[..., 3] < 128 if image.shape[2] == 4 else None
        colors = np.ascontiguousarray(image[..., 2::-1])
        if clear is not None and clear.any():
            shown = colors[~clear]
            colors[clear] = shown[0] if len(shown) else 0
        indices = self._exactly(colors)
        if indices is None:
            indices = self._dithered(colors)
        if clear is not None:
            indices[clear] = COLORS
        assert self._palette is not None
        palette = np.zeros((256, 4), np.uint8)
        palette[:COLORS, 0] = 255
        palette[: len(self._palette), 1:] = self._palette
        return indices, palette

    def _exactly(self, colors: Image) -> Image | None:
        """Return the indices of a frame with few colors; None if it has too many."""
        found = self._pil.fromarray(colors).getcolors(COLORS)
        if found is None:
            return None
        names = np.array(sorted(_packed(np.array([color for _, color in found], np.uint8))))
        known = None if self._palette is None else _packed(self._palette)
        if known is None or not np.isin(names, known).all():
            self._palette, self._error = _unpacked(names), 0.0
        return self._places(_packed(colors))[0]

    def _places(self, packed: Image) -> tuple[Image, Image]:
        """Return the palette indices of packed colors, and where these are exact."""
        assert self._palette is not None
        known = _packed(self._palette)
        order = np.argsort(known, kind="stable")
        found = order[np.minimum(np.searchsorted(known, packed, sorter=order), len(known) - 1)]
        return found.astype(np.uint8), known[found] == packed

    def _dithered(self, colors: Image) -> Image:
        self.exact = False
        indices = self._nearest(colors)
        # Pillow compares only the upper six bits of a color, which would tint flat areas.
        places, exact = self._places(_packed(colors))
        return np.where(exact, places, indices)

    def _nearest(self, colors: Image) -> Image:
        image = self._pil.fromarray(colors)
        if self._palette is not None:
            indices, error = self._mapped(image, colors, self._palette)
            if error <= self._error * _WORSE + _SLACK:
                return indices
        step = max(int(np.ceil(np.sqrt(colors.shape[0] * colors.shape[1] / _SAMPLE))), 1)
        sample = self._pil.fromarray(np.ascontiguousarray(colors[::step, ::step]))
        made = sample.quantize(COLORS, method=self._pil.Quantize.MEDIANCUT, kmeans=1)
        palette = np.array(made.getpalette("RGB"), np.uint8).reshape(-1, 3)[:COLORS]
        self._palette = _snapped(palette, _flat(_packed(colors[::step, ::step])))
        indices, self._error = self._mapped(image, colors, self._palette)
        return indices

    def _mapped(self, image: Any, colors: Image, palette: Image) -> tuple[Image, float]:
        """Return dithered indices of a frame, and the mean square error of its 4x4 blocks."""
        holder = self._pil.new("P", (1, 1))
        holder.putpalette(palette.tobytes())
        made = image.quantize(palette=holder, dither=self._pil.Dither.FLOYDSTEINBERG)
        indices = np.array(made)
        size = (max(colors.shape[1] // 4, 1), max(colors.shape[0] // 4, 1))
        small = [
            cv2.resize(one, size, interpolation=cv2.INTER_AREA).astype(np.float32)
            for one in (colors, palette[np.minimum(indices, len(palette) - 1)])
        ]
        return indices, float(((small[0] - small[1]) ** 2).mean())


def _flat(sample: Image) -> Image:
    """Return the packed colors of the flat areas of a sample ``[h, w]``, sorted."""
    names, counts = np.unique(sample, return_counts=True)
    common = np.argsort(counts, kind="stable")[::-1][:_FLAT_COLORS]
    return np.sort(names[common][counts[common] >= sample.size * _FLAT_SHARE])


def _snapped(palette: Image, names: Image) -> Image:
    """Move the colors of a palette that are nearest to given ones there, e.g. to pure white."""
    for color in _unpacked(names):
        distances = ((palette.astype(np.int32) - color) ** 2).sum(axis=1)
        palette[distances.argmin()] = color
    return palette


def _packed(colors: Image) -> Image:
    """Return each RGB color as one number."""
    wide = colors.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


def _unpacked(names: Image) -> Image:
    """Return the RGB colors ``[n, 3]`` of packed ones."""
    return np.stack([names >> 16, names >> 8 & 255, names & 255], axis=1).astype(np.uint8)
