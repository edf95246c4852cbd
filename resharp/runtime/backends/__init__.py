"""One file per backend, each imported only when it is tried."""

from resharp.runtime.backends.base import Backend, BackendOptions

__all__ = ["Backend", "BackendOptions"]
