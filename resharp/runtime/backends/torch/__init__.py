"""PyTorch: the fallback on a GPU, and on the CPU where it is asked for."""

from resharp.runtime.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
