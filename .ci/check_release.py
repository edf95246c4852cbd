"""Check that a tag, the version and the changelog agree; print the changelog's section.

usage: python .ci/check_release.py TAG     (in the checkout)
"""

from __future__ import annotations

import re
import sys
from datetime import date
from pathlib import Path

VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+(?:rc\d+)?)"$', re.MULTILINE)
SECTION = re.compile(r"^## (\S+) \(([^)\n]*)\)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def main(tag: str) -> None:
    """Exit with a message if something is wrong."""
    found = VERSION.search(Path("resharp/__init__.py").read_text(encoding="utf-8"))
    if found is None:
        sys.exit("resharp/__init__.py has no __version__ of the form 1.2.3 or 1.2.3rc1")
    version = found[1]
    if tag != f"v{version}":
        sys.exit(f"the tag must be v{version}, the version of resharp/__init__.py, got {tag}")
    changelog = Path("CHANGELOG.md").read_text(encoding="utf-8")
    sections = {name: (day, notes) for name, day, notes in SECTION.findall(changelog)}
    if version not in sections:
        sys.exit(f"CHANGELOG.md has no section for {version}")
    day, notes = sections[version]
    try:
        date.fromisoformat(day)
    except ValueError:
        sys.exit(f"the date of {version} in CHANGELOG.md must be YYYY-MM-DD, got {day}")
    if not notes.strip():
        sys.exit(f"the section for {version} in CHANGELOG.md is empty")
    sys.stdout.write(notes.strip() + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
