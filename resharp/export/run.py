"""export(): from a checkpoint to a bundle of the store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from resharp import __version__, models
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
"""Raised when the same weights come out as other graphs, so that old bundles are remade."""
PACKAGES = ("torch", "onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How to export."""

    denoise: float | None = None
    """Strength 0..1, for an entry that has a twin to blend with."""
    name: str | None = None
    """Of the bundle; None takes the model's, or the file's."""
    title: str | None = None
    """One line for people; None takes the catalogue's, or the file's name."""
    license: str | None = None
    """Of the weights; None takes the catalogue's, or unknown for a file."""
    exporter: str | None = None
    """``legacy`` or ``dynamo``, torch's two ways to ONNX; None takes the one that suits the
    network."""
    image: Array | None = None
    """uint8 BGR photo to measure the overlap on; None draws one."""
    parameters: Mapping[str, int | str] = field(default_factory=dict)
    """Arguments of the network that its weights cannot tell, ``act_type`` say."""
    builtin: bool = False
    """Whether this is the package's own model, whose name no other may take."""
    force: bool = False
    """Export again where it is done, and replace other weights of that name."""
    offline: bool | None = None
    """Forbid downloads; None asks the environment."""

    def __post_init__(self) -> None:
        if self.exporter not in (None, *EXPORTERS):
            raise OptionError(f"exporter {self.exporter!r} is not one of {', '.join(EXPORTERS)}")


def export(
    source: str | os.PathLike[str],
    options: ExportOptions | None = None,
    *,
    weights_dir: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    log: Log = lambda line: None,
) -> Bundle:
    """Export a model into the store, or return its bundle where that is done.

    Args:
        source: a name of the catalogue or of an imported checkpoint, or a file of weights.
        options: how.
        weights_dir: folder of the checkpoints; None takes the default.
        store: folder of the store; None takes the default.
        log: told the steps.

    Raises:
        UnknownModelError: nothing has that name.
        CheckpointError: the weights cannot be used.
        ParityError: a graph does not compute what PyTorch computes; nothing is stored.
        DownloadError, OutputError, StoreBusyError, OptionError: as their names say.
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
    """As :func:`export`, of checkpoints that are at hand."""
    bundles = Store(store_folder(store))
    waiting = f"another process exports {origin.name}: waiting for it"
    with bundles.writing(origin.name, on_wait=lambda: log(waiting)) as draft:
        try:
            there = bundles.find(origin.name)
        except (NotExportedError, BundleError):
            there = None
        _check_free(there, origin, options)
        if there is not None and not options.force and _is_done(there, origin, options):
            log(f"{origin.name} is exported already: nothing to do")
            return there
        return _export(origin, options, draft, log)


def _check_free(there: Bundle | None, origin: Origin, options: ExportOptions) -> None:
    """A file's name says little: do not let it take the place of other weights unasked."""
    if origin.name == BUILTIN and not options.builtin:
        raise OptionError(f"{BUILTIN} is the built-in model: choose another name with `name`")
    if options.force or not origin.from_file or there is None:
        return
    if there.manifest.sources != origin.sources:
        raise OptionError(
            f"{origin.name} in the store was made from other weights "
            f"({', '.join(source.name for source in there.manifest.sources)}): choose another name "
            "with `name`, or replace it with --force"
        )


def _is_done(there: Bundle, origin: Origin, options: ExportOptions) -> bool:
    """Whether it is of the same weights, by the same exporter, and whole."""
    manifest = there.manifest
    mixed = None if manifest.twin is None else manifest.twin.source
    same = (
        manifest.sources == origin.sources
        and (origin.twin is None or mixed == origin.twin.source)
        and options.exporter in (None, manifest.versions.get("exporter"))
        and manifest.versions.get("layout") == str(LAYOUT)
    )
    try:
        if same:  # else there is nothing to hash
            there.verify()
    except BundleError:
        return False
    return same


def _export(origin: Origin, options: ExportOptions, draft: BundleDraft, log: Log) -> Bundle:
    log("reading the weights")
    checkpoint = _checkpoint(origin, options.parameters)
    facts = checkpoint.facts
    network = models.build(checkpoint)
    path = draft.folder / "weights.safetensors"
    models.save_safetensors(checkpoint, path)
    weights = named(path, "weights")  # so that no graph meets others
    passed = checked_export(
        checkpoint,
        network,
        weights,
        draft.folder,
        exporter=options.exporter,
        least=MIN_BYTES if origin.twin is None else 1,  # a twin replaces the small ones too
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
        log(f"comparing the mix with {origin.twin.source.name}")
        manifest = with_dni_partner(
            manifest, checkpoint, origin.twin, draft.folder, options.image, log
        )
    log("storing the bundle")
    return draft.commit(manifest)


def _overlap_curve(
    infer: Infer, facts: models.NetworkFacts, picture: Array | None, log: Log
) -> overlap.Curve:
    """Empty for networks of one size, which are not tiled."""
    if facts.fixed_size is not None:
        return ()
    log("measuring the overlap")
    curve = overlap.measure(infer, picture, facts.size_multiple)
    left = overlap.excess(curve)
    if left is not None:
        log(
            f"tiles differ from the whole picture by up to {left:.2f} levels of 255 at an overlap "
            f"of {curve[-1][0]}, the largest: this network sees farther. Larger tiles show it less "
            "(--tile)"
        )
    return curve


def _checkpoint(origin: Origin, parameters: Mapping[str, int | str]) -> models.Checkpoint:
    parts = [
        (
            models.read_checkpoint(
                part.path,
                architecture=part.architecture,
                parameters={**part.parameters, **parameters},
            ),
            part.source.weight,
        )
        for part in origin.parts
    ]
    return parts[0][0] if len(parts) == 1 else models.blend(parts)
