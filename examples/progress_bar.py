"""A progress bar of your own, the same for an image, a folder and a video.

``python examples/progress_bar.py photo.jpg large.png``. ``progress(done, total)`` is called in the
thread that restores; raising in it cancels the work and releases everything.
"""

import sys
import time

import cv2

from resharp import Upscaler


class Bar:
    """Draws a bar with the time left."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        """Take the amount done and the total, which is 0 as long as it is unknown."""
        share = min(done / total, 1.0) if total else 0.0
        left = (time.monotonic() - self.began) * (1 - share) / max(share, 1e-9)
        bar = "#" * round(30 * share)
        print(f"\r[{bar:<30}] {share:4.0%}, {left:4.0f} s left", end="", file=sys.stderr)


source, target = sys.argv[1:]
image = cv2.imread(source, cv2.IMREAD_UNCHANGED)
if image is None:
    sys.exit(f"cannot read {source}")
with Upscaler(tile=64) as upscaler:
    cv2.imwrite(target, upscaler(image, progress=Bar()))
print(file=sys.stderr)
