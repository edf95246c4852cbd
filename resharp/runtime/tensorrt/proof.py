"""An engine on its GPU against the FP32 graph, before it is used."""

from __future__ import annotations

import numpy as np

from resharp.engines import Bundle, Engine, Likeness
from resharp.engines.reference import likeness, read_reference
from resharp.errors import BackendError, BundleError
from resharp.runtime.cuda import open_provider
from resharp.runtime.devices import driver_version, gpus
from resharp.runtime.plan import plan
from resharp.runtime.tensorrt.loading import Model
from resharp.runtime.tensorrt.runner import Runner
from resharp.runtime.tensorrt.selection import Candidate, surroundings


def measure(runner: Runner, model: Model, bundle: Bundle) -> Likeness:
    """Run an engine on its reference picture, as any picture is run.

    Raises:
        BundleError: the reference is no such picture.
        BackendError: TensorRT could not run it.
    """
    recipe, manifest = model.engine.recipe, bundle.manifest
    path = bundle.shelf.path(model.engine.reference)
    reference = read_reference(path)
    picture, restored = reference.input(recipe.dtype), reference.restored
    height, width, _ = picture.shape
    if restored.shape != (height * manifest.scale, width * manifest.scale, 3):
        raise BundleError(f"{path} is of another scale: export-engines {manifest.name} --force")
    multiple, least = manifest.size_multiple, recipe.profile.smallest
    tiles = plan(height, width, recipe.profile.tile, manifest.overlap, multiple, least)
    found = np.empty(restored.shape, picture.dtype)
    numbers = manifest.extra_values()
    runner.run(model, picture, tiles, found, recipe.profile.batch, numbers=numbers)
    return likeness(found, restored)


def check_engine(bundle: Bundle, engine: Engine, index: int = 0) -> Likeness:
    """Run an engine on a GPU of this machine, and record how far it is from fp32.

    Args:
        bundle: the model.
        engine: of its shelf.
        index: number of the CUDA device.

    Raises:
        BundleError: the engine is damaged.
        BackendError: TensorRT or CUDA refused.
        OutOfMemoryError: the device has no room for its smallest run.
    """
    found = {here.flavour: here for here in surroundings(gpus()[index], driver_version())}
    here = found.get(engine.recipe.flavour)
    if here is None:
        raise BackendError(f"{engine.recipe.flavour}, which made the engine, is not installed")
    runner = Runner(open_provider(index), bundle.manifest.scale)
    models: dict[str, Model] = {}
    try:
        with runner.scope():
            extra = [one.name for one in bundle.manifest.extra]
            models[engine.key] = Model(bundle.shelf, Candidate(engine, here), extra)
        result = measure(runner, models[engine.key], bundle)
    finally:
        runner.close(models)
    bundle.shelf.record(engine, here, result)
    return result
