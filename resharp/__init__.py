"""resharp: restore and upscale pictures with the Real-ESRGAN family, tiled, on any machine.

::

    import cv2
    from resharp import Upscaler

    with Upscaler() as upscaler:
        cv2.imwrite("big.png", upscaler(cv2.imread("photo.jpg")))
"""

from resharp.errors import ResharpError
from resharp.runtime import Upscaler
from resharp.runtime.ensemble import Ensemble
from resharp.runtime.faces import FaceRestorer
from resharp.runtime.info import model_info
from resharp.runtime.loader import Loader
from resharp.runtime.settings import Settings

__version__ = "0.1.0"
__all__ = [
    "Ensemble",
    "FaceRestorer",
    "Loader",
    "ResharpError",
    "Settings",
    "Upscaler",
    "__version__",
    "model_info",
]
