"""From a model to its TensorRT engines: export it where needed, build, check each on its GPU.

The one place above both ``export`` and ``runtime``. Imports PyTorch and TensorRT inside functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from resharp.engines import Bundle
from resharp.engines.target import Target
from resharp.errors import NotExportedError
from resharp.runtime.backends import tensorrt
from resharp.runtime.bundle_lookup import resolve
from resharp.types import Log

if TYPE_CHECKING:
    from resharp.export.engine import Built, EngineOptions


def find_or_export(
    name: str,
    *,
    denoise: float | None = None,
    offline: bool | None = None,
    weights_dir: str | os.PathLike[str] | None = None,
    store: str | os.PathLike[str] | None = None,
    log: Log = lambda line: None,
) -> Bundle:
    """The bundle of a model, which is exported first if it is not in the store.

    Args:
        name: a model, or the folder of a bundle.
        denoise: strength 0..1, for a model that has a twin to blend with.
        offline: forbids downloads; None asks the environment.
        weights_dir: folder of the checkpoints; None takes the default.
        store: folder of the store; None takes the default.
        log: takes a line for each step.

    Raises:
        ResharpError: see ``resharp.runtime.resolve`` and ``resharp.export.export``.
    """
    try:
        return resolve(name, store=store, denoise=denoise)
    except NotExportedError:
        from resharp.export import ExportOptions, export

        log(f"{name} is not exported yet: exporting it first")
        options = ExportOptions(denoise=denoise, offline=offline)
        return export(name, options, weights_dir=weights_dir, store=store, log=log)


def build_engines(
    bundle: Bundle,
    target: Target,
    options: EngineOptions | None = None,
    *,
    log: Log = lambda line: None,
    done: Callable[[Built], object] = lambda built: None,
) -> tuple[Built, ...]:
    """Build the engines of one bundle, and run each on the target's GPU where that is here.

    An engine for a GPU that is not here is checked by the runtime before its first use.

    Args:
        bundle: an exported model.
        target: what to build for; see ``resharp.engines.target.choose_targets``.
        options: how.
        log: takes a line for each step.
        done: takes each engine as it is ready; those before a failure too.

    Raises:
        BuildError: TensorRT refused.
        ParityError: the precision asked for, or every one, is too far from fp32.
        OutputError: the store cannot be written; nothing was changed.
        MissingExtraError: no TensorRT, or a package of the extra ``export``, is installed.
    """
    from resharp.export import engine

    return engine.build_engines(
        bundle, target, options, check=tensorrt.check_engine, log=log, done=done
    )
