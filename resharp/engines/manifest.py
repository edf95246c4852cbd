"""The manifest: everything that the runtime needs to know about a model, besides its graphs.

The runtime never checks a model's name. A manifest is a JSON file next to the graphs of a bundle.
It is written last, so a folder with a manifest is a complete bundle, and it lists every other file
with its size and SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from resharp.checks import check_number
from resharp.errors import BundleError, OptionError

SCHEMA = 1
"""Version of the manifest layout; any other version is refused."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a bundle."""

    name: str
    """File name in the bundle's folder."""
    sha256: str
    """SHA-256 of its contents, 64 hexadecimal digits."""
    size: int
    """Size in bytes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint that the weights were made from."""

    name: str
    """Name in the catalog, or file name."""
    sha256: str
    """SHA-256 of the checkpoint file."""
    weight: float = 1.0
    """Weight in the interpolation, if several checkpoints were interpolated."""


@dataclass(frozen=True, kw_only=True)
class DniPartner:
    """A second checkpoint of the same network to mix with: ``s * model + (1 - s) * twin``."""

    weights: File
    """Tensors of the twin, in the same layout as the model's."""
    source: Source
    """Checkpoint that the tensors were made from."""


@dataclass(frozen=True, kw_only=True)
class GraphParity:
    """Differences between the graphs and PyTorch at export, over all shapes compared."""

    shapes: tuple[tuple[int, int, int], ...]
    """Input shapes compared, (n, h, w) each."""
    float_max_abs: float
    """Largest absolute difference of the float graph; white is 1."""
    uint8_max_levels: int
    """Largest difference of the uint8 graph, in levels of 255."""
    uint8_differing: float
    """Fraction of the uint8 graph's values that differ at all."""


@dataclass(frozen=True, kw_only=True)
class ExtraInput:
    """A numeric input of the graphs besides the images: a float32 tensor of shape [1]."""

    name: str
    """Name of the graph input, e.g. ``fidelity``."""
    default: float
    """Default value."""
    low: float = 0.0
    """Smallest value."""
    high: float = 1.0
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Fastest measured settings for one device; None leaves a setting to the backend."""

    backend: str
    """``onnx``, ``torch`` or ``tensorrt``."""
    device: str
    """Name of the GPU, or of the CPU with its number of threads."""
    tile: int | None = None
    """Largest side of a tile, in pixels."""
    batch: int | None = None
    """Tiles per run of the network."""
    lanes: int | None = None
    """Images processed concurrently on a GPU."""
    threads: int | None = None
    """CPU threads per run."""
    graphs: bool | None = None
    """Whether torch records CUDA graphs; None: only for resharp's own architectures."""
    bytes_per_pixel: float | None = None
    """Working memory per input pixel of a batch, in bytes, summed over all lanes."""
    memory: int | None = None
    """Memory in bytes that the settings must fit in; None: all that was free."""
    gain: float | None = None
    """Speedup factor over untuned settings, measured in pairs of runs."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries used for the measurement."""

    def __str__(self) -> str:
        names = ("tile", "batch", "lanes", "threads")
        parts = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name)]
        return f"tuned: {', '.join(parts)}" if parts else "tuned"

    def __post_init__(self) -> None:
        for name in ("tile", "batch", "lanes", "threads", "bytes_per_pixel"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} of a tuning must be positive, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a bundle."""

    name: str
    """Name in the store: lowercase letters, digits, ``-``, ``_``, ``.``."""
    title: str
    """One-line description."""
    task: str
    """``upscale``, ``denoise``, ...; ``face`` for networks that only take aligned faces."""
    scale: int
    """Output pixels per input pixel along one side."""
    graphs: Mapping[str, File]
    """ONNX graphs by input and output dtype: ``uint8`` and ``float32``."""
    weights: File
    """Weights as safetensors; the graphs refer to them as ONNX external data."""
    overlap: int
    """Context pixels around a tile that are discarded so that no seam is visible."""
    overlap_curve: tuple[tuple[int, float], ...] = ()
    """Measured at export: (overlap, largest tiling error in levels of 255) pairs."""
    twin: DniPartner | None = None
    """Checkpoint mixed in for denoise strengths below 1; None: the model has no strengths."""
    channels: int = 3
    """Channels of the network: 3, or 1 for gray. The graphs take and return 3 in both cases."""
    color: str = "bgr"
    """Channel order of input and output, as in OpenCV."""
    layout: str = "nhwc"
    """Order of the axes; n, h and w are dynamic."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Value range of the float graph."""
    size_multiple: int = 1
    """Tiles start at multiples of this many pixels (the graph itself accepts any size)."""
    fixed_size: int | None = None
    """Input side in pixels, for networks that accept only one size; n stays dynamic."""
    extra: tuple[ExtraInput, ...] = ()
    """Inputs of the graphs besides the images, in order."""
    precision: str = "fp32"
    """Arithmetic precision of the graphs."""
    peak: float | None = None
    """Largest activation that fp16 would have to hold, measured in fp32 on the export image; None
    if it was not measured or is not finite."""
    engine_precision: str | None = None
    """Precision that GPUs try first, ``fp16`` or ``mixed``, chosen from the peak; None, in older
    manifests, means ``fp16``."""
    license: str = "unknown"
    """License of the weights, as an SPDX identifier where one exists."""
    terms: str = ""
    """Restrictions on the use of the weights; empty if the license covers everything."""
    architecture: str = ""
    """Class of the network, for information only: the runtime does not read it."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the network, for information only."""
    sources: tuple[Source, ...] = ()
    """Checkpoints that the weights were made from."""
    parity: GraphParity | None = None
    """Results of the parity check at export."""
    activation_bytes: float | None = None
    """Measured working memory per input pixel on the CPU in fp32, in bytes; None: unknown."""
    flops_per_pixel: float | None = None
    """Floating-point operations per input pixel, an addition counting as one; None: unknown."""
    tunings: tuple[Tuning, ...] = ()
    """Fastest measured settings, one entry per backend and device."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that made the graphs, and the opset."""
    schema: int = SCHEMA
    """Version of this layout."""

    def files(self) -> tuple[File, ...]:
        """Return all files that the bundle needs."""
        twin = () if self.twin is None else (self.twin.weights,)
        return (self.weights, *self.graphs.values(), *twin)

    def tuning(self, backend: str, device: str) -> Tuning | None:
        """Return the tuning for a backend and a device name; None if nothing was measured."""
        found = (x for x in self.tunings if (x.backend, x.device) == (backend, device))
        return next(found, None)

    def extra_values(self, given: Mapping[str, float] | None = None) -> tuple[float, ...]:
        """Return the values of :attr:`extra`, in order, with defaults for those not given.

        Raises:
            OptionError: the model has no such input, or a value is out of range.
        """
        given = dict(given or {})
        values = tuple(_number(one, given.pop(one.name, one.default)) for one in self.extra)
        if given:
            known = ", ".join(one.name for one in self.extra) or "none"
            raise OptionError(f"{self.name} has no input {', '.join(given)}; available: {known}")
        return values

    def to_json(self) -> str:
        """Return the manifest as stored."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def _number(one: ExtraInput, value: float) -> float:
    return check_number(one.name, value, one.low, one.high)


def parse(text: str, where: str) -> Manifest:
    """Parse a manifest.

    Args:
        text: manifest as JSON.
        where: path of the manifest, for error messages.

    Raises:
        BundleError: the text is not JSON, has another schema version, or lacks a field.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{where} is not a manifest ({error}): export the model again") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise BundleError(f"{where} is not a manifest (no schema version): export the model again")
    if data["schema"] != SCHEMA:
        raise BundleError(
            f"{where} has schema version {data['schema']!r}, but this resharp reads version "
            f"{SCHEMA}: export the model again, or use the resharp version that wrote it"
        )
    if "licence" in data:  # spelling in stores older than 0.1.0
        data.setdefault("license", data["licence"])
    try:
        return _manifest(data)
    except (KeyError, TypeError, ValueError, AttributeError, OptionError) as error:
        raise BundleError(f"{where} is damaged ({error}): export the model again") from error


