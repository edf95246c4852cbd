"""Clips and animations of every container, for ``resharp video``."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.layouts import structure
from tests.fuzz.model import MODEL, SCALE, USE, bundle, inside
from tests.fuzz.mutators import mutated
from tests.fuzz.trials import Material, Trial

SPECS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("h264.mp4", "libx264", "yuv420p", {"x264-params": "threads=1"}),
    ("h264.mkv", "libx264", "yuv420p", {"x264-params": "threads=1"}),
    ("vp9.webm", "libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    ("mpeg4.avi", "mpeg4", "yuv420p", {}),
    ("mjpeg.avi", "mjpeg", "yuvj420p", {}),
    ("mpeg4.mp4", "mpeg4", "yuv420p", {}),
    ("ffv1.mkv", "ffv1", "bgr0", {}),
)


class Clips:
    """One mutated clip or animation of a few frames."""

    name = "clips"
    share = 3.0

    def material(self) -> Material:
        """Return clips of four frames of 32x24 pixels, with sound in some."""
        clips = {name: _clip(name, codec, form, options) for name, codec, form, options in SPECS}
        return {**clips, **_animations(), **inside(MODEL, bundle())}

    def trial(self, random: Random, material: Material) -> Trial:
        """Restore a mutated clip."""
        model = {name: data for name, data in material.items() if name.startswith(MODEL)}
        clips = [name for name in material if name not in model]
        name, other = random.choice(clips), random.choice(clips)
        data = material[name]
        changed = mutated(random, data, material[other], *structure(data))
        ending = name.rpartition(".")[2]
        file = f"in.{ending}"
        made = ending if ending in ("gif", "apng", "webp") and random.random() < 0.5 else "mkv"
        command = ("video", file, "-o", f"out/out.{made}", *USE, "--codec")
        return Trial(
            files={file: changed, **model},
            scale=SCALE,
            command=(*command, "auto" if made != "mkv" else "ffv1"),
            source=file,
            named=file,
            output="out",
            made="video",
        )


def _frames() -> list[Any]:
    rows, columns = np.mgrid[:24, :32]
    shades = [(rows * 5 + columns * 3 + 40 * n) % 256 for n in range(6)]
    return [np.stack([one, one[::-1], 255 - one], axis=2).astype(np.uint8) for one in shades[:4]]


def _clip(name: str, codec: str, form: str, options: dict[str, str]) -> bytes:
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        with av.open(str(path), "w", options={"fflags": "+bitexact"}) as out:
            stream: Any = out.add_stream(codec, rate=10, options={**options, "g": "2"})
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = 32, 24, form, 1
            sound: Any = None
            if name in ("h264.mp4", "h264.mkv"):
                sound = out.add_stream(
                    "aac" if name.endswith("mp4") else "pcm_s16le", rate=8000, layout="mono"
                )
            for image in _frames():
                frame = av.VideoFrame.from_ndarray(image, "bgr24").reformat(format=form)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
            if sound is not None:
                quiet = np.zeros((1, 3000), np.int16 if "pcm" in sound.name else np.float32)
                tone: Any = av.AudioFrame.from_ndarray(
                    quiet, "s16" if quiet.dtype == np.int16 else "fltp", "mono"
                )
                tone.rate = 8000
                out.mux(sound.encode(tone))
                out.mux(sound.encode())
        return path.read_bytes()


def _animations() -> dict[str, bytes]:
    from PIL import Image

    images = [Image.fromarray(image) for image in _frames()]
    found = {}
    for name, form in (
        ("anim.gif", "GIF"),
        ("anim.apng", "PNG"),
        ("anim.webp", "WEBP"),
        ("anim.avif", "AVIF"),
    ):
        out = io.BytesIO()
        images[0].save(out, form, save_all=True, append_images=images[1:], duration=100, loop=2)
        found[name] = out.getvalue()
    return found
