"""Manifests of bundles, sidecars of engines and of imported checkpoints."""

from __future__ import annotations

import json
from random import Random

import cv2
import numpy as np

from tests.fuzz.model import SCALE, bundle, inside
from tests.fuzz.mutators import mutated_json
from tests.fuzz.trials import Material, Trial

BUNDLE = "store/mine"
EXTRA = [{"name": "strength", "default": 0.5, "low": 0.0, "high": 1.0}]
TUNINGS = [{"backend": "onnx", "device": "x", "tile": 64, "batch": 2, "threads": 1}]
COMMANDS = {
    "upscale": ("upscale", "in.png", "-o", "out", "-m", BUNDLE, "--backend", "onnx"),
    "info": ("info", BUNDLE),
    "list": ("models", "list", "--store", "store"),
    "verify": ("models", "verify", "mine", "--store", "store"),
    "engines": ("engines", "list", "--store", "store", "--json"),
    "hashes": ("engines", "verify", "--store", "store"),
}
CHECKPOINT = {
    "schema": 1,
    "name": "mine",
    "title": "imported from mine.pth",
    "task": "upscale",
    "architecture": "SRVGGNetCompact",
    "parameters": {"num_feat": 4, "num_conv": 1, "upscale": 2},
    "scale": 2,
    "file": "local/mine-0123456789abcdef.pth",
    "bytes": 100,
    "sha256": "0123456789abcdef" * 4,
    "license": "unknown",
}


class Manifests:
    """One mutated description of a model."""

    name = "manifests"
    share = 1.0

    def material(self) -> Material:
        """Return a bundle as an export writes it, and sidecars of an engine and a checkpoint."""
        files = bundle("mine")
        manifest = json.loads(files.pop("manifest.json"))
        image = np.full((16, 20, 3), (30, 90, 200), np.uint8)
        key, engine = _engine(manifest)
        return {
            **inside(BUNDLE, files),
            "manifest": json.dumps(manifest).encode(),
            "more": json.dumps({**manifest, "extra": EXTRA, "tunings": TUNINGS}).encode(),
            "engine": engine,
            "key": key.encode(),
            "checkpoint": json.dumps(CHECKPOINT).encode(),
            "in.png": cv2.imencode(".png", image)[1].tobytes(),
        }

    def trial(self, random: Random, material: Material) -> Trial:
        """Restore, list or verify with a mutated description."""
        which = random.choice(("manifest", "manifest", "manifest", "more", "engine", "checkpoint"))
        changed = mutated_json(random, material[which])
        if which == "checkpoint":
            return _local(random, changed)
        files = {name: data for name, data in material.items() if name.startswith(BUNDLE)}
        files["in.png"] = material["in.png"]
        chosen = random.choice(("upscale", "upscale", *COMMANDS))
        if which == "engine":
            chosen = random.choice(("engines", "hashes"))
            stem = f"{BUNDLE}/engines/{material['key'].decode()}"
            files |= {f"{stem}.engine": b"an engine", f"{stem}.json": changed}
        files[f"{BUNDLE}/manifest.json"] = changed if which != "engine" else material["manifest"]
        return Trial(
            files=files,
            command=COMMANDS[chosen],
            output="out" if chosen == "upscale" else "store",
            scale=SCALE,
            source="in.png" if chosen == "upscale" else "",
            named="mine" if chosen in ("upscale", "info") else "",
            made="image" if chosen == "upscale" else "",
            lines=chosen != "hashes",
        )


def _engine(manifest: dict[str, dict[str, dict[str, str]]]) -> tuple[str, bytes]:
    """Return the key and sidecar of an engine."""
    from resharp.engines import Engine, EngineSpec, File, ParityResult, Profile
    from resharp.fsutil import sha256_of

    spec = EngineSpec(
        graph=manifest["graphs"]["uint8"]["sha256"],
        weights=str(manifest["weights"]["sha256"]),
        dtype="uint8",
        precision="fp16",
        variant="tensorrt",
        version="11.4.0",
        gpu="NVIDIA L4",
        capability="8.9",
        driver="13.1",
        profile=Profile(smallest=16, tile=256, batch=4),
        options={"level": None},
    )
    name, data = f"{spec.key()}.engine", b"an engine"
    engine = Engine(
        model="mine",
        spec=spec,
        file=File(name=name, sha256=sha256_of(data), size=len(data)),
        reference=File(name="reference-1.npz", sha256=sha256_of(b"x"), size=1),
        graph=ParityResult(psnr=70.0, levels=1, passed=True),
        seconds=1.5,
    )
    return engine.key, engine.to_json().encode()


def _local(random: Random, sidecar: bytes) -> Trial:
    list_, verify, export = ("models", "list"), ("models", "verify", "mine"), ("export", "mine")
    command = random.choice((list_, verify, export))
    more = ("--store", "store") if command == export else ()
    checkpoint = str(CHECKPOINT["file"])
    return Trial(
        files={"weights/local/mine.json": sidecar, f"weights/{checkpoint}": b"x" * 100},
        command=(*command, "--weights-dir", "weights", *more),
        output="store",
        named="mine",
    )
