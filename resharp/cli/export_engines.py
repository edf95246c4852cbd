"""``resharp engines build``, also ``export-engines``: TensorRT engines, once per GPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from resharp.cli import common
from resharp.cli.export import Steps, image_option, pixels
from resharp.cli.tuning import builds, tune_model
from resharp.deploy import build_engines, find_or_export
from resharp.engines import Store
from resharp.errors import OptionError, ResharpError
from resharp.gpu.tensorrt import pick
from resharp.paths import store_folder, weights_folder
from resharp.runtime.bundle_lookup import DEFAULT_MODEL
from resharp.types import EnginePrecision, Variant

if TYPE_CHECKING:
    from resharp.export.engine import Built


@click.command(short_help="Build engines, once per GPU.")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--all", "everything", is_flag=True, help="Every model that is fetched or exported.")
@click.option(
    "--gpu", help="GPUs to build for: 0, 0,1, all; with TensorRT-RTX also sm86,sm89, portable."
)
@click.option(
    "--precision",
    type=click.Choice(get_args(EnginePrecision)),
    help="Arithmetic (default: the first of fp16, mixed, fp32 that is close enough to FP32).",
)
@click.option(
    "--variant",
    type=click.Choice(get_args(Variant)),
    help="TensorRT or TensorRT-RTX (default: the first that is installed).",
)
@click.option("--tile", type=int, help="Largest tile in pixels (default: by the GPU's memory).")
@click.option("--batch", default=4, show_default=True, help="Maximum tiles or images per run.")
@click.option(
    "--dtype",
    type=click.Choice(["both", "uint8", "float32"]),
    default="both",
    show_default=True,
    help="Images to serve: 8-bit (uint8), 16-bit and float (float32).",
)
@click.option(
    "--optimization-level", type=int, help="TensorRT's builder level 0..5 (default: TensorRT's)."
)
@common.denoise_option
@image_option
@click.option("--tune", is_flag=True, help="Also measure and keep the fastest settings.")
@click.option("--memory", help="Device memory that --tune may use, e.g. 8GB (default: all).")
@click.option("--force", is_flag=True, help="Rebuild engines that already exist.")
@common.offline_option
@common.weights_dir_option
@common.store_option
def command(
    models: tuple[str, ...],
    everything: bool,
    gpu: str | None,
    variant: Variant | None,
    dtype: str,
    image: Path | None,
    tune: bool,
    memory: str | None,
    store: Path | None,
    weights_dir: Path | None,
    denoise: float | None,
    offline: bool | None,
    **options: Any,
) -> None:
    """Build the TensorRT engines of MODELs (default: the built-in one), once per GPU.

    A model that is not exported yet is exported first; finished engines are kept. TensorRT builds
    on the GPU that the engine is for; TensorRT-RTX needs no GPU.

    With --tune, the fastest tile, batch and lanes for this GPU are measured and kept with the
    model; on a machine without a GPU, tile and threads for the CPU.
    """
    if denoise is not None and len(models) != 1:
        raise OptionError("`denoise` requires exactly one model")
    budget, building = _budget(memory, tune), builds(tune, gpu, variant)
    if building:
        chosen, photo = pick(variant), pixels(image)
    how: dict[str, Any] = {"denoise": denoise, "offline": offline}
    how |= {"store": store, "weights_dir": weights_dir}
    table: list[Row] = []
    failed: list[str] = []
    steps = Steps()
    for name in _names(models, everything, store, weights_dir):
        began = time.monotonic()
        try:
            if building:
                build_engines(
                    name,
                    gpu=gpu,
                    variant=variant,
                    dtypes=("uint8", "float32") if dtype == "both" else (dtype,),
                    image=photo,
                    log=steps.next,
                    on_built=lambda built: table.append(_row(built)),
                    **how,
                    **options,
                )
                steps.next(f"{name}: {time.monotonic() - began:.0f} s")
            if tune:
                bundle = find_or_export(name, log=steps.next, **how)
                tune_model(bundle, chosen if building else None, budget, steps.next)
        except ResharpError as error:
            failed.append(f"{name}: {error}")
            last = error
    if table and not failed and not any(row[6].endswith("(on the GPU)") for row in table):
        common.say(
            "Each engine is checked before its first use on a GPU. To move engines to another "
            "machine, copy the store (see 'Containers' in the documentation)."
        )
    if table:
        common.print_table([HEADINGS, *table])
    if len(failed) == 1 and not table:
        raise last
    if failed:
        raise ResharpError("\n".join(["some models failed:", *failed]))


def _budget(memory: str | None, tune: bool) -> int | None:
    if memory is None:
        return None
    if not tune:
        raise OptionError("`memory` requires `tune`")
    from resharp.bench.capacity import parse_memory

    return parse_memory(memory)


def _names(
    models: tuple[str, ...], everything: bool, store: Path | None, weights_dir: Path | None
) -> list[str]:
    if not everything:
        return list(dict.fromkeys(models)) or [DEFAULT_MODEL]
    if models:
        raise OptionError("pass either models or `all`, not both")
    from resharp.weights import catalogue, local_entries

    folder = weights_folder(weights_dir)
    fetched = [
        entry.name
        for entry in (*catalogue().values(), *local_entries(weights_dir).values())
        if entry.exports and os.path.isfile(folder / entry.file)
    ]
    return list(dict.fromkeys([DEFAULT_MODEL, *Store(store_folder(store)).names(), *fetched]))


Row = tuple[str, str, str, str, str, str, str]
HEADINGS: Row = ("model", "GPU", "dtype", "precision", "seconds", "MB", "parity")


def _row(built: Built) -> Row:
    engine = built.engine
    parity, where = (
        (built.parity, "on the GPU") if built.parity else (engine.graph, "graph, on the CPU")
    )
    return (
        engine.model,
        engine.spec.gpu or "+".join(engine.spec.targets),
        engine.spec.dtype,
        engine.spec.precision,
        "done" if built.skipped else f"{built.seconds:.1f}",
        f"{engine.file.size / 1e6:.1f}",
        f"{parity.psnr:.1f} dB ({where})",
    )
