"""TensorRT engines of a bundle: the key that identifies an engine, and its sidecar file.

An engine is built for one GPU, driver and TensorRT version, so it is only found by its exact key.
The sidecar ``<key>.json`` next to ``<key>.engine`` is written last and records everything that the
key is made from, since TensorRT cannot describe an engine file without a GPU and does not notice a
flipped bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from resharp.checks import between, is_schema, record, shown
from resharp.engines.manifest import File, Manifest
from resharp.errors import BundleError, DamagedError
from resharp.fsutil import sha256_of
from resharp.gpu import tensorrt as trt
from resharp.reading import parse_json

ENGINE_SCHEMA = 2
"""Version of the sidecar layout; any other version is refused."""
PORTABLE = "portable"
"""Target of a TensorRT-RTX engine not tied to named GPUs; see :func:`rtx_portable`."""
CURRENT = "current"
"""Target of a TensorRT-RTX engine that was built on the GPU that it is for."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Inputs that an engine accepts: 1..batch images with sides in smallest..tile.

    Optimized for one image of tile x tile.
    """

    smallest: int = field(metadata=between(1, 16_384))
    tile: int = field(metadata=between(1, 16_384))
    batch: int = field(metadata=between(1, 4096))


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """Everything that an engine's key is made from."""

    graph: str
    """SHA-256 of the bundle's FP32 graph."""
    weights: str
    """SHA-256 of the bundle's weights, which the graph refers to."""
    dtype: str
    """Input and output dtype: ``uint8`` or ``float32``."""
    precision: str
    """``fp16``, ``mixed``, ``fp32`` or ``bf16``."""
    variant: str
    """``tensorrt`` or ``tensorrt_rtx``."""
    version: str
    """TensorRT version, e.g. ``10.16.1``."""
    targets: tuple[str, ...] = ()
    """TensorRT-RTX targets: ``sm86``, ..., PORTABLE or CURRENT. Empty for TensorRT."""
    gpu: str = ""
    """Name of the GPU it was built on; empty if it was built without one."""
    capability: str = ""
    """Compute capability of that GPU, e.g. ``8.9``."""
    driver: str = ""
    """CUDA version of that GPU's driver."""
    profile: Profile
    """Inputs that the engine accepts."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Builder options, and the version of the graph typing method."""

    def key(self) -> str:
        """Return the SHA-256 over all fields, as 64 hexadecimal digits."""
        text = json.dumps({"schema": ENGINE_SCHEMA, **asdict(self)}, sort_keys=True)
        return sha256_of(text.encode())


@dataclass(frozen=True, kw_only=True)
class ParityResult:
    """Difference between an engine, or its graph, and the FP32 graph on one image."""

    psnr: float = field(metadata=between(-1000, 1000))
    """PSNR in dB; infinity is stored as 200."""
    levels: int = field(metadata=between(0, 255))
    """Largest difference, in levels of 255."""
    passed: bool
    """Whether the difference is small enough for use."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine as described by its sidecar."""

    model: str
    """Name of the bundle."""
    spec: EngineSpec
    """Fields that the key is made from."""
    file: File
    """The engine file."""
    reference: File
    """File with an image and its FP32 result, to check the engine on its GPU."""
    graph: ParityResult
    """Parity of the typed graph with the FP32 graph, on the CPU before the build."""
    seconds: float = field(metadata=between(0, 1e9))
    """Build time in seconds."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that built it."""
    schema: int = ENGINE_SCHEMA
    """Version of this layout."""

    @property
    def key(self) -> str:
        """SHA-256 over all fields of ``spec``."""
        return self.spec.key()

    def to_json(self) -> str:
        """Return the sidecar as stored, including the key."""
        return json.dumps({"key": self.key, **asdict(self)}, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """GPU, driver and TensorRT of this machine."""

    variant: str
    version: str
    gpu: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.gpu}, {self.variant} {self.version}"


def parse_engine(text: str, where: str) -> Engine:
    """Parse a sidecar.

    Raises:
        DamagedError: the text is not a sidecar, was changed after it was written, or has a value
            of another type or out of range.
        BundleError: the sidecar has another schema version.
    """
    try:
        data = parse_json(text)
        if not is_schema(data["schema"], ENGINE_SCHEMA):
            raise BundleError(
                f"{where} has schema version {shown(data['schema'])}, but this resharp reads "
                f"version {ENGINE_SCHEMA}: build the engine again"
            )
        engine = record(Engine, data)
        if engine.spec.profile.smallest > engine.spec.profile.tile:
            raise ValueError("smallest is above tile")
        if data["key"] != engine.key:
            raise DamagedError(f"{where} was changed after it was written: build the engine again")
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{where} is damaged ({error!r}): build the engine again") from error
    return engine


def is_of(spec: EngineSpec, manifest: Manifest) -> bool:
    """Return whether an engine was built from this export of the model."""
    graph = manifest.graphs.get(spec.dtype)
    if graph is None:
        return False
    return (spec.graph, spec.weights) == (graph.sha256, manifest.weights.sha256)


def mismatch(spec: EngineSpec, manifest: Manifest, here: Environment) -> str | None:
    """Return why an engine does not fit this bundle and environment; None if it fits."""
    if not is_of(spec, manifest):
        return "built from an older export of the model"
    if (spec.variant, spec.version) != (here.variant, here.version):
        found = f"{here.variant} {here.version}"
        return f"built with {spec.variant} {spec.version}, this machine has {found}"
    if spec.targets and (refusal := trt.rtx_refusal(here.gpu, here.capability)):
        return refusal
    if spec.targets and CURRENT not in spec.targets:
        name = target_name(here.capability)
        if name in spec.targets or (PORTABLE in spec.targets and trt.rtx_portable(here.capability)):
            return None
        return f"built for {', '.join(spec.targets)}, this GPU is {here.gpu} ({name})"
    if (spec.gpu, spec.capability) != (here.gpu, here.capability):
        return f"built for {spec.gpu} ({spec.capability}), this GPU is {here.gpu}"
    if spec.driver != here.driver:
        return f"built with a driver for CUDA {spec.driver}, this driver is for CUDA {here.driver}"
    return None


def target_name(capability: str) -> str:
    """Return the target name of a compute capability, e.g. ``sm89`` for ``8.9``."""
    return "sm" + capability.replace(".", "")


def file_part(name: str) -> str:
    """Return a GPU name, or any other text, in a form suitable for file names."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())
