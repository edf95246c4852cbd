"""The parts of the tensorrt backend: engines, lanes, and one run over them.

Nothing here imports TensorRT or CUDA before it is used.
"""

from resharp.runtime.tensorrt.proof import check_engine

__all__ = ["check_engine"]
