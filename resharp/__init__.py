"""resharp: restore and upscale images and video with the Real-ESRGAN family, on any machine.

::

    import cv2
    from resharp import Upscaler

    with Upscaler() as upscaler:
        cv2.imwrite("big.png", upscaler(cv2.imread("photo.jpg")))
"""

from importlib import import_module
from typing import TYPE_CHECKING

from resharp.errors import ResharpError

if TYPE_CHECKING:
    from resharp.deploy import build_engines, export_model
    from resharp.faces import FaceRestorer
    from resharp.folders import restore_folder
    from resharp.pipeline.ensemble import Ensemble
    from resharp.pipeline.model_cache import Loader
    from resharp.pipeline.restorer import RestoreConfig
    from resharp.pipeline.settings import Settings
    from resharp.runtime import Upscaler
    from resharp.runtime.bundle_lookup import model_info
    from resharp.types import Progress
    from resharp.video import VideoOptions, restore_video

__version__ = "0.1.0"
__all__ = [
    "Ensemble",
    "FaceRestorer",
    "Loader",
    "Progress",
    "ResharpError",
    "RestoreConfig",
    "Settings",
    "Upscaler",
    "VideoOptions",
    "__version__",
    "build_engines",
    "export_model",
    "model_info",
    "restore_folder",
    "restore_video",
]

_LATE = {
    "Ensemble": "pipeline.ensemble",
    "FaceRestorer": "faces",
    "Loader": "pipeline.model_cache",
    "Progress": "types",
    "RestoreConfig": "pipeline.restorer",
    "Settings": "pipeline.settings",
    "Upscaler": "runtime",
    "VideoOptions": "video",
    "build_engines": "deploy",
    "export_model": "deploy",
    "model_info": "runtime.bundle_lookup",
    "restore_folder": "folders",
    "restore_video": "video",
}
"""Public names and their modules, imported at their first use, so that ``import resharp`` is fast
and the command line can handle Ctrl-C before it imports anything large."""


if not TYPE_CHECKING:  # else type checkers would accept every name

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module 'resharp' has no attribute {name!r}")
        found: object = getattr(import_module(f"resharp.{_LATE[name]}"), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
