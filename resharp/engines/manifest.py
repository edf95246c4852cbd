"""The manifest: all that the runtime needs to know of a model, so that it never asks which one.

A manifest is a JSON file beside the graphs of a bundle. It is written last, so that a folder with a
manifest is a whole bundle, and it names every other file with its size and SHA-256.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from resharp.errors import BundleError, OptionError

SCHEMA = 1
"""Version of the layout below; a manifest of any other version is refused."""


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a bundle."""

    name: str
    """Its name in the bundle's folder."""
    sha256: str
    """Hash of its bytes, 64 hexadecimal digits."""
    size: int
    """Bytes."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint that the weights came from."""

    name: str
    """Catalogue entry, or file name."""
    sha256: str
    """Hash of the checkpoint's bytes."""
    weight: float = 1.0
    """Its share, where several checkpoints were interpolated."""


@dataclass(frozen=True, kw_only=True)
class DniPartner:
    """A second checkpoint of the same network, to mix with: ``s * model + (1 - s) * twin``."""

    weights: File
    """Its tensors, laid out as those of the model."""
    source: Source
    """The checkpoint."""


@dataclass(frozen=True, kw_only=True)
class GraphParity:
    """How far the graphs were from PyTorch when they were exported, over all shapes tried."""

    shapes: tuple[tuple[int, int, int], ...]
    """Inputs compared: (n, h, w) each."""
    float_max_abs: float
    """Largest absolute difference of the float graph; white is 1."""
    uint8_max_levels: int
    """Largest difference of the uint8 graph, in levels of 255."""
    uint8_differing: float
    """Share of values of the uint8 graph that differ at all."""


