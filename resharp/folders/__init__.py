"""Folders of pictures: kept trees, a journal of what is done, and several runs at once.

docs/folders.md has the rules.
"""

from __future__ import annotations

from resharp.folders.discovery import Job, Output, discover
from resharp.folders.folder_run import FolderRun, restore_folder
from resharp.folders.report import FolderReport, Result
from resharp.folders.stages import FolderOptions

__all__ = [
    "FolderOptions",
    "FolderReport",
    "FolderRun",
    "Job",
    "Output",
    "Result",
    "discover",
    "restore_folder",
]
