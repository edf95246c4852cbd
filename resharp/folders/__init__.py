"""Restoration of folders, with a journal of finished images and concurrent runs on one folder.

The rules are in docs/design/folders.md.
"""

from __future__ import annotations

from resharp.folders.discovery import Job, Output, discover
from resharp.folders.folder_run import FolderRun, restore_folder
from resharp.folders.report import FolderReport, Result
from resharp.folders.scheduler import Plan
from resharp.folders.stages import FolderOptions

__all__ = [
    "FolderOptions",
    "FolderReport",
    "FolderRun",
    "Job",
    "Output",
    "Plan",
    "Result",
    "discover",
    "restore_folder",
]
