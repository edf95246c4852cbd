"""``resharp realesrgan``: the command of Real-ESRGAN's ``inference_realesrgan.py``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from resharp.checks import shown
from resharp.cli.common import max_pixels_option, say
from resharp.compat.checkpoints import bundle_for, named
from resharp.compat.gfpgan import GFPGANer
from resharp.compat.realesrgan import RealESRGANer, device_of
from resharp.engines import Bundle
from resharp.errors import OptionError, OutputError, ResharpError, UnknownModelError
from resharp.fsutil import make_folder, sha256_of, write_whole
from resharp.images import check_result, encode, read, suffixes, writable
from resharp.images.codec import TRUNCATED_HINT
from resharp.outputs import (
    FileStat,
    InputFiles,
    JournalEntry,
    OutputRecords,
    name_in,
    refusal,
)
from resharp.paths import expanded, path_text
from resharp.types import Image

NAMES = (
    "RealESRGAN_x4plus",
    "RealESRNet_x4plus",
    "RealESRGAN_x4plus_anime_6B",
    "RealESRGAN_x2plus",
    "realesr-animevideov3",
    "realesr-general-x4v3",
)
"""Upstream's names; each is an alias of an entry of our catalogue."""
FACES = "gfpgan-v1.3"
"""The face network of ``--face_enhance``, as upstream."""
GENERAL, TWIN = "realesr-general-x4v3", "realesr-general-wdn-x4v3"
"""The one model with a denoise strength, and the checkpoint that it is blended with."""


@click.command()
@click.option(
    "-i", "--input", "source", default="inputs", show_default=True, help="Input file or folder."
)
@click.option(
    "-n",
    "--model_name",
    "name",
    default=NAMES[0],
    show_default=True,
    help=f"Model: {', '.join(NAMES)}.",
)
@click.option("-o", "--output", default="results", show_default=True, help="Output folder.")
@click.option(
    "-dn",
    "--denoise_strength",
    "denoise",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help=f"Denoise strength: 0 keeps noise, 1 removes it; {GENERAL} only.",
)
@click.option(
    "-s",
    "--outscale",
    type=float,
    default=4,
    show_default=True,
    help="Output size over input size.",
)
@click.option("--model_path", help="Checkpoint to use instead of the model's own: a file or URL.")
@click.option(
    "--suffix", default="out", show_default=True, help="Suffix of output names; may be empty."
)
@click.option(
    "-t",
    "--tile",
    type=int,
    default=0,
    show_default=True,
    help="Tile size in pixels; 0 for no tiles.",
)
@click.option(
    "--tile_pad", type=int, default=10, show_default=True, help="Overlap of a tile in pixels."
)
@click.option(
    "--pre_pad", type=int, default=0, show_default=True, help="Mirrored border in pixels."
)
@click.option("--face_enhance", is_flag=True, help="Restore faces with GFPGAN 1.3.")
@click.option("--fp32", is_flag=True, help="Use FP32 instead of FP16 on a GPU.")
@click.option(
    "--alpha_upsampler",
    type=click.Choice(["realesrgan", "bicubic"]),
    default="realesrgan",
    show_default=True,
    help="Restore the alpha channel with the network, or resize it.",
)
@click.option(
    "--ext",
    default="auto",
    show_default=True,
    help="Output format, e.g. jpg or png; auto keeps the input's.",
)
@click.option("-g", "--gpu-id", type=int, help="Number of the GPU to use.")
@max_pixels_option
def command(
    source: str,
    name: str,
    output: str,
    denoise: float,
    model_path: str | None,
    outscale: float,
    alpha_upsampler: str,
    face_enhance: bool,
    fp32: bool,
    suffix: str,
    ext: str,
    max_pixels: int | None,
    **options: Any,
) -> None:
    """Restore images with the options of Real-ESRGAN's inference_realesrgan.py.

    A model is fetched and exported at its first use. Existing results of this command are
    overwritten, other files are not. 'resharp upscale' does more.
    """
    for text, what in ((source, "-i"), (output, "-o")):
        path_text(text, what)
    ext = ext.lower().lstrip(".")
    if ext != "auto" and f".{ext}" not in writable():
        able = ", ".join(sorted(item[1:] for item in writable()))
        raise OptionError(f"`ext` must be one of auto, {able}, got {shown(ext)}")
    images = _images(expanded(source))
    bundle = _bundle(name, model_path, denoise)
    upsampler = RealESRGANer(bundle.manifest.scale, bundle, half=not fp32, **options)
    folder = expanded(output)
    try:
        created = make_folder(folder)
    except OSError as error:
        raise OutputError(
            f"cannot create the folder {folder}: {error}; choose another -o"
        ) from error
    enhance = partial(upsampler.enhance, alpha_upsampler=alpha_upsampler)
    faces = None
    if face_enhance and "anime" in f"{name} {bundle.manifest.name}":
        click.echo("--face_enhance is for photos: ignored with an anime model", err=True)
    elif face_enhance:
        background: Any = SimpleNamespace(enhance=enhance)
        gpu = options["gpu_id"]
        device = None if gpu is None else device_of(None, gpu)
        faces = GFPGANer(FACES, outscale, bg_upsampler=background, device=device)
    failed = 0
    targets = _Targets(images, folder)
    for index, path in enumerate(images):
        click.echo(f"Testing {index} {path.stem}")
        try:
            picture = read(path, max_pixels=max_pixels)
            target = folder / _result_name(path, picture.pixels, suffix, ext)
            height, width = picture.pixels.shape[:2]
            check_result(target.suffix, height, width, outscale)
            targets.check(target)
            result: Image | None
            if faces is None:
                result, _ = enhance(picture.pixels, outscale=outscale)
            else:
                result = faces.enhance(picture.pixels)[2]
            assert result is not None
            data, notes = encode(result, picture.metadata, format=target.suffix)
            targets.write(path, target, data)
        except ResharpError as error:
            failed += 1
            say(f"failed: {path}: {str(error).replace(TRUNCATED_HINT, '.')}")
        else:
            for note in notes:
                say(f"note: {target}: {note}")
    for one in reversed(created):
        with suppress(OSError):  # anything was made in it
            one.rmdir()
    if failed:
        raise click.exceptions.Exit(1)


