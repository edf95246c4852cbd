"""Which checkpoints exist, where they come from and what their bytes are; fetch and verify them.

Nothing heavy is imported here: what a download needs (pooch, filelock, tqdm) is imported by the
download. See ``docs/weights.md``.
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
