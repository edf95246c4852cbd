"""Exports a checkpoint to a bundle in the store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from resharp import __version__, models
from resharp.checks import shown
from resharp.engines import Bundle, BundleDraft, ExtraInput, Manifest, Store
from resharp.engines.store import named
from resharp.errors import BundleError, NotExportedError, OptionError
from resharp.export.dni import with_dni_partner
from resharp.export.measure import costs, overlap
from resharp.export.onnx.checked_export import checked_export
from resharp.export.onnx.external_data import MIN_BYTES
from resharp.export.onnx.trace import EXPORTERS, OPSET
from resharp.export.parity import Infer
from resharp.export.sources import Origin, locate
from resharp.paths import store_folder
from resharp.types import Array, Log
from resharp.weights.entry import BUILTIN

FACE = "face"
"""``Manifest.task`` of networks for aligned faces."""
LAYOUT = 3
"""Incremented when the same weights give other graphs, so that old bundles are exported again."""
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options for exporting a model."""

    denoise: float | None = None
    """Denoise strength 0..1, for a model that is blended with a second checkpoint."""
    name: str | None = None
    """Name of the bundle; None takes the model's, or the file's."""
    title: str | None = None
    """One line for people; None takes the catalogue's, or the file's name."""
    license: str | None = None
    """License of the weights; None takes the catalogue's, or ``unknown`` for a file."""
    exporter: str | None = None
    """``legacy`` or ``dynamo``, torch's two exporters; None takes the one that suits the
    network."""
    image: Array | None = None
    """uint8 BGR photo ``[h, w, 3]`` to measure the overlap on; None draws one."""
    parameters: Mapping[str, int | str] = field(default_factory=dict)
    """Arguments of the network that its weights do not reveal, e.g. ``act_type``."""
    builtin: bool = False
    """Whether this is the built-in model, whose name no other model may take."""
    force: bool = False
    """Export again, and replace a bundle of that name that has other weights."""
    offline: bool | None = None
    """Forbid downloads; None reads ``RESHARP_OFFLINE``."""

    def __post_init__(self) -> None:
        if self.exporter not in (None, *EXPORTERS):
            known = " or ".join(EXPORTERS)
            raise OptionError(f"`exporter` must be {known}, got {shown(self.exporter)}")


def export(
    source: str | os.PathLike[str],
    options: ExportOptions | None = None,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    log: Log = lambda line: None,
) -> Bundle:
    """Export a model to the store, or return its bundle if that is done.

    Args:
        source: a name of the catalogue or of an imported checkpoint, or a checkpoint file.
        options: how to export; None takes the defaults.
        weights_dir: folder of checkpoints; None is the default.
        store: folder of the bundles; None is the default.
        log: called with a line for each step.

    Raises:
        UnknownModelError: no model has that name.
        CheckpointError: the checkpoint cannot be used.
        ParityError: a graph does not compute what PyTorch computes; nothing is stored.
        DownloadError: the checkpoint cannot be downloaded.
        OutputError: the store cannot be written.
        StoreBusyError: another process is writing the same bundle.
        OptionError: an option is invalid.
    """
    options = options or ExportOptions()
    origin = locate(
        source,
        denoise=options.denoise,
        name=options.name,
        folder=weights_dir,
        offline=options.offline,
        log=log,
    )
    return export_origin(origin, options, store=store, log=log)


def export_origin(
    origin: Origin,
    options: ExportOptions,
    *,
    store: str | os.PathLike[str] | None = None,
    log: Log = lambda line: None,
) -> Bundle:
    """Same as :func:`export`, for checkpoints that have been located."""
    bundles = Store(store_folder(store))
    waiting = f"another process is exporting {origin.name}: waiting for it"
    with bundles.writing(origin.name, on_wait=lambda: log(waiting)) as draft:
        try:
            there = bundles.find(origin.name)
        except (NotExportedError, BundleError):
            there = None
        _check_free(there, origin, options)
        if there is not None and not options.force and _is_done(there, origin, options):
            log(f"{origin.name} is already exported: nothing to do")
            return there
        return _export(origin, options, draft, log)


def _check_free(there: Bundle | None, origin: Origin, options: ExportOptions) -> None:
    """Raise if a file, whose name says little, would replace other weights without ``force``."""
    if origin.name == BUILTIN and not options.builtin:
        raise OptionError(f"{BUILTIN} is the built-in model: choose another `name`")
    if options.force or not origin.from_file or there is None:
        return
    if there.manifest.sources != origin.sources:
        raise OptionError(
            f"{origin.name} in the store was made from other weights "
            f"({', '.join(source.name for source in there.manifest.sources)}): choose another "
            "`name`, or replace it with `force`"
        )


