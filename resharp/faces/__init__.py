"""Faces: found, cut out upright, restored by a face network, and pasted back without an edge."""

from resharp.faces.detection import Detector, Face, YuNet, detector_file
from resharp.faces.network import BundleNetwork, FaceNetwork
from resharp.faces.restorer import Crop, FaceOptions, FaceRestorer, FaceResult

__all__ = [
    "BundleNetwork",
    "Crop",
    "Detector",
    "Face",
    "FaceNetwork",
    "FaceOptions",
    "FaceRestorer",
    "FaceResult",
    "YuNet",
    "detector_file",
]
