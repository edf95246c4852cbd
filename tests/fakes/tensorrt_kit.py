"""A simulated machine with a GPU: host provider, fake TensorRT, and engines for it."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resharp.engines import (
    Bundle,
    Engine,
    EngineSpec,
    Environment,
    File,
    Manifest,
    ParityResult,
    Profile,
    describe_file,
)
from resharp.gpu.devices import Gpu
from resharp.runtime.backends import BackendOptions
from resharp.runtime.backends.tensorrt import backend as backend_module
from resharp.runtime.backends.tensorrt import verify
from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
from tests.fakes.fake_trt import Trt, engine_bytes, network
from tests.fakes.host_provider import HostProvider

Array = NDArray[Any]

SCALE = 2
GPU = Gpu(0, "NVIDIA L4", "8.9", 1 << 34)
OPTIONS = BackendOptions(device="cuda")


def picture(height: int, width: int, seed: int = 0, dtype: str = "uint8") -> Array:
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return drawn if dtype == "uint8" else drawn.astype(np.float32) / np.float32(255)


def expected(image: Array) -> Array:
    return np.asarray(network(image[None], SCALE)[0])


@dataclass
class Kit:
    """A bundle, a fake TensorRT and its environment on a simulated machine."""

    bundle: Bundle
    fake: Trt
    here: Environment
    provider: HostProvider

    def add(
        self,
        precision: str = "fp16",
        dtype: str = "uint8",
        spoil: str = "",
        profile: tuple[int, int, int] = (16, 48, 4),
        **recipe: Any,
    ) -> Engine:
        """Put an engine into the store."""
        manifest, here = self.bundle.manifest, self.here
        values: dict[str, Any] = {
            "graph": manifest.graphs[dtype].sha256,
            "weights": manifest.weights.sha256,
            "dtype": dtype,
            "precision": precision,
            "variant": here.variant,
            "version": here.version,
            "gpu": here.gpu,
            "capability": here.capability,
            "driver": here.driver,
            "profile": Profile(smallest=profile[0], tile=profile[1], batch=profile[2]),
        }
        made = EngineSpec(**(values | recipe))
        extra = tuple(one.name for one in manifest.extra)
        data = engine_bytes(dtype=dtype, profile=profile, spoil=spoil, mark=precision, extra=extra)
        stored = io.BytesIO()
        side = manifest.fixed_size
        image = picture(side or 40, side or 56, seed=5)
        restored = expected(image.astype(np.float32) / np.float32(255))
        for one in manifest.extra:
            restored *= np.float32(one.default)
        np.savez(stored, picture=image, restored=restored)
        engine = Engine(
            model=manifest.name,
            spec=made,
            file=_file(f"{made.key()}.engine", data),
            reference=_file("reference.npz", stored.getvalue()),
            graph=ParityResult(psnr=60.0, levels=1, passed=True),
            seconds=1.0,
        )
        with self.bundle.engine_store.lock_for_build(made.key()) as draft:
            return draft.commit(engine, data, stored.getvalue())

    def open(self, **options: Any) -> TensorrtBackend:
        return TensorrtBackend(self.bundle, replace(OPTIONS, **options))


def _file(name: str, data: bytes) -> File:
    return File(name=name, sha256=sha256(data).hexdigest(), size=len(data))


def make_bundle(folder: Path) -> Bundle:
    """Create a bundle whose graphs cannot be run."""
    files = {}
    for name in ("uint8.onnx", "float32.onnx", "weights.safetensors"):
        (folder / name).write_bytes(name.encode())
        files[name] = describe_file(folder / name)
    manifest = Manifest(
        name="tiny",
        title="a test",
        task="upscale",
        scale=SCALE,
        graphs={"uint8": files["uint8.onnx"], "float32": files["float32.onnx"]},
        weights=files["weights.safetensors"],
        overlap=4,
        activation_bytes=1000.0,
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return Bundle.open(folder)


@contextmanager
def machine(
    folder: Path, patch: pytest.MonkeyPatch, *, rtx: bool = False, **provider: Any
) -> Iterator[Kit]:
    """Patch in a GPU, and check at the end that nothing on it is left."""
    host = HostProvider(**provider, opened=0)
    fake = Trt(host, rtx=rtx)
    variant = "tensorrt_rtx" if rtx else "tensorrt"
    here = Environment(
        variant=variant, version=fake.version, gpu=GPU.name, capability="8.9", driver="13.0"
    )
    package = fake.module()

    def opened(index: int) -> HostProvider:
        host.opened += 1
        return host

    patch.setattr("resharp.gpu.tensorrt.installed", lambda: (variant,))
    patch.setattr("resharp.gpu.tensorrt.load", lambda variant: package)
    for module in (backend_module, verify):
        patch.setattr(module, "gpus", lambda: (GPU,))
        patch.setattr(module, "driver_version", lambda: "13.0")
        patch.setattr(module, "open_provider", opened)
    patch.setattr("resharp.runtime.fallback.gpus", lambda: (GPU,))
    yield Kit(make_bundle(folder), fake, here, host)
    gc.collect()
    assert host.leaks() == {}
    assert fake.contexts == 0
    assert host.used == 0
    assert host.opened == host.closed
