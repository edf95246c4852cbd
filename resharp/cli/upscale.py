"""``resharp upscale``: files, folders and globs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from resharp.cli.jobs import Job, Target, jobs
from resharp.cli.opened import Faces, Opened
from resharp.errors import OptionError, OutputError, ResharpError
from resharp.optional import require
from resharp.runtime import DEFAULT_MODEL
from resharp.runtime.faces import BundleNetwork
from resharp.runtime.files import read, write


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of one picture."""

    input: str
    output: str
    status: str
    """``restored``, ``skipped`` or ``failed``."""
    seconds: float = 0.0
    width: int = 0
    """Of the result, in pixels."""
    height: int = 0
    faces: int | None = None
    """How many were restored; None without ``--face``."""
    notes: tuple[str, ...] = ()
    """What the format of the result could not carry."""
    error: str = ""


def _tile(ctx: click.Context, parameter: click.Parameter, value: str) -> int | str:
    """``auto`` or a number of pixels."""
    if value == "auto":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither 'auto' nor a number of pixels")
    return int(value)


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File or folder of results.")
@click.option("-m", "--model", default=DEFAULT_MODEL, show_default=True, help="Model, or bundle.")
@click.option("--scale", type=float, help="Output over input size (default: the model's).")
@click.option("--denoise", type=float, help="Denoise strength 0..1, for realesr-general-x4v3.")
@click.option("--suffix", help="Added to names (default: none with -o; else _restored, _x2).")
@click.option("--format", "format_", help="png, jpg, webp, tiff, ... (default: the input's).")
@click.option("--quality", type=click.IntRange(1, 100), help="Of JPEG, WebP and AVIF.")
@click.option(
    "--tile", default="auto", show_default=True, callback=_tile, help="Largest tile, in pixels."
)
@click.option(
    "--views",
    type=click.Choice(["1", "2", "4", "8"]),
    default="1",
    show_default=True,
    help="Mean over so many flips and turns, in as many times the time.",
)
@click.option("--backend", default="auto", show_default=True, help="auto, tensorrt, torch, onnx.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--engines", type=click.Path(path_type=Path), help="Folder of the store.")
@click.option("--face", help="Restore faces with gfpgan-1.4, codeformer or restoreformer.")
@click.option("--fidelity", type=float, help="CodeFormer: 0 beauty .. 1 likeness (default: 0.5).")
@click.option("--face-weight", type=float, help="Share of the restored face, 0..1 (default: 1).")
@click.option("--only-center", is_flag=True, help="Only the face nearest to the middle.")
@click.option("--aligned", is_flag=True, help="Inputs are aligned 512x512 faces; no upscaling.")
@click.option("--weights", type=click.Path(path_type=Path), help="Folder of the face detector.")
@click.option("--overwrite", is_flag=True, help="Redo what is done.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def command(
    inputs: tuple[str, ...],
    output: Path | None,
    suffix: str | None,
    format_: str | None,
    quality: int | None,
    overwrite: bool,
    as_json: bool,
    face: str | None,
    fidelity: float | None,
    face_weight: float | None,
    only_center: bool,
    aligned: bool,
    weights: Path | None,
    views: str,
    **options: Any,
) -> None:
    """Restore pictures: files, folders (with what is below them) and globs.

    What is done already is skipped, so an interrupted run goes on where it stopped. A picture that
    cannot be restored is reported at the end, does not stop the others, and makes the exit code 1.
    """
    if suffix is None:
        suffix = "" if output is not None else _default_suffix(options["scale"])
    target = Target(output=output, suffix=suffix, format=_plain(format_))
    faces = Faces(
        model=face,
        fidelity=fidelity,
        weight=face_weight,
        only_center=only_center,
        aligned=aligned,
        weights=weights,
    )
    if aligned and options["scale"] is not None:
        raise OptionError("--aligned gives 512x512 faces: leave --scale out")
    if aligned and views != "1":
        raise OptionError("--aligned upscales nothing: leave --views out")
    todo = jobs(inputs, target)
    with ExitStack() as stack:
        opened = Opened(stack, options, faces, int(views))
        results = list(_restore(todo, opened, quality, overwrite))
    _report(results, opened, as_json)
    if any(result.status == "failed" for result in results):
        raise click.exceptions.Exit(1)


