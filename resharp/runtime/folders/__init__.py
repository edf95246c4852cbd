"""Folders of pictures: kept trees, a journal of what is done, and several runs at once.

docs/folders.md has the rules.
"""

from __future__ import annotations

from resharp.runtime.folders.jobs import Job, Target, jobs
from resharp.runtime.folders.options import FolderOptions, Hooks
from resharp.runtime.folders.report import Report, Result, Used
from resharp.runtime.folders.run import FolderRun, restore_folder

__all__ = [
    "FolderOptions",
    "FolderRun",
    "Hooks",
    "Job",
    "Report",
    "Result",
    "Target",
    "Used",
    "jobs",
    "restore_folder",
]
