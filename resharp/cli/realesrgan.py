"""``resharp realesrgan``: the command of Real-ESRGAN's ``inference_realesrgan.py``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from resharp.compat.checkpoints import bundle_for, named
from resharp.compat.gfpgan import GFPGANer
from resharp.compat.realesrgan import RealESRGANer, device_of
from resharp.engines import Bundle
from resharp.errors import OptionError, OutputError, ResharpError, UnknownModelError
from resharp.images import read, suffixes, writable, write
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
Enhance = Callable[[Image], tuple[Image, str]]

FACES = "gfpgan-v1.3"
"""What ``--face_enhance`` restores faces with, as upstream."""
GENERAL, TWIN = "realesr-general-x4v3", "realesr-general-wdn-x4v3"
"""The one model with a denoise strength, and what it is mixed with."""


@dataclass(frozen=True, kw_only=True)
class _Naming:
    """How results are called."""

    folder: Path
    suffix: str
    ext: str

    def of(self, source: Path, channels: int) -> Path:
        """``{name}_{suffix}.{ext}``; pictures with alpha become PNG."""
        ending = source.suffix if self.ext == "auto" else f".{self.ext}"
        if channels == 4 or ending.lower() not in writable():
            ending = ".png"
        name = f"{source.stem}_{self.suffix}" if self.suffix else source.stem
        return self.folder / f"{name}{ending}"


@click.command()
@click.option(
    "-i", "--input", "source", default="inputs", show_default=True, help="File or folder."
)
@click.option(
    "-n",
    "--model_name",
    "name",
    default=NAMES[0],
    show_default=True,
    help=f"Model: {', '.join(NAMES)}.",
)
@click.option("-o", "--output", default="results", show_default=True, help="Folder of results.")
@click.option(
    "-dn",
    "--denoise_strength",
    "denoise",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help=f"0 keeps noise, 1 removes it; {GENERAL} only.",
)
@click.option(
    "-s", "--outscale", type=float, default=4, show_default=True, help="Output over input size."
)
@click.option("--model_path", help="File or address of weights, instead of the model's own.")
@click.option("--suffix", default="out", show_default=True, help="Added to names; may be empty.")
@click.option("-t", "--tile", type=int, default=0, show_default=True, help="Tile; 0: none.")
@click.option("--tile_pad", type=int, default=10, show_default=True, help="Context of a tile.")
@click.option("--pre_pad", type=int, default=0, show_default=True, help="Mirrored border.")
@click.option("--face_enhance", is_flag=True, help="Restore faces with GFPGAN 1.3.")
@click.option("--fp32", is_flag=True, help="FP32 on a GPU, instead of FP16.")
@click.option(
    "--alpha_upsampler",
    type=click.Choice(["realesrgan", "bicubic"]),
    default="realesrgan",
    show_default=True,
    help="Alpha through the network, or resized.",
)
@click.option("--ext", default="auto", show_default=True, help="auto, jpg, png, ...")
@click.option("-g", "--gpu-id", type=int, help="Number of the GPU.")
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
    **options: Any,
) -> None:
    """Restore pictures with the options of Real-ESRGAN's inference_realesrgan.py.

    A model is fetched and exported at its first use. Results are written anew each time. New here?
    resharp upscale does more.
    """
    naming = _Naming(folder=Path(output), suffix=suffix, ext=_ending(ext))
    pictures = list(_pictures(Path(source).expanduser()))
    bundle = _bundle(name, model_path, denoise)
    upsampler = RealESRGANer(bundle.manifest.scale, bundle, half=not fp32, **options)
    _make_folder(naming.folder)
    enhance: Enhance = partial(
        upsampler.enhance, outscale=outscale, alpha_upsampler=alpha_upsampler
    )
    if face_enhance and "anime" in f"{name} {bundle.manifest.name}":
        click.echo("face_enhance is for photographs: turned off with an anime model", err=True)
    elif face_enhance:
        enhance = _with_faces(upsampler, outscale, alpha_upsampler, options["gpu_id"])
    failed = 0
    for index, path in enumerate(pictures):
        click.echo(f"Testing {index} {path.stem}")
        try:
            picture = read(path)
            pixels = picture.pixels
            target = naming.of(path, pixels.shape[2] if pixels.ndim == 3 else 1)
            _spare(path, target)
            result, _ = enhance(pixels)
            notes = write(target, result, picture.metadata)
        except ResharpError as error:
            failed += 1
            click.echo(f"failed: {path}: {error}", err=True)
        else:
            for note in notes:
                click.echo(f"note: {target}: {note}", err=True)
    if failed:
        raise click.exceptions.Exit(1)


def _with_faces(
    upsampler: RealESRGANer, outscale: float, alpha_upsampler: str, gpu_id: int | None
) -> Enhance:
    background = _Background(upsampler, alpha_upsampler)
    device = None if gpu_id is None else device_of(None, gpu_id)
    enhancer = GFPGANer(FACES, outscale, bg_upsampler=background, device=device)

    def enhance(pixels: Image) -> tuple[Image, str]:
        result = enhancer.enhance(pixels)[2]
        assert result is not None
        return result, ""

    return enhance


@dataclass(frozen=True)
class _Background:
    """A ``RealESRGANer`` that remembers how alpha is wanted, which GFPGANer does not pass on."""

    upsampler: RealESRGANer
    alpha_upsampler: str

    def enhance(self, img: Image, outscale: float | None = None) -> tuple[Image, str]:
        return self.upsampler.enhance(img, outscale, self.alpha_upsampler)


def _bundle(name: str, model_path: str | None, denoise: float) -> Bundle:
    name = _known(name)
    mixed = name == GENERAL and denoise != 1
    if model_path is None:
        return named(name, denoise if mixed else None)
    if mixed and GENERAL in os.path.basename(model_path):  # noqa: PTH119 - may be an address
        folder, file = os.path.split(model_path)
        twin = os.path.join(folder, file.replace(GENERAL, TWIN))  # noqa: PTH118
        return bundle_for([model_path, twin], [denoise, 1 - denoise])
    return bundle_for(model_path)


def _known(name: str) -> str:
    stem = name.split(".")[0]  # as upstream: RealESRGAN_x4plus.pth
    for known in NAMES:
        if stem.lower() == known.lower():
            return known
    raise UnknownModelError(
        f"no model of Real-ESRGAN is called {name!r}: there are {', '.join(NAMES)}; others: "
        "--model_path, or resharp upscale -m"
    )


def _ending(ext: str) -> str:
    plain = ext.lower().lstrip(".")
    if plain != "auto" and f".{plain}" not in writable():
        able = ", ".join(sorted(item[1:] for item in writable()))
        raise OptionError(f"ext {ext!r} cannot be written here; these can: auto, {able}")
    return plain


def _pictures(source: Path) -> Iterator[Path]:
    """The file, or the pictures of the folder, but not below it."""
    if not os.path.isdir(source):
        if not os.path.exists(source):
            raise OptionError(f"there is no file or folder {source}: give one with -i")
        yield source
        return
    found = [
        path
        for path in sorted(source.iterdir())
        if path.suffix.lower() in suffixes() and path.is_file()
    ]
    if not found:
        raise OptionError(f"the folder {source} holds no picture ({', '.join(suffixes())})")
    yield from found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error}: choose another -o") from error


def _spare(source: Path, target: Path) -> None:
    if os.path.realpath(source) == os.path.realpath(target):
        raise OptionError("its result would overwrite it: choose another -o or --suffix")
