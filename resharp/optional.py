"""Import of optional packages, with an error that names the extra to install."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from resharp.errors import MissingExtraError


def require(module: str, *, feature: str, extra: str, package: str | None = None) -> ModuleType:
    """Import ``module``, or raise an error that says how to install it.

    Args:
        module: dotted module name.
        feature: the feature that needs it, as the start of a sentence: ``"The onnx backend"``.
        extra: the resharp extra that installs it; empty for a base dependency.
        package: name of the package on PyPI, if it differs from the top-level module.

    Raises:
        MissingExtraError: it is not installed, or fails to import (the reason is included).
    """
    # On Python 3.10 every import takes the lock of its module. A generator that the garbage
    # collector closes meanwhile may ask for the same module: a deadlock.
    loaded = sys.modules.get(module)
    spec = getattr(loaded, "__spec__", None)
    if loaded is not None and not getattr(spec, "_initializing", False):
        return loaded
    try:
        return importlib.import_module(module)
    except Exception as error:  # its import may also fail on a shared library or a variable
        name = package or module.partition(".")[0]
        wanted = f"resharp[{extra}]" if extra else name
        found = "is not installed" if _absent(error, module) else f"cannot be imported ({error})"
        raise MissingExtraError(
            f"{feature} needs the package {name}, which {found}: pip install '{wanted}'"
        ) from error


def _absent(error: Exception, module: str) -> bool:
    return isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
