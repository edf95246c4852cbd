"""The backends, one module or package each, imported only when tried."""

from resharp.runtime.backends.base import Backend, BackendOptions

__all__ = ["Backend", "BackendOptions"]
