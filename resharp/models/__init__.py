"""The networks, and checkpoints to networks. Importing this needs torch.

``read_checkpoint`` reads a file and tells which network it is, ``build`` makes the network,
``blend`` interpolates between checkpoints, ``save_safetensors`` writes one cleanly, and
``ByteImage`` and ``FloatImage`` turn a network into one from pictures to pictures.
"""

from resharp.models.architectures import ARCHITECTURES, Architecture, Facts
from resharp.models.detect import detect
from resharp.models.image_io import ByteImage, FloatImage
from resharp.models.interpolate import blend
from resharp.models.loader import Checkpoint, build, load_network, read_checkpoint
from resharp.models.rrdbnet import RRDBNet
from resharp.models.save import save_safetensors
from resharp.models.srvgg import SRVGGNetCompact
from resharp.models.state import Parameters, State

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "ByteImage",
    "Checkpoint",
    "Facts",
    "FloatImage",
    "Parameters",
    "RRDBNet",
    "SRVGGNetCompact",
    "State",
    "blend",
    "build",
    "detect",
    "load_network",
    "read_checkpoint",
    "save_safetensors",
]
