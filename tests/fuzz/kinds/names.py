"""Unusual names of files and folders, for ``resharp upscale``."""

from __future__ import annotations

from random import Random

import cv2
import numpy as np

from tests.fuzz.model import MODEL, SCALE, USE, bundle, inside
from tests.fuzz.trials import Material, Trial

PARTS = (
    *("a", "b", " ", ".", "..", "-", "--", "~", "%06d", "%", "*", "?", "[a]", "{b}", "$HOME", "'"),
    *('"', "\\", ":", "|", "#", "&", "`quality`", "\n", "\t", "\r", "\x1b[31m", "\x7f", "\x9b"),
    *("\udcff", "\udc80\udc81", "\N{SNOWMAN}", "e\N{COMBINING ACUTE ACCENT}", "\u202e", "\ufeff"),
    *("\N{CJK UNIFIED IDEOGRAPH-65E5}" * 40, "x" * 120, "CON", ".part", ".png"),
)
LONGEST = 255
"""Bytes of a name that file systems take."""


class Names:
    """One valid image under an odd name."""

    name = "names"
    share = 0.3

    def material(self) -> Material:
        """Return an image and the model."""
        image = np.full((9, 12, 3), (30, 90, 200), np.uint8)
        return {"in.png": cv2.imencode(".png", image)[1].tobytes(), **inside(MODEL, bundle())}

    def trial(self, random: Random, material: Material) -> Trial:
        """Restore it in a folder, by its name, or to an odd name."""
        name, folder, other = f"{_odd(random)}.png", _odd(random), _odd(random)
        source = f"{folder}/{name}"
        given = {name: data for name, data in material.items() if name.startswith(MODEL)}
        command = random.choice(
            (
                ("upscale", f"./{folder}", "-o", "out/"),
                ("upscale", f"./{source}", "-o", "out/"),
                ("upscale", f"./{source}", "-o", "out/", "--suffix", other),
                ("upscale", f"./{source}", "-o", f"out/{other}.png"),
                ("upscale", f"./{folder}", "-o", f"out/{other}/", "--json"),
                ("upscale", source, "-o", "out/"),
            )
        )
        return Trial(
            files={source: material["in.png"], **given},
            command=(*command, *USE),
            source=source,
            output="out",
            made="image",
            scale=SCALE,
            codes=(0, 1, 2),
            lines=False,
        )


def _odd(random: Random) -> str:
    """Return a name that a folder may hold."""
    text = "".join(random.choice(PARTS) for _ in range(random.choice((1, 1, 2, 3))))
    while len(text.encode("utf-8", "surrogateescape")) > LONGEST - len(".png"):
        text = text[:-1]
    return text if text not in (".", "..", MODEL, "out") else f"{text}x"
