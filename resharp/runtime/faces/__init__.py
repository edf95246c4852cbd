"""Faces: found, cut out upright, restored by a face network, and pasted back without an edge."""

from resharp.runtime.faces.detection import Detector, Face, YuNet, detector_file
from resharp.runtime.faces.network import BundleNetwork, FaceNetwork
from resharp.runtime.faces.options import FaceOptions
from resharp.runtime.faces.restorer import Crop, FaceRestorer, Restored

__all__ = [
    "BundleNetwork",
    "Crop",
    "Detector",
    "Face",
    "FaceNetwork",
    "FaceOptions",
    "FaceRestorer",
    "Restored",
    "YuNet",
    "detector_file",
]
