"""``export-engines``: TensorRT engines of models, once per GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from resharp.cli.export import Steps, pixels
from resharp.cli.tuning import builds, tune_model
from resharp.deploy import build_engines, find_or_export
from resharp.engines import PRECISIONS, Bundle, Store
from resharp.engines.target import Target, choose_targets
from resharp.errors import OptionError, ResharpError
from resharp.gpu import tensorrt as variants
from resharp.optional import require
from resharp.paths import store_folder, weights_folder
from resharp.runtime.bundle_lookup import DEFAULT_MODEL

if TYPE_CHECKING:
    from resharp.export.engine import Built, EngineOptions


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--all", "everything", is_flag=True, help="All models that are fetched or exported.")
@click.option("--gpu", help="0, 1, all; with TensorRT-RTX also sm86,sm89, portable, current.")
@click.option(
    "--precision",
    type=click.Choice([*PRECISIONS, "bf16"]),
    help="Default: the first of fp16, mixed, fp32 that is close enough to fp32.",
)
@click.option(
    "--variant",
    type=click.Choice(variants.VARIANTS),
    help="Default: tensorrt if it is installed, else tensorrt_rtx.",
)
@click.option("--tile", type=int, help="Largest side of a tile (default: by the GPU's memory).")
@click.option("--batch", default=4, show_default=True, help="Most tiles or pictures of one run.")
@click.option(
    "--dtype",
    type=click.Choice(["both", "uint8", "float32"]),
    default="both",
    show_default=True,
    help="float32 serves 16-bit and float pictures.",
)
@click.option(
    "--optimization-level", type=int, help="Builder optimisation level 0..5 (TensorRT's own)."
)
@click.option("--denoise", type=float, help="Denoise strength 0..1, for realesr-general-x4v3.")
@click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A photo of yours to check on (default: one is drawn).",
)
@click.option("--tune", is_flag=True, help="Also measure which settings are fastest here.")
@click.option("--memory", help="8GB, ...: what --tune may take on the device (default: all).")
@click.option("--force", is_flag=True, help="Build again what is done.")
@click.option("--offline", is_flag=True, default=None, help="Download nothing.")
@click.option("--weights-dir", type=click.Path(path_type=Path), help="Folder of the checkpoints.")
@click.option("--store", type=click.Path(path_type=Path), help="Folder of the store.")
def command(
    models: tuple[str, ...],
    everything: bool,
    gpu: str | None,
    variant: str | None,
    dtype: str,
    denoise: float | None,
    image: Path | None,
    tune: bool,
    memory: str | None,
    offline: bool | None,
    weights_dir: Path | None,
    store: Path | None,
    **options: Any,
) -> None:
    """Build TensorRT engines of MODELs (default: the built-in one), once per GPU.

    A model that is not exported yet is exported first. Done work is skipped. With --tune, the
    fastest tile, batch and lanes for this GPU are measured and kept in the manifest; on a machine
    without one, tile and threads for the CPU, and no engine is built unless --gpu says for what.
    """
    if denoise is not None and len(models) != 1:
        raise OptionError("--denoise is for one model: name it")
    budget = _budget(memory, tune)
    names = _names(models, everything, store, weights_dir)
    work = _Work(tune=tune, budget=budget)
    if builds(tune, gpu, variant):
        work.variant = variants.pick(variant)
        work.targets = choose_targets(gpu, work.variant)
        for module in ("torch", "onnx", "onnxruntime", "safetensors"):
            require(module, feature="Building engines", extra="export")
        from resharp.export.engine import EngineOptions

        work.options = EngineOptions(
            variant=work.variant,
            dtypes=("uint8", "float32") if dtype == "both" else (dtype,),
            image=pixels(image),
            **options,
        )
    for name in names:
        work.on(
            name,
            partial(
                find_or_export,
                name,
                denoise=denoise,
                offline=offline,
                weights_dir=weights_dir,
                store=store,
                log=work.steps.next,
            ),
        )
    work.end()


class _Work:
    """What is to be done with each model, and what failed."""

    def __init__(self, *, tune: bool, budget: int | None) -> None:
        self._tune, self._budget = tune, budget
        self.variant: str | None = None
        self.targets: list[Target] = []
        self.options: EngineOptions | None = None
        self.steps, self._table = Steps(), list[Row]()
        self._failed: list[str] = []

    def on(self, name: str, find: Callable[[], Bundle]) -> None:
        """Build the engines of one model, then tune it."""
        try:
            bundle = find()
        except ResharpError as error:
            self._failed.append(f"{name}: {error}")
            return
        for target in self.targets:
            try:
                self._build(bundle, target)
            except ResharpError as error:
                self._failed.append(f"{name} for {target.label}: {error}")
        if self._tune:
            try:
                tune_model(bundle, self.variant, self._budget, self.steps.next)
            except ResharpError as error:
                self._failed.append(f"{name}, tuning: {error}")

    def _build(self, bundle: Bundle, target: Target) -> None:
        began = time.monotonic()
        build_engines(
            bundle,
            target,
            self.options,
            log=self.steps.next,
            done=lambda built: self._table.append(_row(built)),
        )
        self.steps.next(f"{bundle.manifest.name}: {time.monotonic() - began:.0f} s")

    def end(self) -> None:
        """Print what was built.

        Raises:
            ResharpError: something failed.
        """
        if self._table:
            _print(self._table)
        if len(self._failed) == 1 and not self._table:
            raise ResharpError(self._failed[0])
        if self._failed:
            what = "some engines were not built" if self.targets else "some models were not tuned"
            raise ResharpError("\n".join([f"{what}:", *self._failed]))


def _budget(memory: str | None, tune: bool) -> int | None:
    if memory is None:
        return None
    if not tune:
        raise OptionError("--memory is about --tune: give that too, or leave it out")
    from resharp.bench.capacity import parse_memory

    return parse_memory(memory)


def _names(
    models: tuple[str, ...], everything: bool, store: Path | None, weights_dir: Path | None
) -> list[str]:
    if not everything:
        return list(dict.fromkeys(models)) or [DEFAULT_MODEL]
    if models:
        raise OptionError("name models or say --all, not both")
    from resharp.weights import catalogue, local_entries

    folder = weights_folder(weights_dir)
    fetched = [
        entry.name
        for entry in (*catalogue().values(), *local_entries(weights_dir).values())
        if entry.exports and (folder / entry.file).is_file()
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


def _print(rows: Iterable[Row]) -> None:
    table = [HEADINGS, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
