"""The manifest: everything that the runtime needs to know about a model, besides its graphs.

The runtime never checks a model's name. A manifest is a JSON file next to the graphs of a bundle.
It is written last, so a folder with a manifest is a complete bundle, and it lists every other file
with its size and SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from resharp.checks import between, check_number, check_ranges, is_schema, matching, record, shown
from resharp.errors import BundleError, OptionError
from resharp.reading import parse_json

SCHEMA = 1
"""Version of the manifest layout; any other version is refused."""
NAME = r"[a-z0-9][a-z0-9._-]{0,200}"
"""Names of bundles, as a regular expression."""
_SHA256 = matching("[0-9a-f]{64}", "a SHA-256 of 64 hexadecimal digits")
_FILE_NAME = matching(r"[A-Za-z0-9_][A-Za-z0-9 ._~+-]{0,200}", "the name of a file in the folder")
_ONE = {"channels": (1, 3), "color": ("bgr",), "layout": ("nhwc",), "precision": ("fp32",)}
"""Values of fields that this version can read."""
_PIXELS = between(1, 16_384)
_MEASURED = between(0, 1e15)


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a bundle."""

    name: str = field(metadata=_FILE_NAME)
    """File name in the bundle's folder."""
    sha256: str = field(metadata=_SHA256)
    """SHA-256 of its contents, 64 hexadecimal digits."""
    size: int = field(metadata=between(0, 1 << 50))
    """Size in bytes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint that the weights were made from."""

    name: str
    """Name in the catalog, or file name."""
    sha256: str = field(metadata=_SHA256)
    """SHA-256 of the checkpoint file."""
    weight: float = field(default=1.0, metadata=between(0, 1))
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
    float_max_abs: float = field(metadata=_MEASURED)
    """Largest absolute difference of the float graph; white is 1."""
    uint8_max_levels: int = field(metadata=between(0, 255))
    """Largest difference of the uint8 graph, in levels of 255."""
    uint8_differing: float = field(metadata=between(0, 1))
    """Fraction of the uint8 graph's values that differ at all."""