@dataclass(frozen=True, kw_only=True)
class ExtraInput:
    """A number that the graphs take beside the pictures: a float32 tensor of shape [1]."""

    name: str
    """Of the graphs' input: ``fidelity``."""
    default: float
    """What it is where nobody says."""
    low: float = 0.0
    """Smallest value."""
    high: float = 1.0
    """Largest value."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings that were measured to be the fastest on one device; None is the backend's own."""

    backend: str
    """``onnx``, ``torch`` or ``tensorrt``."""
    device: str
    """Name of the GPU, or of the CPU with its threads."""
    tile: int | None = None
    """Largest side of a tile, in pixels."""
    batch: int | None = None
    """Tiles of one run of the network."""
    lanes: int | None = None
    """Pictures in work at once on a GPU."""
    threads: int | None = None
    """CPU threads of one run."""
    graphs: bool | None = None
    """Whether torch records CUDA graphs; None: only of resharp's own architectures."""
    bytes_per_pixel: float | None = None
    """Working memory per input pixel of a batch, in all lanes together."""
    memory: int | None = None
    """Bytes that the settings were to fit in; None: what was free."""
    gain: float | None = None
    """Times faster than without, in pairs."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that it was measured with."""

    def __str__(self) -> str:
        names = ("tile", "batch", "lanes", "threads")
        parts = [f"{name} {getattr(self, name)}" for name in names if getattr(self, name)]
        return f"tuned: {', '.join(parts)}" if parts else "tuned"

    def __post_init__(self) -> None:
        for name in ("tile", "batch", "lanes", "threads", "bytes_per_pixel"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} of a tuning is {value!r}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle holds."""

    name: str
    """Name in the store: lower case letters, digits, ``-``, ``_``, ``.``."""
    title: str
    """One line for people."""
    task: str
    """``upscale``, ``denoise``, ...; ``face`` for aligned faces, which are no upscalers' matter."""
    scale: int
    """Output pixels per input pixel, along one side."""
    graphs: Mapping[str, File]
    """ONNX graphs by the dtype that goes in and out: ``uint8`` and ``float32``."""
    weights: File
    """The weights, as safetensors; the graphs point into it (ONNX external data)."""
    overlap: int
    """Context pixels around a tile that are thrown away, so that no seam is seen."""
    overlap_curve: tuple[tuple[int, float], ...] = ()
    """Measured at export: (overlap, largest error in levels of 255 of tiled against untiled)."""
    twin: DniPartner | None = None
    """What denoise strengths below 1 mix with; None: the model has no strengths."""
    channels: int = 3
    """Channels of the network: 3, or 1 for gray. The graphs take and give three either way."""
    color: str = "bgr"
    """Order of the channels in and out, as OpenCV has them."""
    layout: str = "nhwc"
    """Order of the axes; n, h and w are dynamic."""
    value_range: tuple[float, float] = (0.0, 1.0)
    """Range of the float graph."""
    size_multiple: int = 1
    """Tiles start at multiples of this many pixels (the graph itself takes any size)."""
    fixed_size: int | None = None
    """Side that the input must have, for networks that take no other; n stays dynamic."""
    extra: tuple[ExtraInput, ...] = ()
    """Inputs of the graphs beside the pictures, in their order."""
    precision: str = "fp32"
    """Arithmetic of the graphs."""
    peak: float | None = None
    """Largest activation that fp16 would have to hold, measured in fp32 on the export picture; None
    where it was not measured, or is not finite."""
    engine_precision: str | None = None
    """Arithmetic that GPUs begin with, ``fp16`` or ``mixed``, as the peak advises; None, in a
    manifest from before it was measured, is ``fp16``."""
    license: str = "unknown"
    """Of the weights, an SPDX name where there is one."""
    terms: str = ""
    """Limits on their use, for people; empty where the license says it all."""
    architecture: str = ""
    """Class of the network, for people: the runtime does not read it."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Its parameters, for people."""
    sources: tuple[Source, ...] = ()
    """Checkpoints that the weights came from."""
    parity: GraphParity | None = None
    """Figures of the parity gate."""
    activation_bytes: float | None = None
    """Working memory per input pixel on the CPU in fp32, measured; None where it was not."""
    flops_per_pixel: float | None = None
    """Floating-point operations per input pixel, an addition being one; None: not counted."""
    tunings: tuple[Tuning, ...] = ()
    """What was measured to be fastest, for each backend and device."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that made the graphs, and the opset."""
    schema: int = SCHEMA
    """Version of this layout."""

    def files(self) -> tuple[File, ...]:
        """Every file that the bundle needs."""
        twin = () if self.twin is None else (self.twin.weights,)
        return (self.weights, *self.graphs.values(), *twin)

    def tuning(self, backend: str, device: str) -> Tuning | None:
        """The settings for a backend and a device by its name; None where nothing was measured."""
        found = (x for x in self.tunings if (x.backend, x.device) == (backend, device))
        return next(found, None)

    def extra_values(self, given: Mapping[str, float] | None = None) -> tuple[float, ...]:
        """The numbers for :attr:`extra`, in its order; what is not given is the default.

        Raises:
            OptionError: the model has no such input, or the value is out of its range.
        """
        given = dict(given or {})
        values = tuple(_number(one, given.pop(one.name, one.default)) for one in self.extra)
        if given:
            known = ", ".join(one.name for one in self.extra) or "none"
            raise OptionError(f"{self.name} has no input {', '.join(given)}; it has {known}")
        return values

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def _number(one: ExtraInput, value: float) -> float:
    given: object = value  # whatever a caller gave
    if not (isinstance(given, int | float) and one.low <= given <= one.high):  # NaN compares false
        raise OptionError(f"{one.name} is {value!r}; it must be in {one.low:g}..{one.high:g}")
    return float(value)


def parse(text: str, where: str) -> Manifest:
    """Read a manifest.

    Args:
        text: the JSON.
        where: names it in errors.

    Raises:
        BundleError: it is no JSON, has another schema version, or lacks a field.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise BundleError(f"{where} is not a manifest ({error}): export the model again") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise BundleError(f"{where} is not a manifest (no schema version): export the model again")
    if data["schema"] != SCHEMA:
        raise BundleError(
            f"{where} has schema version {data['schema']!r}; this resharp reads version {SCHEMA}: "
            "export the model again, or use the resharp that wrote it"
        )
    if "licence" in data:  # how stores older than 0.1.0 spell it
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
    """The items that ``kind`` has; newer minor versions may add others."""
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
            raise ValueError(f"{name} is {getattr(manifest, name)!r}")
    if not isinstance(manifest.overlap, int) or manifest.overlap < 0:
        raise ValueError(f"overlap is {manifest.overlap!r}")
    side = manifest.fixed_size
    if side is not None and (not isinstance(side, int) or side < 1):
        raise ValueError(f"fixed_size is {side!r}")
    if not isinstance(manifest.peak, int | float | None):
        raise ValueError(f"peak is {manifest.peak!r}")
    manifest.extra_values()
    if "uint8" not in manifest.graphs:
        raise ValueError("no uint8 graph")
    for file in manifest.files():
        if "/" in file.name or "\\" in file.name or file.name.startswith("."):
            raise ValueError(f"file name {file.name!r}")
