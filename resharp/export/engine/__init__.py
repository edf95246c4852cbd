"""From a bundle to TensorRT engines. Needs the extra ``export`` and ``gpu`` or ``rtx``."""

from resharp.export.engine.build import Built, EngineOptions, build_engines
from resharp.export.engine.target import NAMED, Target, choose_tile

__all__ = ["NAMED", "Built", "EngineOptions", "Target", "build_engines", "choose_tile"]