@dataclass(frozen=True, kw_only=True)
class ExtraInput:
    """A numeric input of the graphs besides the images: a float32 tensor of shape [1]."""

    name: str = field(metadata=matching(r"[A-Za-z_]\w{0,63}", "the name of an input"))
    """Name of the graph input, e.g. ``fidelity``."""
    default: float = field(metadata=between(-1e6, 1e6))
    """Default value."""
    low: float = field(default=0.0, metadata=between(-1e6, 1e6))
    """Smallest value."""
    high: float = field(default=1.0, metadata=between(-1e6, 1e6))
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Fastest measured settings for one device; None leaves a setting to the backend."""

    backend: str
    """``onnx``, ``torch`` or ``tensorrt``."""
    device: str
    """Name of the GPU, or of the CPU with its number of threads."""
    tile: int | None = field(default=None, metadata=_PIXELS)
    """Largest side of a tile, in pixels."""
    batch: int | None = field(default=None, metadata=between(1, 4096))
    """Tiles per run of the network."""
    lanes: int | None = field(default=None, metadata=between(1, 64))
    """Images processed concurrently on a GPU."""
    threads: int | None = field(default=None, metadata=between(1, 4096))
    """CPU threads per run."""
    graphs: bool | None = None
    """Whether torch records CUDA graphs; None: only for resharp's own architectures."""
    bytes_per_pixel: float | None = field(default=None, metadata=between(1e-3, 1e12))
    """Working memory per input pixel of a batch, in bytes, summed over all lanes."""
    memory: int | None = field(default=None, metadata=between(0, 1 << 50))
    """Memory in bytes that the settings must fit in; None: all that was free."""
    gain: float | None = field(default=None, metadata=between(0, 1e6))
    """Speedup factor over untuned settings, measured in pairs of runs."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries used for the measurement."""

    def __str__(self) -> str:
        names = ("tile", "batch", "lanes", "threads")
        parts = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name)]
        return f"tuned: {', '.join(parts)}" if parts else "tuned"

    def __post_init__(self) -> None:
        try:
            check_ranges(self)
        except ValueError as error:
            raise OptionError(f"invalid tuning: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Contents of a bundle."""

    name: str = field(metadata=matching(NAME, "lowercase letters, digits, - _ ."))
    """Name in the store: lowercase letters, digits, ``-``, ``_``, ``.``."""
    title: str
    """One-line description."""
    task: str
    """``upscale``, ``denoise``, ...; ``face`` for networks that only take aligned faces."""
    scale: int = field(metadata=between(1, 32))
    """Output pixels per input pixel along one side."""
    graphs: Mapping[str, File]
    """ONNX graphs by input and output dtype: ``uint8`` and ``float32``."""
    weights: File
    """Weights as safetensors; the graphs refer to them as ONNX external data."""
    overlap: int = field(metadata=between(0, 512))
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
    size_multiple: int = field(default=1, metadata=between(1, 256))
    """Tiles start at multiples of this many pixels (the graph itself accepts any size)."""
    fixed_size: int | None = field(default=None, metadata=_PIXELS)
    """Input side in pixels, for networks that accept only one size; n stays dynamic."""
    extra: tuple[ExtraInput, ...] = ()
    """Inputs of the graphs besides the images, in order."""
    precision: str = "fp32"
    """Arithmetic precision of the graphs."""
    peak: float | None = field(default=None, metadata=between(0, 1e39))
    """Largest activation that fp16 would have to hold, measured in fp32 on the export image; None
    if it was not measured or is not finite."""
    engine_precision: str | None = field(
        default=None, metadata=matching("fp16|mixed|fp32", "fp16, mixed or fp32")
    )
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
    activation_bytes: float | None = field(default=None, metadata=_MEASURED)
    """Measured working memory per input pixel on the CPU in fp32, in bytes; None: unknown."""
    flops_per_pixel: float | None = field(default=None, metadata=_MEASURED)
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
        BundleError: the text is not JSON, has another schema version, lacks a field, or has a value
            of another type or out of range.
    """
    try:
        data = parse_json(text)
    except ValueError as error:
        raise BundleError(f"{where} is not a manifest ({error}): export the model again") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise BundleError(f"{where} is not a manifest (no schema version): export the model again")
    if not is_schema(data["schema"], SCHEMA):
        raise BundleError(
            f"{where} has schema version {shown(data['schema'])}, but this resharp reads version "
            f"{SCHEMA}: export the model again, or use the resharp version that wrote it"
        )
    if "licence" in data:  # spelling in stores older than 0.1.0
        data.setdefault("license", data["licence"])
    try:
        manifest = record(Manifest, data)
        _check(manifest)
    except ValueError as error:  # includes OptionError
        raise BundleError(f"{where} is damaged ({error}): export the model again") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Check the relations between fields, and the items of lists.

    Raises:
        ValueError: a value is invalid.
    """
    for name, able in _ONE.items():
        if getattr(manifest, name) not in able:
            raise ValueError(f"{name} {shown(getattr(manifest, name))} is not supported")
    if not {"uint8"} <= set(manifest.graphs) <= {"uint8", "float32"}:
        raise ValueError(f"the graphs are {', '.join(manifest.graphs) or 'missing'}")
    if len({file.name for file in manifest.files()}) < len(manifest.files()):
        raise ValueError("two files have the same name")
    low, high = manifest.value_range
    if not low < high:
        raise ValueError(f"value_range must increase, got {low:g}, {high:g}")
    places = [place for place, _ in manifest.overlap_curve]
    if any(left < 0 for curve in manifest.overlap_curve for left in curve):
        raise ValueError("overlap_curve has a negative number")
    if any(first >= second for first, second in pairwise(places)):
        raise ValueError("the overlaps of overlap_curve must increase")
    if manifest.twin is not None and len(manifest.sources) != 1:
        raise ValueError(f"a model with a twin has one source, got {len(manifest.sources)}")
    if len({one.name for one in manifest.extra}) < len(manifest.extra):
        raise ValueError("two extra inputs have the same name")
    manifest.extra_values()
