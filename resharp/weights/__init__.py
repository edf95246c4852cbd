"""The known checkpoints, their sources and hashes, and functions to fetch and verify them.

Importing this package is cheap: pooch, filelock and tqdm are only imported by a download. See
``docs/design/weights.md``.
"""

from resharp.weights.catalogue import catalogue, find, kebab, lookup, nearest
from resharp.weights.entry import ModelEntry, Parameter
from resharp.weights.fetch import fetch
from resharp.weights.local import adopt, local_entries, register, resolve
from resharp.weights.remove import remove
from resharp.weights.state import CheckpointStatus, State, inspect, verify

__all__ = [
    "CheckpointStatus",
    "ModelEntry",
    "Parameter",
    "State",
    "adopt",
    "catalogue",
    "fetch",
    "find",
    "inspect",
    "kebab",
    "local_entries",
    "lookup",
    "nearest",
    "register",
    "remove",
    "resolve",
    "verify",
]
