"""Face restoration: faces are detected, cropped upright, restored and pasted back seamlessly."""

from resharp.faces.detection import Detector, Face, YuNet, detector_file
from resharp.faces.face_restorer import Crop, FaceOptions, FaceRestorer, FaceResult
from resharp.faces.network import BundleNetwork, FaceNetwork

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
