"""Checkpoints: reading and checking a file, building its network, writing safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resharp.errors import (
    CheckpointError,
    MissingExtraError,
    OptionError,
    UnknownArchitectureError,
)
from resharp.fsutil import sha256_of, write_whole
from resharp.models import checkpoint_files as files
from resharp.models import spandrel_models
from resharp.models.architecture import Parameters
from resharp.models.archs import find
from resharp.models.detect import Match, identify
from resharp.optional import require

METADATA_KEY = "resharp"
"""Only metadata entry of resharp's ``.safetensors`` files: architecture and parameters as JSON."""

BARE = ""
"""``Checkpoint.state_key`` of a file with the tensors at its top level."""

STATE_KEYS = (
    "params_ema",  # BasicSR: the averaged weights, preferred upstream
    "params-ema",
    "params",
    "state_dict",  # Lightning, mmcv and others
    "model_state_dict",
    "generator",
    "model",
    "net",
)
"""Keys under which files store the tensors, in order of preference."""

_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(Match):
    """Weights that are known to fit a network.

    The tensors of ``state`` have official names and are finite, contiguous and on the CPU;
    floating-point tensors are float32.
    """

    state_key: str
    """Key under which the file stored the tensors; ``BARE`` if they were at its top level."""
    path: Path | None
    """Path of the file; None for a blend."""
    sha256: str
    """SHA-256 of the file; for a blend, of the hashes and weights of its parts."""


def read_checkpoint(
    path: str | PathLike[str],
    *,
    architecture: str | None = None,
    parameters: Mapping[str, int | str] | None = None,
) -> Checkpoint:
    """Read and check a ``.pth``, ``.pt`` or ``.safetensors`` file without running code from it.

    The tensors are looked up under ``STATE_KEYS``, then at the top level; preferring ``params_ema``
    to ``params`` follows Real-ESRGAN's ``RealESRGANer`` (BSD-3-Clause). ``module.`` prefixes are
    removed, older namings are converted to the official one, and half precision becomes float32.
    Weights that fit no network of resharp are passed to spandrel if it is installed.

    Args:
        path: checkpoint file.
        architecture: name of an architecture, to override detection.
        parameters: individual parameters, to override detected ones.

    Raises:
        CheckpointError: the file is not a checkpoint, is damaged, contains code or has weights that
            are not finite.
        UnknownArchitectureError: the file is intact, but its weights fit no known network.
        MissingExtraError: the file's metadata asks for spandrel, which cannot be imported.
        OptionError: the architecture or a parameter does not exist.
    """
    file = Path(fspath(path))
    raw, metadata = files.read(file)
    sha256 = sha256_of(file)
    state_key, state = _state_dict(raw, file)
    noted, remembered = _noted(metadata, file)
    if architecture not in (None, noted):
        remembered = {}
    try:
        match = _identify(
            {name: _clean(tensor, name) for name, tensor in state.items()},
            architecture=architecture or noted,
            parameters=remembered | dict(parameters or {}),
        )
    except CheckpointError as error:
        raise type(error)(f"{file}: {error}") from error
    except OptionError as error:
        if parameters or not remembered:
            raise
        raise CheckpointError(f"the metadata of {file} is damaged: {error}") from error
    return Checkpoint(
        architecture=match.architecture,
        parameters=match.parameters,
        facts=match.facts,
        state=match.state,
        state_key=state_key,
        path=file,
        sha256=sha256,
    )


def _identify(
    state: dict[str, Tensor], *, architecture: str | None, parameters: Parameters
) -> Match:
    """Try resharp's own networks, then spandrel's unless the architecture is given."""
    if architecture is not None and spandrel_models.is_foreign(architecture):
        return spandrel_models.restore(state, architecture, parameters)
    try:
        return identify(state, architecture=architecture, parameters=parameters)
    except UnknownArchitectureError as error:
        if architecture is not None or set(parameters) - spandrel_models.SIZES:
            raise
        try:
            return spandrel_models.recognize(state, parameters)
        except (MissingExtraError, UnknownArchitectureError) as other:
            raise UnknownArchitectureError(f"{error}. {other}") from error


