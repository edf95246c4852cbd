"""The journal next to results, for a second run over a folder."""

from __future__ import annotations

import json
from random import Random

import cv2
import numpy as np

from tests.fuzz.model import MODEL, SCALE, USE, bundle, inside
from tests.fuzz.mutators import mutated, mutated_json
from tests.fuzz.trials import Material, Trial


class Journals:
    """One mutated journal: results may be made again or refused, and nothing else may be lost."""

    name = "journals"
    share = 0.5

    def material(self) -> Material:
        """Return an image, its result, a file of the user's, and the journal of a run."""
        from resharp.fsutil import sha256_of

        image = np.full((16, 20, 3), (30, 90, 200), np.uint8)
        small = cv2.imencode(".png", image)[1].tobytes()
        large = cv2.imencode(".png", cv2.resize(image, (40, 32)))[1].tobytes()
        entry = {
            "v": 1,
            "target": "in.png",
            "source": "../given/in.png",
            "key": "0" * 64,
            "input_sha256": sha256_of(small),
            "input_size": len(small),
            "input_mtime_ns": 1_700_000_000_000_000_000,
            "output_sha256": sha256_of(large),
            "output_size": len(large),
            "output_mtime_ns": 1_700_000_000_000_000_000,
        }
        images = {"in.png": small, "out.png": large}
        return {**images, "line": json.dumps(entry).encode(), **inside(MODEL, bundle())}

    def trial(self, random: Random, material: Material) -> Trial:
        """Run over a folder whose results are there, were changed, or are not there."""
        line = material["line"]
        lines = [line, mutated_json(random, line), line][random.randrange(2) :]
        journal = b"\n".join(lines) + (b"\n" if random.random() < 0.8 else b"")
        if random.random() < 0.4:
            journal = mutated(random, journal, journal, None, None)
        files = {
            **{name: data for name, data in material.items() if name.startswith(MODEL)},
            "given/in.png": material["in.png"],
            "out/other.png": material["in.png"],
            "out/.resharp/journal.jsonl": journal,
        }
        if random.random() < 0.6:
            files["out/in.png"] = material["out.png"]
        overwrite = ("--overwrite",) if random.random() < 0.3 else ()
        return Trial(
            files=files,
            command=("upscale", "given", "-o", "out", *USE, *overwrite),
            scale=SCALE,
            source="given/in.png",
            named="in.png",
            output="out",
            may_change=("out/.resharp/journal.jsonl", "out/in.png"),
        )
