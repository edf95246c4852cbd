"""spandrel 0.4.2, an independent implementation of the networks, imported without torchvision.

It is installed in a folder of its own (``make test`` does it), since pip would bring torchvision
and with it another torch. ``resharp.models.spandrel_door`` stands in for what it takes of that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from resharp.models import spandrel_door

FOLDER = Path(sys.prefix) / "oracle"

needs_oracle = pytest.mark.skipif(
    not (FOLDER / "spandrel").is_dir(), reason="no spandrel in the environment's folder 'oracle'"
)


def load() -> Any:
    """The module ``spandrel``, with its extra architectures registered."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return spandrel_door.library("A test")
