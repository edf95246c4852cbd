"""Deployment: import a checkpoint, export a model, build its TensorRT engines.

The one module above both ``export`` and ``runtime``; it imports PyTorch and TensorRT inside
functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from resharp import weights
from resharp.engines import Bundle
from resharp.engines.target import choose_targets
from resharp.errors import (
    BuildError,
    CheckpointError,
    NotExportedError,
    OptionError,
    ResharpError,
)
from resharp.optional import require
from resharp.paths import as_path
from resharp.runtime.bundle_lookup import DEFAULT_MODEL, resolve
from resharp.types import EnginePrecision, Image, Log, Variant
from resharp.weights import ModelEntry

if TYPE_CHECKING:
    from resharp.export.engine import Built

PACKAGES = ("torch", "onnx", "onnxruntime", "safetensors")


def export_model(
    model: str | os.PathLike[str],
    *,
    name: str | None = None,
    denoise: float | None = None,
    exporter: str | None = None,
    image: Image | None = None,
    parameters: Mapping[str, int | str] | None = None,
    title: str | None = None,
    license: str | None = None,
    force: bool = False,
    offline: bool | None = None,
    store: str | os.PathLike[str] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    log: Log = lambda line: None,
) -> Bundle:
    """Export a model to ONNX, or return its bundle if that is done.

    The checkpoint is downloaded if needed. Every graph is compared with PyTorch before it is
    stored.

    Args:
        model: a name of the catalogue or of an imported checkpoint, or a checkpoint file.
        name: name of the bundle; None takes the model's, or the file's.
        denoise: denoise strength 0..1, for a model that is blended with a second checkpoint.
        exporter: ``legacy`` or ``dynamo``, the two exporters of torch; None takes the one that
            suits the network.
        image: uint8 BGR photo ``[h, w, 3]`` to measure the overlap on; None draws one.
        parameters: arguments of the network that its weights do not reveal, e.g. ``act_type``.
        title: one line for people; None takes the catalogue's, or the file's name.
        license: license of the weights; None takes the catalogue's, or ``unknown`` for a file.
        force: export again, and replace a bundle of that name that has other weights.
        offline: forbid downloads; None reads ``RESHARP_OFFLINE``.
        store: folder of the bundles; None is the default.
        weights_dir: folder of checkpoints; None is the default.
        log: called with a line for each step.

    Raises:
        UnknownModelError: no model has that name.
        CheckpointError: the checkpoint cannot be used.
        ParityError: a graph does not compute what PyTorch computes; nothing is stored.
        MissingExtraError: a package of the extra ``export`` is not installed.
        DownloadError: the checkpoint cannot be downloaded.
        OutputError: the store cannot be written.
        StoreBusyError: another process is writing the same bundle.
        OptionError: an option is invalid.
    """
    for package in PACKAGES:
        require(package, feature="Exporting", extra="export")
    from resharp.export import ExportOptions, export

    options = ExportOptions(
        name=name,
        denoise=denoise,
        exporter=exporter,
        image=image,
        parameters=dict(parameters or {}),
        title=title,
        license=license,
        force=force,
        offline=offline,
    )
    return export(model, options, weights_dir=weights_dir, store=store, log=log)


def find_or_export(
    model: str | os.PathLike[str] | Bundle,
    *,
    denoise: float | None = None,
    offline: bool | None = None,
    store: str | os.PathLike[str] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    log: Log = lambda line: None,
) -> Bundle:
    """Return the bundle of a model, exporting it first if the store does not have it.

    Args:
        model: a name, a bundle or its folder.
        denoise: denoise strength 0..1, for a model that has one.
        offline: forbid downloads; None reads ``RESHARP_OFFLINE``.
        store: folder of the bundles; None is the default.
        weights_dir: folder of checkpoints; None is the default.
        log: called with a line for each step.

    Raises:
        ResharpError: as for :func:`export_model`.
    """
    try:
        return resolve(model, store=store, denoise=denoise)
    except NotExportedError:
        if isinstance(model, Bundle):
            raise
        log(f"{os.fspath(model)} is not exported yet: exporting it first")
        return export_model(
            model,
            denoise=denoise,
            offline=offline,
            store=store,
            weights_dir=weights_dir,
            log=log,
        )


def build_engines(
    model: str | os.PathLike[str] | Bundle = DEFAULT_MODEL,
    *,
    gpu: int | str | Sequence[int | str] | None = None,
    precision: EnginePrecision | None = None,
    variant: Variant | None = None,
    tile: int | None = None,
    batch: int = 4,
    dtypes: Sequence[str] = ("uint8", "float32"),
    optimization_level: int | None = None,
    image: Image | None = None,
    denoise: float | None = None,
    force: bool = False,
    offline: bool | None = None,
    store: str | os.PathLike[str] | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    log: Log = lambda line: None,
    on_built: Callable[[Built], object] = lambda built: None,
) -> tuple[Built, ...]:
    """Build the TensorRT engines of a model, once per kind of GPU.

    The model is exported first if needed, and finished engines are kept. Each engine is run on its
    GPU and compared with FP32 if that GPU is present, else before its first use there.

    Args:
        model: a name, a bundle or its folder.
        gpu: what to build for: numbers of GPUs (``0``), ``"all"``; with TensorRT-RTX also kinds
            (``"sm86"``), ``"portable"`` or ``"current"``; several as a sequence or with commas.
            None: TensorRT takes the first GPU, TensorRT-RTX every kind that it supports.
        precision: None takes the first of fp16, mixed and fp32 that is close enough to FP32.
        variant: ``tensorrt`` or ``tensorrt_rtx``; None takes the first that is installed.
        tile: largest side of a tile in pixels; None chooses by the GPU's memory.
        batch: most tiles or images per run.
        dtypes: one engine for each: ``uint8``, and ``float32`` for 16-bit and float images.
        optimization_level: TensorRT's builder optimization level 0..5; None is its default.
        image: uint8 BGR photo ``[h, w, 3]`` to check the engines on; None draws one.
        denoise: denoise strength 0..1, for a model that has one.
        force: rebuild finished engines.
        offline: forbid downloads; None reads ``RESHARP_OFFLINE``.
        store: folder of the bundles; None is the default.
        weights_dir: folder of checkpoints; None is the default.
        log: called with a line for each step.
        on_built: called with each engine as it is ready, also before another one fails.

    Returns:
        A record for each engine.

    Raises:
        BuildError: TensorRT could not build an engine; the others have been built.
        ParityError: the requested precision, or every precision, is too far from FP32.
        MissingExtraError: TensorRT, or a package of the extra ``export``, is not installed.
        BackendError: TensorRT needs a GPU, and none is usable.
        OptionError: an option is invalid.
        ResharpError: the model cannot be exported; as for :func:`export_model`.
    """
    from resharp.gpu import tensorrt

    chosen = tensorrt.pick(variant)
    several = [gpu] if isinstance(gpu, int | str) else gpu
    targets = choose_targets(None if several is None else ",".join(map(str, several)), chosen)
    for package in PACKAGES:
        require(package, feature="Building engines", extra="export")
    from resharp.export import engine
    from resharp.runtime.backends.tensorrt import check_engine

    options = engine.EngineOptions(
        variant=chosen,
        precision=precision,
        tile=tile,
        batch=batch,
        dtypes=tuple(dtypes),
        optimization_level=optimization_level,
        image=image,
        force=force,
    )
    bundle = find_or_export(
        model, denoise=denoise, offline=offline, store=store, weights_dir=weights_dir, log=log
    )
    built: list[Built] = []
    failed: dict[str, ResharpError] = {}
    for target in targets:
        try:
            built += engine.build_engines(
                bundle, target, options, check=check_engine, log=log, done=on_built
            )
        except ResharpError as error:
            failed[target.label] = error
    name = bundle.manifest.name
    for label, one in failed.items() if len(failed) == 1 else ():
        raise one if len(targets) == 1 else type(one)(f"{name} for {label}: {one}") from one
    if failed:
        raise BuildError("\n".join(f"{name} for {label}: {one}" for label, one in failed.items()))
    return tuple(built)


def import_checkpoint(
    file: str | os.PathLike[str],
    *,
    name: str | None = None,
    parameters: Mapping[str, int | str] | None = None,
    license: str = "unknown",
    force: bool = False,
    weights_dir: str | os.PathLike[str] | None = None,
    log: Callable[[str], object] = lambda line: None,
) -> ModelEntry:
    """Copy a checkpoint into the folder of checkpoints, as a model with a name.

    An official file, recognized by its name and hash, takes its official place.

    Args:
        file: a .pth, .pt or .safetensors file of one of resharp's own architectures.
        name: name of the model in kebab-case; None makes one from the file name.
        parameters: arguments of the network that its weights do not reveal.
        license: SPDX expression of the license of the weights.
        force: replace another file of that name.
        weights_dir: folder of checkpoints; None is the default.
        log: called with notes on the choice of the weights, e.g. that averaged ones are used.

    Raises:
        CheckpointError: the file cannot be used.
        OptionError: the name is invalid or taken.
        OutputError: the folder cannot be written.
        MissingExtraError: a package of the extra ``export`` is not installed.
    """
    path = as_path(file, "`file`", "a file")
    if not os.path.exists(path):
        raise CheckpointError(f"there is no file {path}")
    name = name or weights.kebab(path.name)
    if not name:
        raise OptionError(f"cannot make a name from {path.name}: pass one as `name`")
    official = weights.lookup(name)
    if official is not None:
        weights.adopt(path, official, weights_dir)
        return official
    models = require(
        "resharp.models", feature="Reading a checkpoint", extra="export", package="torch"
    )
    found = models.read_checkpoint(path, parameters=dict(parameters or {}))
    theirs = models.spandrel_models
    if theirs.is_foreign(found.architecture):
        raise CheckpointError(
            f"{path} is a checkpoint of {theirs.label(found.architecture)}, and only resharp's own "
            f"architectures can be imported: export the file itself with 'resharp export {path}'"
        )
    facts = found.facts
    if (facts.in_channels, facts.out_channels) not in ((3, 3), (1, 1)):
        raise CheckpointError(
            f"{path} maps {facts.in_channels} channels to {facts.out_channels}; only networks for "
            "color images (3 to 3) and gray images (1 to 1) are supported"
        )
    for note in found.notes:
        log(note)
    return weights.register(
        path,
        name=name,
        architecture=found.architecture,
        parameters=found.parameters,
        scale=facts.scale,
        license=license,
        folder=weights_dir,
        force=force,
    )
