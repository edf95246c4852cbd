"""Resumable video restoration in constant memory, which keeps timestamps, audio and color."""

from resharp.video.options import CODECS, VideoOptions
from resharp.video.report import VideoReport
from resharp.video.run import restore_video

__all__ = ["CODECS", "VideoOptions", "VideoReport", "restore_video"]
