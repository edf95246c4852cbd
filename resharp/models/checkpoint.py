"""A file of weights to a checked checkpoint, and a checkpoint to a network or to a file."""

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
"""The one metadata entry of a ``.safetensors`` file of ours: JSON, architecture and parameters."""

BARE = ""
"""``Checkpoint.state_key`` of a file that holds the tensors themselves."""

STATE_KEYS = (
    "params_ema",  # BasicSR: the averaged weights, which upstream prefers
    "params-ema",
    "params",
    "state_dict",  # Lightning, mmcv and others
    "model_state_dict",
    "generator",
    "model",
    "net",
)
"""Where files keep the tensors; the first one that is there wins."""

_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(Match):
    """Weights that are known to fit a network.

    The tensors of ``state`` have their official names and are finite, contiguous, on the CPU;
    float32 where they are floats.
    """

    state_key: str
    """Where in the file the tensors were; ``BARE`` for a file of nothing else."""
    path: Path | None
    """The file; none for a blend."""
    sha256: str
    """Of the file; of a blend, over the parts' hashes and weights."""


def read_checkpoint(
    path: str | PathLike[str],
    *,
    architecture: str | None = None,
    parameters: Mapping[str, int | str] | None = None,
) -> Checkpoint:
    """Read and check a ``.pth``, ``.pt`` or ``.safetensors`` file. No code from it is run.

    The tensors are looked for under ``STATE_KEYS``, then in the file itself; ``params_ema`` before
    ``params`` is the rule of Real-ESRGAN's ``RealESRGANer`` (BSD-3-Clause). ``module.`` prefixes
    go, older namings become the official one, and half precision becomes float32. Weights that
    fit no network here are shown to spandrel, where it is installed.

    Args:
        path: the file.
        architecture: name of the architecture, where detection is to be overruled.
        parameters: single parameters that are to overrule detected ones.

    Raises:
        CheckpointError: no checkpoint, a damaged one, one that holds code, or NaN in the weights.
        UnknownArchitectureError: a sound file whose weights fit no network here.
        MissingExtraError: the file says that it needs spandrel, which cannot be imported.
        OptionError: no such architecture or parameter.
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
        raise CheckpointError(f"the metadata of {file} are damaged: {error}") from error
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
    """Our own networks first; then spandrel's, unless the caller knows the architecture."""
    if architecture is not None and spandrel_models.is_foreign(architecture):
        return spandrel_models.restore(state, architecture, parameters)
    try:
        return identify(state, architecture=architecture, parameters=parameters)
    except UnknownArchitectureError as error:
        if architecture is not None or set(parameters) - spandrel_models.SIZES:
            raise
        try:
            return spandrel_models.recognise(state, parameters)
        except (MissingExtraError, UnknownArchitectureError) as other:
            raise UnknownArchitectureError(f"{error}. {other}") from error


def build(checkpoint: Checkpoint) -> nn.Module:
    """The network with the checkpoint's weights (copied): float32, on the CPU, in eval mode.

    Raises:
        MissingExtraError: it is one of spandrel's, which cannot be imported.
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
    """``build(read_checkpoint(path))``."""
    return build(read_checkpoint(path))


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


def _state_dict(raw: Any, file: Path) -> tuple[str, dict[str, Tensor]]:
    """The tensors of a loaded file, and the key under which they were."""
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"{file} holds a {type(raw).__name__}, not a state dict")
    inner = (key for key in STATE_KEYS if isinstance(raw.get(key), Mapping) and raw[key])
    key = next(inner, BARE)
    found = raw[key] if key else raw
    tensors = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{file} holds no weights, only {', '.join(map(str, list(raw)[:6])) or 'nothing'}: a "
            "training state is no checkpoint; take the file with the network's weights"
        )
    return key, _without_prefixes(tensors, file)


def _without_prefixes(tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        while prefix := next((one for one in _PREFIXES if short.startswith(one)), ""):
            short = short[len(prefix) :]
        if short in stripped:
            raise CheckpointError(f"{file} holds {short} twice, with and without a prefix")
        stripped[short] = tensor
    return stripped


def _clean(tensor: Tensor, name: str) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(f"{name} is sparse, quantised or complex: take the plain checkpoint")
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    # A copy: the file's tensors may share one storage, or lie in memory channels last.
    clean = torch.empty(tensor.shape, dtype=dtype).copy_(tensor.detach())
    if clean.is_floating_point() and not bool(torch.isfinite(clean).all()):
        raise CheckpointError(
            f"{name} holds NaN or infinite weights: training diverged or the file is damaged; "
            "take an earlier or another checkpoint"
        )
    return clean


def _noted(metadata: Mapping[str, str], file: Path) -> tuple[str | None, Parameters]:
    """Architecture and parameters that ``save_safetensors`` wrote down; else nothing."""
    if METADATA_KEY not in metadata:
        return None, {}
    try:
        noted = json.loads(metadata[METADATA_KEY])
        name = str(noted["architecture"])
        known = name if spandrel_models.is_foreign(name) else find(name).name
        return known, dict(noted["parameters"])
    except (ValueError, KeyError, TypeError, OptionError) as error:
        raise CheckpointError(f"the metadata of {file} are damaged: {error}") from error
