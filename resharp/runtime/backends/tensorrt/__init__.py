"""The tensorrt backend: engines, lanes, and one run over them.

Nothing here imports TensorRT or CUDA before it is used.
"""

from resharp.runtime.backends.tensorrt.backend import TensorrtBackend
from resharp.runtime.backends.tensorrt.verify import check_engine

__all__ = ["TensorrtBackend", "check_engine"]