def _restore(
    todo: Sequence[Job], opened: Opened, quality: int | None, overwrite: bool
) -> Iterator[Result]:
    wanted = {job for job in todo if overwrite or job.problem or not os.path.exists(job.target)}
    if any(not job.problem for job in wanted):
        opened.open()  # an unknown model, say, is one error and not one for each picture
    tqdm = require("tqdm", feature="The progress bar", extra="").tqdm
    form = "{percentage:3.0f}%|{bar}| {desc} [{elapsed}<{remaining}]"
    with tqdm(total=len(wanted), bar_format=form, disable=None, leave=False) as bar:
        for job in todo:
            if job not in wanted:
                yield Result(input=str(job.source), output=str(job.target), status="skipped")
                continue
            bar.set_description_str(f"{job.source.name} ({int(bar.n + 1e-6) + 1}/{len(wanted)})")
            began = time.monotonic()
            yield _one(job, opened, quality, _Fraction(bar.update).at, began)


def _one(
    job: Job,
    opened: Opened,
    quality: int | None,
    progress: Callable[[int, int], None],
    began: float,
) -> Result:
    failed = Result(input=str(job.source), output=str(job.target), status="failed")
    try:
        if job.problem:
            raise OptionError(job.problem)
        picture = read(job.source)
        _make_folder(job.target.parent)
        out, faces = opened(picture.pixels, progress)
        notes = write(job.target, out, picture.metadata, quality=quality)
    except ResharpError as error:
        return replace(failed, error=str(error))
    except MemoryError as error:
        return replace(failed, error=f"out of memory: {error}: use a smaller --scale")
    finally:
        progress(1, 1)
    seconds = round(time.monotonic() - began, 3)
    height, width = out.shape[:2]
    return replace(
        failed,
        status="restored",
        seconds=seconds,
        width=width,
        height=height,
        faces=faces,
        notes=notes,
    )


def _make_folder(folder: Path) -> None:
    """Before the work, so that a folder that cannot be does not cost it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error}: choose another -o") from error


class _Fraction:
    """Moves a bar by one file in all, in steps of a tile."""

    def __init__(self, update: Callable[[float], object]) -> None:
        self._update, self._done = update, 0.0

    def at(self, done: int, total: int) -> None:
        self._update(done / total - self._done)
        self._done = done / total


def _report(results: Sequence[Result], opened: Opened, as_json: bool) -> None:
    if as_json:
        used = opened.upscaler
        report = {
            "model": used.manifest.name if used else None,
            "backend": used.backend if used else None,
            "device": used.device if used else None,
            "face": _face(opened.network),
            "results": [asdict(result) for result in results],
        }
        click.echo(json.dumps(report, indent=2))
    for result in results:
        for note in result.notes:
            click.echo(f"note: {result.output}: {note}", err=True)
        if result.error:
            click.echo(f"failed: {result.input}: {result.error}", err=True)
    if not as_json:
        click.echo(_summary(results, opened))


def _face(network: BundleNetwork | None) -> dict[str, str] | None:
    if network is None:
        return None
    return {
        "model": network.manifest.name,
        "backend": network.backend,
        "device": network.device,
    }


def _summary(results: Sequence[Result], opened: Opened) -> str:
    counts = {
        status: sum(result.status == status for result in results)
        for status in ("restored", "skipped", "failed")
    }
    text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    if counts["skipped"]:
        text += " (done before; --overwrite redoes them)"
    for used in (opened.upscaler, opened.network):
        if isinstance(used, BundleNetwork):
            count = sum(result.faces or 0 for result in results)
            text += f", {count} face{'' if count == 1 else 's'}"
        if used is not None:
            text += f" with {used.manifest.name}, {used.backend} on {used.device}"
    restored = [result for result in results if result.status == "restored"]
    if len(restored) == 1:
        text += f": {restored[0].output} ({restored[0].width}x{restored[0].height})"
    return text


def _default_suffix(scale: float | None) -> str:
    return "_restored" if scale is None else f"_x{scale:g}"


def _plain(format_: str | None) -> str | None:
    return None if format_ is None else format_.lower().lstrip(".")
