"""A batch job: restore a folder, write a report, and exit with 1 if an image failed.

``python examples/batch_job.py photos restored report.json``. Run it again after an interruption or
when new files have arrived: finished images are skipped.
"""

import json
import sys
from pathlib import Path

from resharp import ResharpError, restore_folder

source, target, report_file = sys.argv[1:]
try:
    report = restore_folder(source, target, scale=2, format="webp", quality=90)
except ResharpError as error:  # nothing could be restored, e.g. an unknown model
    sys.exit(f"{error.code}: {error}")
for result in report.results:
    if result.error:
        print(f"{result.input}: {result.error}", file=sys.stderr)
Path(report_file).write_text(json.dumps(report.as_dict(), indent=2))
print(report.summary())
sys.exit(1 if report.failed else 0)
