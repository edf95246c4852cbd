"""The options that say what is to become of pictures, for every command that restores some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from resharp.runtime import DEFAULT_MODEL
from resharp.runtime.recipe import Recipe, plain_path
from resharp.runtime.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def _tile(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str:
    """``auto`` or a number of pixels."""
    if value == "auto":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither 'auto' nor a number of pixels")
    return int(value)


def _gpus(ctx: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Numbers with commas between them."""
    parts = [] if value is None else value.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is no list of numbers: 0,1 say")
    return tuple(int(part) for part in parts)


_BEFORE = (
    click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Model, bundle."),
    click.option("--scale", type=float, help="Output over input size (default: the model's)."),
    click.option("--denoise", type=float, help="Denoise strength 0..1, for realesr-general-x4v3."),
)
_AFTER = (
    click.option(
        "--tile", default="auto", show_default=True, callback=_tile, help="Largest tile, in pixels."
    ),
    click.option(
        "--views",
        type=click.Choice(["1", "2", "4", "8"]),
        default="1",
        show_default=True,
        help="Mean over so many flips and turns, in as many times the time.",
    ),
    click.option(
        "--backend", default="auto", show_default=True, help="auto, tensorrt, torch, onnx."
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N."),
    click.option("--gpus", callback=_gpus, metavar="N,N", help="GPUs to spread the work over."),
    click.option("--workers", type=click.IntRange(1), help="Pictures in work at once per device."),
    click.option("--threads", type=click.IntRange(1), help="CPU threads for each picture."),
    click.option("--engines", type=click.Path(path_type=Path), help="Folder of the store."),
    click.option("--face", help="Restore faces with gfpgan-1.4, codeformer or restoreformer."),
    click.option(
        "--fidelity", type=float, help="CodeFormer: 0 beauty .. 1 likeness (default: 0.5)."
    ),
    click.option(
        "--face-weight", type=float, help="Share of the restored face, 0..1 (default: 1)."
    ),
    click.option("--only-center", is_flag=True, help="Only the face nearest to the middle."),
    click.option("--weights", type=click.Path(path_type=Path), help="Folder of the face detector."),
)


def recipe_options(command: F) -> F:
    """Give a command the options that :func:`recipe_of` reads."""
    for option in reversed((*_BEFORE, *_AFTER)):
        command = option(command)
    return command


def recipe_of(options: dict[str, Any], *, aligned: bool = False) -> Recipe:
    """What was asked; the options are taken out of ``options``.

    Raises:
        OptionError: it makes no sense.
    """
    asked = {name: options.pop(name) for name in ("views", "face", "fidelity", "face_weight")}
    settings = Settings(
        **{
            name: options.pop(name)
            for name in ("model", "scale", "denoise", "tile", "backend", "device", "threads")
        },
        engines=plain_path(options.pop("engines")),
    )
    return Recipe(
        settings=settings,
        views=int(asked["views"]),
        face=asked["face"],
        fidelity=asked["fidelity"],
        face_weight=asked["face_weight"],
        only_center=options.pop("only_center"),
        aligned=aligned,
        weights=plain_path(options.pop("weights")),
    )
