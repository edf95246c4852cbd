"""resharp: restore and upscale pictures with the Real-ESRGAN family, tiled, on any machine.

::

    import cv2
    from resharp import Upscaler

    with Upscaler() as upscaler:
        cv2.imwrite("big.png", upscaler(cv2.imread("photo.jpg")))
"""

from resharp.errors import ResharpError
from resharp.runtime import Upscaler

__version__ = "0.1.0"
__all__ = ["ResharpError", "Upscaler", "__version__"]
