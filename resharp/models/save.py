"""A checkpoint to a ``.safetensors`` file, the same bytes every time."""

from __future__ import annotations

import json
from os import PathLike

from resharp.fsutil import write_whole
from resharp.models.checkpoint import METADATA_KEY, Checkpoint
from resharp.optional import require


def save_safetensors(checkpoint: Checkpoint, path: str | PathLike[str]) -> None:
    """Write the clean tensors, the architecture and its parameters; ``read_checkpoint`` reads them.

    Equal checkpoints give equal bytes: the library orders the tensors by dtype and name, and there
    is one metadata entry only, because it writes several in an order that differs from run to run.
    The file is written whole or not at all.

    Raises:
        OutputError: the folder is missing, full or read-only.
        MissingExtraError: safetensors is not installed.
    """
    library = require("safetensors.torch", feature="Writing .safetensors files", extra="torch")
    note = {"architecture": checkpoint.architecture, "parameters": checkpoint.parameters}
    tensors = {name: checkpoint.state[name] for name in sorted(checkpoint.state)}
    data: bytes = library.save(tensors, metadata={METADATA_KEY: json.dumps(note, sort_keys=True)})
    write_whole(path, data)
