"""Restoration of folders and video on many machines with Ray; each actor holds one restorer.

Ray (Apache-2.0) schedules the work, restarts dead workers and retries. This package only defines
the units of work: an image of a folder, and a segment of a video.
"""

from resharp.cluster.folder import cluster_stages
from resharp.cluster.session import ClusterOptions
from resharp.cluster.video import restore_video

__all__ = ["ClusterOptions", "cluster_stages", "restore_video"]
