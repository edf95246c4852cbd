"""Check that a wheel has the built-in bundle, intact and small, and no photos or checkpoints."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile

LIMIT = 2_500_000
FOLDER = "resharp/weights/builtin/resharp-x4/"


def main(path: str) -> None:
    """Exit with a message if anything is wrong."""
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        strange = [n for n in names if n.endswith((".pth", ".pt", ".jpg", ".png"))]
        if strange:
            sys.exit(f"the wheel contains unexpected files: {strange}")
        manifest = json.loads(wheel.read(FOLDER + "manifest.json"))
        for file in [manifest["weights"], *manifest["graphs"].values()]:
            if hashlib.sha256(wheel.read(FOLDER + file["name"])).hexdigest() != file["sha256"]:
                sys.exit(f"{file['name']} in the wheel does not match the manifest's SHA-256")
        size = sum(wheel.getinfo(n).file_size for n in names if n.startswith(FOLDER))
        if size > LIMIT:
            sys.exit(f"the built-in bundle must be at most {LIMIT} bytes, got {size}")
    sys.stdout.write(f"{len(names)} files, built-in bundle of {size} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1])
