"""TensorRT engines built from bundles. Needs the extra ``export`` and ``gpu`` or ``rtx``."""

from resharp.export.engine.build import Built, EngineOptions, build_engines

__all__ = ["Built", "EngineOptions", "build_engines"]
