"""Import once what every child needs, without starting threads."""

from __future__ import annotations

import gc
import importlib
import pkgutil

import cv2

HEAVY: tuple[str, ...] = (
    "torch",
    "onnxruntime",
    "av",
    "av.video.reformatter",
    "safetensors",
    "safetensors.torch",
)
HEAVY += ("PIL.Image", "PIL.ImageCms", "filelock", "platformdirs", "tqdm")
SKIPPED = (
    "resharp.cluster",
    "resharp.bench",
    "resharp.training",
    "resharp.runtime.backends.tensorrt",
)
"""Rooms that no case enters."""


def import_everything() -> None:
    """Import the package and the libraries it uses, so that a forked child starts at once."""
    cv2.setNumThreads(1)
    for name in HEAVY:
        importlib.import_module(name)
    import torch

    import resharp

    torch.set_num_threads(1)
    for found in pkgutil.walk_packages(resharp.__path__, "resharp."):
        if not found.name.startswith(SKIPPED) and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    gc.collect()
    gc.freeze()  # or a collection in a child would copy every page that holds an object
