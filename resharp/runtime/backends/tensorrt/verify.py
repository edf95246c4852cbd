"""Verification of an engine on its GPU against the FP32 graph, before it is used."""

from __future__ import annotations

import logging

import numpy as np

from resharp.engines import Bundle, Engine, ParityResult
from resharp.engines.reference import compare_images, read_reference
from resharp.engines.selection import EngineCandidate, current_environments
from resharp.errors import BackendError, BundleError, OutOfMemoryError
from resharp.gpu.cuda import open_provider
from resharp.gpu.devices import driver_version, gpus
from resharp.runtime.backends.tensorrt.executor import Executor
from resharp.runtime.backends.tensorrt.loaded_engine import LoadedEngine
from resharp.runtime.tiling.plan import plan
from resharp.types import Array

logger = logging.getLogger(__name__)

SEAM = 1.0
"""Largest difference of tiles from the untiled image, in levels of 255, that is invisible."""


def verify_engine(
    executor: Executor, loaded: LoadedEngine, bundle: Bundle
) -> tuple[ParityResult, bool]:
    """Run an engine on its reference image, like any other image, and on one full-size tile.

    TensorRT uses different kernels for different sizes, so the small reference alone proves little.
    The tile is the reference extended to the right and below by its mirror images: farther from
    these than the overlap, the network computes the same as for the reference.

    Returns:
        The worse result of the two, and whether it is final: False if the device had no memory for
        the full-size tile this time.

    Raises:
        BundleError: the reference is damaged or of another scale.
        BackendError: TensorRT could not run the engine.
        OutOfMemoryError: the device has no memory for the reference.
    """
    spec, manifest = loaded.engine.spec, bundle.manifest
    path = bundle.engine_store.path(loaded.engine.reference)
    reference = read_reference(path)
    picture, restored = reference.input(spec.dtype), reference.restored
    height, width, _ = picture.shape
    scale, profile = manifest.scale, spec.profile
    if restored.shape != (height * scale, width * scale, 3):
        raise BundleError(f"{path}: wrong scale, run 'export-engines {manifest.name}' with `force`")

    def run(given: Array) -> Array:
        tall, wide, _ = given.shape
        multiple, least = manifest.size_multiple, profile.smallest
        tiles = plan(tall, wide, profile.tile, manifest.overlap, multiple, least)
        found = np.empty((tall * scale, wide * scale, 3), given.dtype)
        scalars = manifest.extra_values()
        executor.run(loaded, given, tiles, found, profile.batch, scalars=scalars)
        return found

    small = compare_images(run(picture), restored)
    side = profile.tile - profile.tile % manifest.size_multiple
    rows, columns = height - manifest.overlap, width - manifest.overlap
    if side <= max(height, width):  # the reference already filled whole tiles
        return small, True
    # Networks with a global receptive field never match exactly, however large the overlap.
    suffices = not manifest.overlap_curve or manifest.overlap_curve[-1][1] <= SEAM
    if min(rows, columns) <= 0 or not suffices:
        logger.info("%s: verified on its reference only (wide receptive field)", manifest.name)
        return small, True
    whole = np.pad(picture, ((0, side - height), (0, side - width), (0, 0)), "symmetric")
    core = np.s_[: rows * scale, : columns * scale]
    try:
        large = compare_images(run(whole)[core], restored[core])
    except OutOfMemoryError as error:  # images will use smaller tiles too
        logger.info("%s: verified on its reference only, for now: %s", manifest.name, str(error))
        return small, False
    return min(small, large, key=lambda one: (one.passed, one.psnr)), True


def check_engine(bundle: Bundle, engine: Engine, index: int = 0) -> ParityResult:
    """Run an engine on a GPU of this machine and record how far its output is from fp32.

    Args:
        bundle: the model.
        engine: an engine of the bundle's store.
        index: index of the CUDA device.

    Raises:
        BundleError: the engine is damaged.
        BackendError: TensorRT or CUDA failed, or the variant of the engine is not installed.
        OutOfMemoryError: the device has no memory for the smallest run.
    """
    found = {here.variant: here for here in current_environments(gpus()[index], driver_version())}
    here = found.get(engine.spec.variant)
    if here is None:
        raise BackendError(f"{engine.spec.variant}, which built the engine, is not installed")
    executor = Executor(open_provider(index), bundle.manifest.scale)
    engines: dict[str, LoadedEngine] = {}
    try:
        with executor.scope():
            extra = [one.name for one in bundle.manifest.extra]
            engines[engine.key] = LoadedEngine(
                bundle.engine_store, EngineCandidate(engine, here), extra
            )
        result, whole = verify_engine(executor, engines[engine.key], bundle)
    finally:
        executor.close(engines)
    if whole or not result.passed:
        bundle.engine_store.record(engine, here, result)
    return result
