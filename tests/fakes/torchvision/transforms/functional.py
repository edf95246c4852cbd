"""What LaMa and RestoreFormer of spandrel name; no test runs these two."""

from __future__ import annotations

from enum import Enum
from typing import NoReturn


class InterpolationMode(Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"


def rotate(*_: object, **__: object) -> NoReturn:
    raise NotImplementedError("needs the real torchvision")


normalize = rotate