class _Targets:
    """The results of a run, none of which may replace an input or a file of others.

    Args:
        images: the inputs.
        folder: folder of results. What was made in it is recorded in the cache folder.
    """

    def __init__(self, images: Sequence[Path], folder: Path) -> None:
        self._inputs, self._made = InputFiles(images), InputFiles()
        self._folder, self._records = folder, OutputRecords(folder, "cache")

    def check(self, target: Path) -> None:
        """Check that a result may be written.

        Raises:
            OptionError: it would replace an input, or another result of this run.
            OutputError: it would replace a file that was not made by this program.
        """
        if error := self._inputs.refusal(target):
            raise OptionError(error)
        if self._made.find(target) is not None:
            raise OptionError(
                f"the result would overwrite {target}, made from another input: use `ext` auto, or "
                "rename the input"
            )
        entries = self._records.all(name_in(target, self._folder))
        ours = any(entry.wrote(target) for entry in entries)
        recorded = bool(entries)
        if error := refusal(target, ours=ours, typed=False, overwrite=True, recorded=recorded):
            raise OutputError(error)

    def write(self, source: Path, target: Path, data: bytes) -> None:
        """Write a result and record it."""
        write_whole(target, data)
        self._made.add(target)
        try:
            self._records.add(
                JournalEntry(
                    target=name_in(target, self._folder),
                    source=self._records.source_of(source),
                    key="",
                    input_sha256="",
                    input_size=0,
                    input_mtime_ns=0,
                    output_sha256=sha256_of(data),
                    output_size=len(data),
                    output_mtime_ns=FileStat.of(target).mtime_ns,
                )
            )
        except OSError as error:
            say(f"note: {target}: not recorded, so another run will not overwrite it: {error}")


def _result_name(source: Path, pixels: Image, suffix: str, ext: str) -> str:
    """Return ``{name}_{suffix}.{ext}``; images with alpha become PNG."""
    ending = source.suffix if ext == "auto" else f".{ext}"
    if (pixels.ndim == 3 and pixels.shape[2] == 4) or ending.lower() not in writable():
        ending = ".png"
    return f"{source.stem}_{suffix}{ending}" if suffix else f"{source.stem}{ending}"


def _bundle(name: str, model_path: str | None, denoise: float) -> Bundle:
    stem = name.split(".")[0]  # as upstream: RealESRGAN_x4plus.pth
    known = next((one for one in NAMES if one.lower() == stem.lower()), None)
    if known is None:
        raise UnknownModelError(
            f"Real-ESRGAN has no model {shown(name)}, only {', '.join(NAMES)}. For others use "
            "--model_path or 'resharp upscale -m'"
        )
    mixed = known == GENERAL and denoise != 1
    if model_path is None:
        return named(known, denoise if mixed else None)
    if mixed and GENERAL in os.path.basename(model_path):  # noqa: PTH119 - may be an address
        folder, file = os.path.split(model_path)
        twin = os.path.join(folder, file.replace(GENERAL, TWIN))  # noqa: PTH118
        return bundle_for([model_path, twin], [denoise, 1 - denoise])
    return bundle_for(model_path)


def _images(source: Path) -> list[Path]:
    """Return the file, or the images of the folder without its subfolders."""
    if not os.path.isdir(source):
        if not os.path.exists(source):
            raise OptionError(f"there is no file or folder {source}: choose another -i")
        return [source]
    try:
        files = sorted(source.iterdir())
    except OSError as error:
        text = f"the folder {source} cannot be read: {error.strerror}; choose another -i"
        raise OptionError(text) from error
    found = [path for path in files if path.suffix.lower() in suffixes() and os.path.isfile(path)]
    if not found:
        raise OptionError(f"the folder {source} has no images ({', '.join(suffixes())})")
    return found
