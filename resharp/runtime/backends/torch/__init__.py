"""PyTorch: the fallback on a GPU, and on the CPU where it is asked for."""

from resharp.runtime.backends.torch.backend import open_backend, probe

__all__ = ["open_backend", "probe"]