def build(checkpoint: Checkpoint) -> nn.Module:
    """Build a network with a copy of the checkpoint's weights: float32, on the CPU, in eval mode.

    Raises:
        MissingExtraError: the network is one of spandrel's, which cannot be imported.
    """
    if spandrel_models.is_foreign(checkpoint.architecture):
        found = spandrel_models.restore(
            checkpoint.state, checkpoint.architecture, checkpoint.parameters
        )
        return found.network
    network = find(checkpoint.architecture).build(**checkpoint.parameters)
    network.load_state_dict(checkpoint.state, strict=True)
    return network.eval()


def load_network(path: str | PathLike[str]) -> nn.Module:
    """Build the network of a checkpoint file: ``build(read_checkpoint(path))``."""
    return build(read_checkpoint(path))


def save_safetensors(checkpoint: Checkpoint, path: str | PathLike[str]) -> None:
    """Write the tensors, the architecture and its parameters to a ``.safetensors`` file.

    Equal checkpoints produce equal bytes: the library sorts tensors by dtype and name, and there is
    only one metadata entry, because it writes several in an order that differs from run to run.
    The file is written completely or not at all; ``read_checkpoint`` reads it.

    Raises:
        OutputError: the folder is missing, full or read-only.
        MissingExtraError: safetensors is not installed.
    """
    library = require("safetensors.torch", feature="Writing .safetensors files", extra="torch")
    note = {"architecture": checkpoint.architecture, "parameters": checkpoint.parameters}
    tensors = {name: checkpoint.state[name] for name in sorted(checkpoint.state)}
    data: bytes = library.save(tensors, metadata={METADATA_KEY: json.dumps(note, sort_keys=True)})
    write_whole(path, data)


def _state_dict(raw: Any, file: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the tensors of a loaded file and the key under which they were stored."""
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{file} contains a {type(raw).__name__}, not a state dict")
    inner = (key for key in STATE_KEYS if isinstance(raw.get(key), Mapping) and raw[key])
    key = next(inner, BARE)
    found = raw[key] if key else raw
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{file} has no weights, found {', '.join(map(str, list(raw)[:6])) or 'nothing'}: "
            "use the file with the network's weights, not a training state"
        )
    return key, _without_prefixes(tensors, file)


def _without_prefixes(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        while prefix := next((one for one in _PREFIXES if short.startswith(one)), ""):
            short = short[len(prefix) :]
        if short in stripped:
            raise CheckpointError(f"{file} contains {short} twice, with and without a prefix")
        stripped[short] = tensor
    return stripped


def _clean(tensor: Tensor, name: str) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(f"{name} is sparse, quantized or complex: use the plain checkpoint")
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    # Copy: the file's tensors may share one storage or be channels last in memory.
    clean = torch.empty(tensor.shape, dtype=dtype).copy_(tensor.detach())
    if clean.is_floating_point() and not bool(torch.isfinite(clean).all()):
        raise CheckpointError(
            f"{name} contains NaN or infinite weights: training diverged or the file is damaged; "
            "use an earlier or different checkpoint"
        )
    return clean


def _noted(metadata: Mapping[str, str], file: Path) -> tuple[str | None, Parameters]:
    """Return the architecture and parameters that ``save_safetensors`` stored, if any."""
    if METADATA_KEY not in metadata:
        return None, {}
    try:
        noted = json.loads(metadata[METADATA_KEY])
        name = str(noted["architecture"])
        known = name if spandrel_models.is_foreign(name) else find(name).name
        return known, dict(noted["parameters"])
    except (ValueError, KeyError, TypeError, OptionError) as error:
        raise CheckpointError(f"the metadata of {file} is damaged: {error}") from error
