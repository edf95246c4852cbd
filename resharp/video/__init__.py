"""Video: timestamps, sound and color kept, in constant memory, resumable."""

from resharp.video.options import CODECS, VideoOptions
from resharp.video.report import VideoProgress, VideoReport
from resharp.video.run import restore_video

__all__ = ["CODECS", "VideoOptions", "VideoProgress", "VideoReport", "restore_video"]
