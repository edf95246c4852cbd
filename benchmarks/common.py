"""Helpers shared by the scripts: photos, machine facts, and reports as Markdown or JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from resharp import __version__
from resharp.gpu.devices import device_name

Image = NDArray[Any]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

photos_argument = click.argument(
    "photos", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
json_option = click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="JSON output file."
)


def load(folder: Path) -> dict[str, Image]:
    """Load all photos of a folder as uint8 BGR, by name."""
    found = {}
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise click.ClickException(f"cannot read {path}")
        found[path.stem] = np.asarray(picture, np.uint8)
    if not found:
        raise click.ClickException(f"no photos in {folder}: expected {', '.join(SUFFIXES)} files")
    return found


def quarter(photo: Image) -> Image:
    """Downscale a photo to a quarter of its width and height, by area averaging."""
    height, width = photo.shape[0] // 4, photo.shape[1] // 4
    cropped = photo[: height * 4, : width * 4]
    return np.asarray(cv2.resize(cropped, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def machine() -> dict[str, str]:
    """Return the CPU and the versions that the figures depend on."""
    return {
        "cpu": device_name("cpu"),
        "python": platform.python_version(),
        "resharp": __version__,
        "onnxruntime": _version("onnxruntime"),
        "torch": _version("torch"),
        "opencv": cv2.__version__,
    }


def report(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    summary: Mapping[str, Any],
    json_file: Path | None,
) -> None:
    """Print a Markdown table and a summary; also write both as JSON if ``json_file`` is given."""
    about = machine()
    click.echo(f"## {title}\n\n{', '.join(f'{key} {value}' for key, value in about.items())}\n")
    click.echo("| " + " | ".join(columns) + " |")
    click.echo("|" + "---|" * len(columns))
    for row in rows:
        click.echo("| " + " | ".join(_cell(value) for value in row) + " |")
    click.echo("")
    for key, value in summary.items():
        click.echo(f"- {key}: {_cell(value)}")
    if json_file is not None:
        data = {
            "title": title,
            "machine": about,
            "rows": [dict(zip(columns, row, strict=True)) for row in rows],
            "summary": dict(summary),
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
