"""Import an optional package, or say which extra brings it."""

from __future__ import annotations

import importlib
from types import ModuleType

from resharp.errors import MissingExtraError


def require(module: str, *, feature: str, extra: str, package: str | None = None) -> ModuleType:
    """Import ``module``, for ``feature``.

    Args:
        module: dotted name to import.
        feature: what needs it, as the start of a sentence: ``"The onnx backend"``.
        extra: the extra of resharp that installs it; empty where the base does.
        package: its name on the index, where that is not the module's.

    Raises:
        MissingExtraError: it is not installed, or its own import fails (the reason is kept).
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library of it is broken
        name = package or module.partition(".")[0]
        wanted = f"resharp[{extra}]" if extra else name
        found = "is not installed" if _absent(error, module) else f"cannot be imported ({error})"
        raise MissingExtraError(
            f"{feature} needs the package {name}, which {found}: pip install '{wanted}'"
        ) from error


def _absent(error: Exception, module: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