def _is_done(there: Bundle, origin: Origin, options: ExportOptions) -> bool:
    """Return whether a bundle has the same weights and exporter, and is undamaged."""
    manifest = there.manifest
    mixed = None if manifest.twin is None else manifest.twin.source
    same = (
        manifest.sources == origin.sources
        and (origin.twin is None or mixed == origin.twin.source)
        and options.exporter in (None, manifest.versions.get("exporter"))
        and manifest.versions.get("layout") == str(LAYOUT)
    )
    try:
        if same:  # otherwise there is no need to hash
            there.verify()
    except BundleError:
        return False
    return same


def _export(origin: Origin, options: ExportOptions, draft: BundleDraft, log: Log) -> Bundle:
    log("reading the weights")
    checkpoint = _checkpoint(origin, options.parameters, log)
    facts = checkpoint.facts
    network = models.build(checkpoint)
    path = draft.folder / "weights.safetensors"
    models.save_safetensors(checkpoint, path)
    weights = named(path, "weights")  # the hash in the name ties graphs to weights
    passed = checked_export(
        checkpoint,
        network,
        weights,
        draft.folder,
        exporter=options.exporter,
        least=MIN_BYTES if origin.twin is None else 1,  # blending replaces small constants too
        log=log,
    )
    curve = _overlap_curve(passed.infer["float32"], facts, options.image, log)
    chosen = overlap.choose(curve) if curve else 0
    log("measuring the activations")
    peak, precision = costs.largest_activation(network, facts, options.image)
    flops = costs.flops_per_pixel(network, facts)
    log("measuring the working memory")
    memory = costs.memory_per_pixel(draft.folder / passed.graphs["uint8"].name, facts.fixed_size)
    manifest = Manifest(
        name=origin.name,
        title=options.title or origin.title,
        task=origin.task if facts.fixed_size is None else FACE,
        scale=facts.scale,
        channels=facts.in_channels,
        graphs=passed.graphs,
        weights=weights,
        overlap=chosen,
        overlap_curve=curve,
        fixed_size=facts.fixed_size,
        extra=tuple(ExtraInput(name=name, default=value) for name, value in facts.extra),
        size_multiple=facts.size_multiple,
        license=options.license or origin.license,
        terms=origin.terms,
        architecture=checkpoint.architecture,
        parameters=checkpoint.parameters,
        sources=origin.sources,
        parity=passed.figures,
        peak=peak,
        engine_precision=precision,
        activation_bytes=memory,
        flops_per_pixel=flops,
        versions={
            **{package: version(package) for package in PACKAGES},
            "resharp": __version__,
            "exporter": passed.exporter,
            "opset": str(OPSET),
            "layout": str(LAYOUT),
        },
    )
    if origin.twin is not None:
        log(f"comparing the blend with {origin.twin.source.name}")
        manifest = with_dni_partner(
            manifest, checkpoint, origin.twin, draft.folder, options.image, log
        )
    log("storing the bundle")
    return draft.commit(manifest)


def _overlap_curve(
    infer: Infer, facts: models.NetworkFacts, picture: Array | None, log: Log
) -> overlap.Curve:
    """Measure the overlap; networks with a fixed size are not tiled, and have an empty curve."""
    if facts.fixed_size is not None:
        return ()
    log("measuring the overlap")
    curve = overlap.measure(infer, picture, facts.size_multiple)
    left = overlap.excess(curve)
    if left is not None:
        log(
            f"tiles differ from the whole image by up to {left:.2f} levels of 255 at the largest "
            f"overlap, {curve[-1][0]}: the network's receptive field is larger. A larger `tile` "
            "reduces this."
        )
    return curve


def _checkpoint(origin: Origin, parameters: Mapping[str, int | str], log: Log) -> models.Checkpoint:
    parts = []
    for part in origin.parts:
        found = models.read_checkpoint(
            part.path,
            architecture=part.architecture,
            parameters={**part.parameters, **parameters},
        )
        for note in found.notes:
            log(f"{part.path.name} {note}")
        parts.append((found, part.source.weight))
    return parts[0][0] if len(parts) == 1 else models.blend(parts)
