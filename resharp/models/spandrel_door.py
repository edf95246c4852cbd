"""The one door to spandrel (MIT), which reads the state dicts of many more architectures.

It is an optional extra and nothing imports it before weights are met that no network here fits.
spandrel needs torchvision to be imported, though only two of its architectures call it: LaMa
(inpainting) and RestoreFormer (of which resharp has its own). torchvision is made for one torch
each, and where the two do not fit it fails with ``operator torchvision::nms does not exist``; for
torch's CPU builds of some releases there is none. So, where torchvision cannot be imported,
spandrel is imported with a stand-in for the three names that it takes: it is in ``sys.modules``
while spandrel is imported and no longer, and its functions raise :class:`MissingExtraError`. Where
torchvision works, or spandrel was imported before, nothing is stood in for.

``spandrel_extra_arches`` holds architectures under licences that forbid commercial use. resharp
never installs it; where it can be imported, its architectures are offered too.
"""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from resharp.errors import MissingExtraError
from resharp.optional import require

NAME, EXTRA_ARCHITECTURES = "spandrel", "spandrel_extra_arches"
_STOOD_IN = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
_LOCK = threading.Lock()


def library(feature: str) -> Any:
    """The module ``spandrel``, with the extra architectures registered where they are installed.

    Args:
        feature: what needs it, as the start of a sentence.

    Raises:
        MissingExtraError: it is not installed, or its own import fails.
    """
    with _LOCK, quiet():
        if NAME in sys.modules:
            spandrel = require(NAME, feature=feature, extra="spandrel")
        else:
            with _torchvision():
                spandrel = require(NAME, feature=feature, extra="spandrel")
        _register(spandrel)
    return spandrel


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch says about the code of older networks from our users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _register(spandrel: Any) -> None:
    try:
        extra: Any = importlib.import_module(EXTRA_ARCHITECTURES)
        spandrel.MAIN_REGISTRY.add(*extra.EXTRA_REGISTRY, ignore_duplicates=True)
    except (ImportError, RuntimeError, OSError):  # not installed, or of another spandrel
        return


@contextmanager
def _torchvision() -> Iterator[None]:
    """torchvision, or something in its place while spandrel is imported."""
    try:
        importlib.import_module(_STOOD_IN[-1])
    except (ImportError, RuntimeError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        yield
        return
    before = {name: sys.modules.get(name) for name in _STOOD_IN}
    sys.modules.update(_stand_in(reason))
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _InterpolationMode(Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"


def _stand_in(reason: str) -> dict[str, ModuleType]:
    def missing(*_: object, **__: object) -> NoReturn:
        raise MissingExtraError(
            "this network of spandrel needs the package torchvision, which cannot be imported here "
            f"({reason}): install the torchvision that is made for this torch"
        )

    modules = {name: ModuleType(name) for name in _STOOD_IN}
    package, transforms, functional = modules.values()
    for module in (package, transforms):
        module.__path__ = []
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
    functional.__dict__.update(
        InterpolationMode=_InterpolationMode, rotate=missing, normalize=missing
    )
    package.__dict__["transforms"] = transforms
    transforms.__dict__["functional"] = functional
    return modules
