"""resharp: restore and upscale pictures with the Real-ESRGAN family, tiled, on any machine.

::

    import cv2
    from resharp import Upscaler

    with Upscaler() as upscaler:
        cv2.imwrite("big.png", upscaler(cv2.imread("photo.jpg")))
"""

from importlib import import_module
from typing import TYPE_CHECKING

from resharp.errors import ResharpError
from resharp.runtime import Upscaler

if TYPE_CHECKING:
    from resharp.faces import FaceRestorer
    from resharp.runtime.ensemble import Ensemble
    from resharp.runtime.folders import restore_folder
    from resharp.runtime.loader import Loader
    from resharp.runtime.model_info import model_info
    from resharp.runtime.recipe import Recipe
    from resharp.runtime.settings import Settings
    from resharp.video import VideoOptions, restore_video

__version__ = "0.1.0"
__all__ = [
    "Ensemble",
    "FaceRestorer",
    "Loader",
    "Recipe",
    "ResharpError",
    "Settings",
    "Upscaler",
    "VideoOptions",
    "__version__",
    "model_info",
    "restore_folder",
    "restore_video",
]

_LATE = {
    "Ensemble": "runtime.ensemble",
    "FaceRestorer": "faces",
    "Loader": "runtime.loader",
    "Settings": "runtime.settings",
    "Recipe": "runtime.recipe",
    "VideoOptions": "video",
    "model_info": "runtime.model_info",
    "restore_folder": "runtime.folders",
    "restore_video": "video",
}
"""Imported at their first use, so that ``import resharp`` is quick: name and module."""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module 'resharp' has no attribute {name!r}")
    found: object = getattr(import_module(f"resharp.{_LATE[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
