"""TensorRT engines of a bundle: what identifies one, and its sidecar.

An engine is a program for one GPU, driver and TensorRT version, so it is found by its key or not at
all. The sidecar ``<key>.json`` beside ``<key>.engine`` is written last and says everything that the
key was made from, since TensorRT itself tells nothing of a file without a GPU and does not notice a
flipped bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from resharp.engines.manifest import File, Manifest, known_fields
from resharp.errors import BundleError, DamagedError
from resharp.fsutil import sha256_of
from resharp.gpu import tensorrt as trt

ENGINE_SCHEMA = 2
"""Version of the sidecar's layout; any other is refused."""
PORTABLE = "portable"
"""Target of a TensorRT-RTX engine for no named GPU: see ``resharp.gpu.tensorrt.rtx_portable``."""
CURRENT = "current"
"""Target of a TensorRT-RTX engine that was built on the very GPU that it is for."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Inputs that an engine takes: 1..batch pictures with sides in smallest..tile.

    Tuned for one picture of tile x tile.
    """

    smallest: int
    tile: int
    batch: int


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """All that an engine's key is made from."""

    graph: str
    """SHA-256 of the bundle's FP32 graph."""
    weights: str
    """SHA-256 of the bundle's weights, which the graph points into."""
    dtype: str
    """What goes in and out: ``uint8`` or ``float32``."""
    precision: str
    """``fp16``, ``mixed``, ``fp32`` or ``bf16``."""
    variant: str
    """``tensorrt`` or ``tensorrt_rtx``."""
    version: str
    """Of TensorRT."""
    targets: tuple[str, ...] = ()
    """TensorRT-RTX: ``sm86``, ..., :data:`PORTABLE` or :data:`CURRENT`. TensorRT: empty."""
    gpu: str = ""
    """Name of the GPU that it was built on; empty where it was built without one."""
    capability: str = ""
    """Its compute capability, ``8.9``."""
    driver: str = ""
    """CUDA version of its driver."""
    profile: Profile
    """Inputs that it takes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the builder, and the version of the way in which the graph was typed."""

    def key(self) -> str:
        """SHA-256 over all fields, 64 hexadecimal digits."""
        text = json.dumps({"schema": ENGINE_SCHEMA, **asdict(self)}, sort_keys=True)
        return sha256_of(text.encode())


@dataclass(frozen=True, kw_only=True)
class ParityResult:
    """How far an engine, or its graph, was from the FP32 graph on a picture."""

    psnr: float
    """In dB; infinite is stored as 200."""
    levels: int
    """Largest difference, in levels of 255."""
    passed: bool
    """Whether that is close enough to be used."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A sidecar."""

    model: str
    """Name of the bundle."""
    spec: EngineSpec
    """What its key is made from."""
    file: File
    """The engine itself."""
    reference: File
    """A picture and what the FP32 graph makes of it, to check the engine against on its GPU."""
    graph: ParityResult
    """The typed graph on the CPU against the FP32 graph, before the build."""
    seconds: float
    """That the build took."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that made it."""
    schema: int = ENGINE_SCHEMA
    """Version of this layout."""

    @property
    def key(self) -> str:
        """See :meth:`EngineSpec.key`."""
        return self.spec.key()

    def to_json(self) -> str:
        """The sidecar as it is stored; the key stands in it for people."""
        return json.dumps({"key": self.key, **asdict(self)}, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The GPU, driver and TensorRT at hand."""

    variant: str
    version: str
    gpu: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.gpu}, {self.variant} {self.version}"


def parse_engine(text: str, where: str) -> Engine:
    """Read a sidecar.

    Raises:
        DamagedError: it is no sidecar, or was changed after it was written.
        BundleError: it is of another schema.
    """
    try:
        data = json.loads(text)
        if data["schema"] != ENGINE_SCHEMA:
            raise BundleError(
                f"{where} has schema version {data['schema']!r}; this resharp reads "
                f"{ENGINE_SCHEMA}: build the engine again"
            )
        engine = _engine(data)
        if data["key"] != engine.key:
            raise DamagedError(f"{where} was changed after it was written: build the engine again")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{where} is damaged ({error!r}): build the engine again") from error
    return engine


def _engine(data: Mapping[str, Any]) -> Engine:
    spec = known_fields(EngineSpec, data["spec"])
    spec["profile"] = Profile(**known_fields(Profile, spec["profile"]))
    spec["targets"] = tuple(spec["targets"])
    values = known_fields(Engine, data)
    values["spec"] = EngineSpec(**spec)
    for name in ("file", "reference"):
        values[name] = File(**known_fields(File, data[name]))
    values["graph"] = ParityResult(**known_fields(ParityResult, data["graph"]))
    return Engine(**values)


def is_of(spec: EngineSpec, manifest: Manifest) -> bool:
    """Whether an engine was made from this export of the model."""
    graph = manifest.graphs.get(spec.dtype)
    if graph is None:
        return False
    return (spec.graph, spec.weights) == (graph.sha256, manifest.weights.sha256)


def mismatch(spec: EngineSpec, manifest: Manifest, here: Environment) -> str | None:
    """Why an engine is not for this bundle, GPU, driver and TensorRT; None if it is."""
    if not is_of(spec, manifest):
        return "made from an older export of the model"
    if (spec.variant, spec.version) != (here.variant, here.version):
        return f"made by {spec.variant} {spec.version}, here is {here.variant} {here.version}"
    if spec.targets and (refusal := trt.rtx_refusal(here.gpu, here.capability)):
        return refusal
    if spec.targets and CURRENT not in spec.targets:
        name = target_name(here.capability)
        if name in spec.targets or (PORTABLE in spec.targets and trt.rtx_portable(here.capability)):
            return None
        return f"made for {', '.join(spec.targets)}, here is {here.gpu} ({name})"
    if (spec.gpu, spec.capability) != (here.gpu, here.capability):
        return f"made for {spec.gpu} ({spec.capability}), here is {here.gpu}"
    if spec.driver != here.driver:
        return f"made with a driver for CUDA {spec.driver}, here is one for CUDA {here.driver}"
    return None


def target_name(capability: str) -> str:
    """``8.9`` as ``sm89``."""
    return "sm" + capability.replace(".", "")


def file_part(name: str) -> str:
    """The name of a GPU, or of anything, as a part of a file's name."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())
