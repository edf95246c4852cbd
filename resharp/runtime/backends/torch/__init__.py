"""The torch backend: the first fallback on a GPU, the last one on the CPU."""

from resharp.runtime.backends.torch.backend import TorchBackend

__all__ = ["TorchBackend"]
