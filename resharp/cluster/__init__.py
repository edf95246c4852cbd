"""Folders and video over many machines, on Ray: actors hold a restorer for each device.

Ray (Apache-2.0) schedules, restarts what died and tries again; here is only what the units of work
are: a segment of a video, and a picture of a folder.
"""

from resharp.cluster.folder import cluster_stages
from resharp.cluster.session import ClusterOptions
from resharp.cluster.video import restore_video

__all__ = ["ClusterOptions", "cluster_stages", "restore_video"]
