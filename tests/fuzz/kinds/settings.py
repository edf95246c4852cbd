"""Files of settings, JSON and TOML, for :class:`resharp.Settings`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

from tests.fuzz.mutators import anywhere, mutated_json
from tests.fuzz.trials import Material, Trial

VALUES = {
    "model": "resharp-x4",
    "backend": "onnx",
    "device": "cpu",
    "tile": 64,
    "scale": 2.0,
    "denoise": None,
    "memory_fraction": 0.5,
    "threads": 1,
    "store": "store",
    "precision": "fp32",
}


class SettingsFiles:
    """One mutated file of settings."""

    name = "settings"
    share = 0.3

    def material(self) -> Material:
        """Return all options as JSON and as TOML."""
        known = {name: value for name, value in VALUES.items() if value is not None}
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in known.items())
        return {"in.json": json.dumps(VALUES).encode(), "in.toml": "".join(lines).encode()}

    def trial(self, random: Random, material: Material) -> Trial:
        """Load mutated settings and open what they describe."""
        if random.random() < 0.6:
            name, changed = "in.json", mutated_json(random, material["in.json"])
        else:
            name, changed = "in.toml", _toml(random, material["in.toml"])
        return Trial(files={name: changed}, call=lambda: load(name), lines=True)


def _toml(random: Random, data: bytes) -> bytes:
    if random.random() < 0.4:
        return anywhere(random, data)
    lines = data.decode().splitlines()
    at = random.randrange(len(lines))
    name, _, value = lines[at].partition(" = ")
    odd = (
        "[" * 50_000,
        "inf",
        "nan",
        "-1",
        "true",
        "1979-05-27",
        "''",
        "{}",
        "[]",
        value + "\n" + lines[at],
    )
    lines[at] = f"{name} = {random.choice((*odd, '9' * 5000, '9' * 40, '0x7f', '1e400'))}"
    return "\n".join(lines).encode()


def load(name: str) -> int:
    """Load settings and open an upscaler, and report an error as the command line does."""
    from resharp import Settings
    from resharp.errors import ResharpError

    try:
        Settings.load(Path(name)).upscaler().close()
    except ResharpError as error:
        print(f"Error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0