def _manifest(data: dict[str, Any]) -> Manifest:
    values = known_fields(Manifest, data)
    values["graphs"] = {
        key: File(**known_fields(File, item)) for key, item in data["graphs"].items()
    }
    values["weights"] = File(**known_fields(File, data["weights"]))
    values["overlap_curve"] = tuple((int(d), float(e)) for d, e in data.get("overlap_curve", ()))
    values["sources"] = tuple(
        Source(**known_fields(Source, item)) for item in data.get("sources", ())
    )
    values["extra"] = tuple(
        ExtraInput(**known_fields(ExtraInput, item)) for item in data.get("extra", ())
    )
    values["tunings"] = tuple(
        Tuning(**known_fields(Tuning, item)) for item in data.get("tunings", ())
    )
    twin = data.get("twin")
    values["twin"] = None if twin is None else _twin(twin)
    low, high = data.get("value_range", (0.0, 1.0))
    values["value_range"] = (float(low), float(high))
    parity = data.get("parity")
    if parity is not None:
        shapes = tuple((int(n), int(h), int(w)) for n, h, w in parity["shapes"])
        values["parity"] = GraphParity(**(known_fields(GraphParity, parity) | {"shapes": shapes}))
    manifest = Manifest(**values)
    _check(manifest)
    return manifest


def known_fields(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items that are fields of ``kind``; newer minor versions may add others."""
    names = {item.name for item in fields(kind)}
    return {key: value for key, value in data.items() if key in names}


def _twin(data: dict[str, Any]) -> DniPartner:
    return DniPartner(
        weights=File(**known_fields(File, data["weights"])),
        source=Source(**known_fields(Source, data["source"])),
    )


def _check(manifest: Manifest) -> None:
    for name in ("scale", "size_multiple", "channels"):
        if not isinstance(getattr(manifest, name), int) or getattr(manifest, name) < 1:
            raise ValueError(f"invalid {name} {getattr(manifest, name)!r}")
    if not isinstance(manifest.overlap, int) or manifest.overlap < 0:
        raise ValueError(f"invalid overlap {manifest.overlap!r}")
    side = manifest.fixed_size
    if side is not None and (not isinstance(side, int) or side < 1):
        raise ValueError(f"invalid fixed_size {side!r}")
    if not isinstance(manifest.peak, int | float | None):
        raise ValueError(f"invalid peak {manifest.peak!r}")
    manifest.extra_values()
    if "uint8" not in manifest.graphs:
        raise ValueError("no uint8 graph")
    for file in manifest.files():
        if "/" in file.name or "\\" in file.name or file.name.startswith("."):
            raise ValueError(f"invalid file name {file.name!r}")
