"""spandrel 0.4.2, an independent implementation of the networks, imported without torchvision.

It is installed in a folder of its own (``make test`` does it), since pip would bring torchvision
and with it another torch. What spandrel takes of torchvision at import is stood in for; no network
tested here calls it.
"""

from __future__ import annotations

import sys
import warnings
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(sys.prefix) / "oracle"

needs_oracle = pytest.mark.skipif(
    not (FOLDER / "spandrel").is_dir(), reason="no spandrel in the environment's folder 'oracle'"
)


class _InterpolationMode(Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"


def load() -> Any:
    """The module ``spandrel``, with its extra architectures registered."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    if "torchvision" not in sys.modules:
        package, transforms = ModuleType("torchvision"), ModuleType("torchvision.transforms")
        functional: Any = ModuleType("torchvision.transforms.functional")
        functional.InterpolationMode = _InterpolationMode
        functional.rotate = functional.normalize = _never
        package.__path__, transforms.__path__ = [], []
        for module in (package, transforms, functional):
            sys.modules[module.__name__] = module
        transforms.functional = functional  # type: ignore[attr-defined]
        package.transforms = transforms  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`", DeprecationWarning)
        import spandrel
        import spandrel_extra_arches

    if not getattr(load, "registered", False):
        spandrel.MAIN_REGISTRY.add(*spandrel_extra_arches.EXTRA_REGISTRY)
        load.registered = True  # type: ignore[attr-defined]
    return spandrel


def _never(*_: object, **__: object) -> None:
    raise AssertionError("torchvision is not here")
