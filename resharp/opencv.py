"""OpenCV, imported after a check of its environment variables.

OpenCV parses its variables while it is loaded, and an invalid value of most of them aborts the
process (SIGABRT) instead of raising an error. So all modules import ``cv2`` from here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from resharp.checks import shown
from resharp.errors import MissingExtraError, OptionError

_NUMBERS = (
    "OPENCV_FOR_THREADS_NUM",
    "OPENCV_IMGCODECS_AVIF_MAX_FILE_SIZE",
    "OPENCV_IMGCODECS_WEBP_MAX_FILE_SIZE",
    "OPENCV_IO_MAX_IMAGE_HEIGHT",
    "OPENCV_IO_MAX_IMAGE_PARAMS",
    "OPENCV_IO_MAX_IMAGE_PIXELS",
    "OPENCV_IO_MAX_IMAGE_WIDTH",
    "OPENCV_KMEANS_PARALLEL_GRANULARITY",
    "OPENCV_OPENCL_ALIGNMENT_MEM_USE_HOST_PTR",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_MAIN",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_PAUSE_LIMIT",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_THREADS_LIMIT",
    "OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER",
    "OPENCV_TRACE_DEPTH_OPENCV",
    "OPENCV_TRACE_MAX_CHILDREN",
    "OPENCV_TRACE_MAX_CHILDREN_OPENCV",
)
_SWITCHES = (
    "OPENCV_BUFFER_AREA_ALWAYS_SAFE",
    "OPENCV_DUMP_CONFIG",
    "OPENCV_DUMP_ERRORS",
    "OPENCV_ENABLE_MEMALIGN",
    "OPENCV_GAUSSIANBLUR_CHECK_BITEXACT_KERNELS",
    "OPENCV_OPENCL_CACHE_CLEANUP",
    "OPENCV_OPENCL_CACHE_ENABLE",
    "OPENCV_OPENCL_CACHE_LOCK_ENABLE",
    "OPENCV_OPENCL_CACHE_WRITE",
    "OPENCV_OPENCL_DISABLE_BUFFER_RECT_OPERATIONS",
    "OPENCV_OPENCL_ENABLE_MEM_USE_HOST_PTR",
    "OPENCV_OPENCL_VALIDATE_BINARY_PROGRAMS",
    "OPENCV_SKIP_CPU_BASELINE_CHECK",
    "OPENCV_TRACE",
    "OPENCV_TRACE_ITT_ENABLE",
    "OPENCV_TRACE_ITT_PARENT",
    "OPENCV_TRACE_ITT_SET_THREAD_NAME",
    "OPENCV_TRACE_SYNC_OPENCL",
    "OPENCV_VIDEOCAPTURE_DEBUG",
    "OPENCV_VIDEOWRITER_DEBUG",
)
_NUMBER = re.compile(r"([0-9]+)(KB|Kb|kb|MB|Mb|mb)?")
_UNITS = {"": 1, "KB": 1 << 10, "MB": 1 << 20}
_SWITCH = re.compile("0|1|true|True|TRUE|false|False|FALSE")
_LARGEST = 2**64 - 1
_IMAGE_LIMITS = {
    "OPENCV_IO_MAX_IMAGE_PIXELS": 1 << 30,
    "OPENCV_IO_MAX_IMAGE_WIDTH": 1 << 20,
    "OPENCV_IO_MAX_IMAGE_HEIGHT": 1 << 20,
}
_MOST_THREADS = 1024
"""OpenCV starts any number of threads that is set, however long that takes."""


def check_environment(environment: Mapping[str, str]) -> None:
    """Check the variables whose invalid values abort OpenCV 5.

    Raises:
        OptionError: one of them has a value that OpenCV cannot parse.
    """
    for name in _NUMBERS:
        value = environment.get(name)
        if value is None:
            continue
        found = _NUMBER.fullmatch(value)
        if found is None or int(found[1][:21]) > _LARGEST:
            raise _invalid(name, value, "a whole number, optionally with KB or MB")
        if name == "OPENCV_FOR_THREADS_NUM" and (found[2] or int(found[1]) > _MOST_THREADS):
            raise _invalid(name, value, f"a whole number up to {_MOST_THREADS}")
    for name in _SWITCHES:
        value = environment.get(name)
        if value is not None and not _SWITCH.fullmatch(value):
            raise _invalid(name, value, "0, 1, true or false")


def image_limits(environment: Mapping[str, str]) -> dict[str, int]:
    """Return the most pixels, width and height of an image that OpenCV reads, by their variable."""
    found = dict(_IMAGE_LIMITS)
    for name in found.keys() & environment.keys():
        number, unit = _NUMBER.fullmatch(environment[name]).groups("")  # type: ignore[union-attr]
        found[name] = int(number) * _UNITS[unit.upper()]
    return found


def _invalid(name: str, value: str, wanted: str) -> OptionError:
    return OptionError(
        f"the environment variable {name} must be {wanted}, got {shown(value)}: correct or unset it"
    )


check_environment(os.environ)
IMAGE_LIMITS = image_limits(os.environ)
"""Those of this process: OpenCV reads the variables once."""

try:
    import cv2
except Exception as error:  # one of its shared libraries is missing, or NumPy does not fit
    raise MissingExtraError(
        f"resharp needs the package opencv-python-headless, which cannot be imported ({error}): "
        "reinstall it with pip, or install what it lacks"
    ) from error

__all__ = ["IMAGE_LIMITS", "check_environment", "cv2", "image_limits"]
