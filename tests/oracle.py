"""spandrel 0.4.2, an independent implementation of the networks, imported without torchvision.

It is installed in a folder of its own (``make test`` does it), since pip would bring torchvision
and with it another torch. ``tests/fakes/torchvision`` stands in where there is no real one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from resharp.models import spandrel_models

FOLDER = Path(sys.prefix) / "oracle"
FAKES = Path(__file__).parent / "fakes"

needs_oracle = pytest.mark.skipif(
    not (FOLDER / "spandrel").is_dir(), reason="no spandrel in the environment's folder 'oracle'"
)


def load() -> Any:
    """The module ``spandrel``, with its extra architectures registered."""
    for folder in (FOLDER, FAKES):  # last in the path, which child processes get too
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return spandrel_models.library("A test")
