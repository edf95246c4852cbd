"""Video: timestamps, sound and colour kept, in constant memory, resumable."""

from resharp.runtime.video.options import CODECS, VideoOptions
from resharp.runtime.video.report import VideoProgress, VideoReport
from resharp.runtime.video.run import restore_video

__all__ = ["CODECS", "VideoOptions", "VideoProgress", "VideoReport", "restore_video"]
