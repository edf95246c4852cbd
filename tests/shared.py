"""Where the photos and weights that are not part of the project are, if they are."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PHOTOS = SHARED / "photos" / "valid"
ANIMEVIDEO = SHARED / "weights" / "realesr-animevideov3.pth"

needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photos in {PHOTOS.name}")
needs_animevideo = pytest.mark.skipif(not ANIMEVIDEO.is_file(), reason=f"no {ANIMEVIDEO.name}")
CASES = SHARED.parent / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason=f"no inputs in {CASES.name}")
