"""The tensorrt backend: engines, lanes and tiled runs.

TensorRT and CUDA are imported only when they are used.
"""

from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
from resharp.runtime.backends.tensorrt.verify import check_engine

__all__ = ["TensorrtBackend", "check_engine"]
