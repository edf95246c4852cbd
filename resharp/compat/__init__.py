"""The Python interfaces of Real-ESRGAN and GFPGAN on resharp's backends.

Scripts change one import::

    from resharp.compat import RealESRGANer, RRDBNet  # was: realesrgan, basicsr

docs/how-to/from-real-esrgan.md lists what is the same and what differs. Only the networks require
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resharp.compat.gfpgan import GFPGANer
from resharp.compat.realesrgan import RealESRGANer

if TYPE_CHECKING:
    from resharp.models import RRDBNet, SRVGGNetCompact

__all__ = ["GFPGANer", "RRDBNet", "RealESRGANer", "SRVGGNetCompact"]


def __getattr__(name: str) -> Any:
    if name not in ("RRDBNet", "SRVGGNetCompact"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from resharp.optional import require

    return getattr(require("resharp.models", feature=name, extra="torch", package="torch"), name)
