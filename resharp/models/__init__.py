"""PyTorch networks and checkpoint loading. Importing this package requires torch.

``read_checkpoint`` reads a file and identifies its network, ``build`` creates the network,
``blend`` interpolates between checkpoints, ``save_safetensors`` writes a clean checkpoint, and
``for_images`` wraps a network so that it maps BGR images to BGR images.
"""

from resharp.models.architecture import Architecture, NetworkFacts, Parameters, State
from resharp.models.archs import ARCHITECTURES, find, register
from resharp.models.archs.codeformer import CodeFormer
from resharp.models.archs.gfpgan import GFPGANv1Clean
from resharp.models.archs.restoreformer import RestoreFormer
from resharp.models.archs.rrdbnet import RRDBNet
from resharp.models.archs.srvgg import SRVGGNetCompact
from resharp.models.archs.swinir import SwinIR
from resharp.models.checkpoint import (
    Checkpoint,
    build,
    load_network,
    read_checkpoint,
    save_safetensors,
)
from resharp.models.detect import detect
from resharp.models.interpolate import blend
from resharp.models.io import ByteFace, ByteImage, FloatFace, FloatImage, for_images, planes

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "ByteFace",
    "ByteImage",
    "Checkpoint",
    "CodeFormer",
    "FloatFace",
    "FloatImage",
    "GFPGANv1Clean",
    "NetworkFacts",
    "Parameters",
    "RRDBNet",
    "RestoreFormer",
    "SRVGGNetCompact",
    "State",
    "SwinIR",
    "blend",
    "build",
    "detect",
    "find",
    "for_images",
    "load_network",
    "planes",
    "read_checkpoint",
    "register",
    "save_safetensors",
]
