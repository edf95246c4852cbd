"""Checkpoints: reading and checking a file, building its network, writing safetensors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
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
from resharp.models.archs import find, known
from resharp.models.detect import Match, identify
from resharp.models.pickle_scan import most_bytes
from resharp.models.unwrap import Candidate, candidates, kind_of_training, without_weights
from resharp.optional import require
from resharp.reading import parse_json

METADATA_KEY = "resharp"
"""Only metadata entry of resharp's ``.safetensors`` files: architecture and parameters as JSON."""

BARE = ""
"""``Checkpoint.state_key`` of a file with the tensors at its top level."""

_SHOWN = 3000
"""Most characters of an error that are shown."""
_ATTEMPTS = 12
"""Candidates of one file that are offered to spandrel."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint(Match):
    """Weights that are known to fit a network.

    The tensors of ``state`` have official names and are finite, contiguous and on the CPU;
    floating-point tensors are float32.
    """

    state_key: str
    """Keys and prefixes under which the file stored the tensors, with dots between them; ``BARE``
    if they were at its top level."""
    path: Path | None
    """Path of the file; None for a blend."""
    sha256: str
    """SHA-256 of the file; for a blend, of the hashes and weights of its parts."""
    notes: tuple[str, ...] = ()
    """What a user should know about the choice of the weights, e.g. that they are averages."""


def read_checkpoint(
    path: str | PathLike[str],
    *,
    architecture: str | None = None,
    parameters: Mapping[str, int | str] | None = None,
) -> Checkpoint:
    """Read and check a ``.pth``, ``.pt`` or ``.safetensors`` file without running code from it.

    The weights are found in dicts within dicts and behind prefixes, as trainers write them; see
    ``unwrap.py``. Averaged weights (EMA) are preferred, as in Real-ESRGAN's ``RealESRGANer``
    (BSD-3-Clause). Older namings are converted to the official one, and half precision becomes
    float32. Weights that fit no network of resharp are passed to spandrel if it is installed.

    Args:
        path: checkpoint file.
        architecture: name of an architecture, to override detection.
        parameters: individual parameters, to override detected ones.

    Raises:
        CheckpointError: the file is not a checkpoint, is damaged, contains code, several networks
            or no network, or has weights that are not finite.
        UnknownArchitectureError: the file is intact, but its weights fit no known network.
        MissingExtraError: the file's metadata asks for spandrel, which cannot be imported.
        OptionError: the architecture or a parameter does not exist.
    """
    file = Path(fspath(path))
    raw, metadata = files.read(file)
    sha256 = sha256_of(file)
    noted, remembered = _noted(metadata, file)
    if architecture not in (None, noted):
        remembered = {}
    try:
        found, match, notes = _identify(
            _candidates(raw, most_bytes(file.stat().st_size)),
            architecture=architecture or noted,
            parameters=remembered | dict(parameters or {}),
        )
    except CheckpointError as error:
        text = str(error)  # it may contain names of tensors of any length
        raise type(error)(f"{file}: {text[:_SHOWN]}{'...' * (len(text) > _SHOWN)}") from error
    except OptionError as error:
        if parameters or not remembered:
            raise
        raise CheckpointError(f"the metadata of {file} is damaged: {error}") from error
    for note in notes:
        logger.info("%s: %s", file, note)
    return Checkpoint(
        architecture=match.architecture,
        parameters=match.parameters,
        facts=match.facts,
        state=match.state,
        state_key=found.key,
        path=file,
        sha256=sha256,
        notes=notes,
    )


def _candidates(raw: Any, most: int) -> list[Candidate]:
    """Return what could be the weights of a network, each of at most ``most`` bytes in float32."""
    if not isinstance(raw, Mapping):
        raise CheckpointError(f"contains a {type(raw).__name__}, not a state dict")
    found = candidates(raw)
    if not found:
        raise CheckpointError(without_weights(raw))
    for one in found:
        if sum(4 * tensor.numel() for tensor in one.tensors.values()) > most:
            raise CheckpointError(
                "repeats its tensors, which would take far more memory than the file has bytes: "
                "use a file of the network's weights alone"
            )
    return found


def _identify(
    found: Sequence[Candidate], *, architecture: str | None, parameters: Parameters
) -> tuple[Candidate, Match, tuple[str, ...]]:
    """Return the weights to use, the network that they fit, and notes on the choice.

    resharp's own networks come first, then spandrel's unless the architecture is given.
    """
    if architecture is not None and spandrel_models.is_foreign(architecture):
        bare = max(found, key=lambda one: len(one.tensors))
        return bare, spandrel_models.restore(_cleaned(bare), architecture, parameters), ()
    kinds = known() if architecture is None else (find(architecture),)
    fitting = [one for one in found if any(kind.matches(one.tensors) for kind in kinds)]
    failures: dict[str, UnknownArchitectureError] = {}
    for one in fitting or [_likeliest(found)]:
        try:
            match = identify(_cleaned(one), architecture=architecture, parameters=parameters)
        except UnknownArchitectureError as error:
            failures[one.key] = error
            continue
        _refuse_quantized(match)
        _refuse_several(one, fitting)
        return one, match, _notes(one, [*fitting, *found], failures)
    misfit = next(iter(failures.values()))
    if architecture is not None or set(parameters) - spandrel_models.SIZES:
        raise misfit
    size = len(_likeliest(found).tensors)
    kinds_of_training = (kind_of_training(one.tensors) for one in found if len(one.tensors) >= size)
    if kind := next(filter(None, kinds_of_training), ""):
        raise UnknownArchitectureError(f"these are weights of {kind}") from misfit
    return _recognize(found, parameters, misfit)


def _recognize(
    found: Sequence[Candidate], parameters: Parameters, misfit: UnknownArchitectureError
) -> tuple[Candidate, Match, tuple[str, ...]]:
    """Offer the candidates to spandrel; ``misfit`` tells why they fit no network of resharp."""
    reasons = []
    for one in found[:_ATTEMPTS]:
        try:
            return one, spandrel_models.recognize(_cleaned(one), parameters), _notes(one, found, {})
        except (MissingExtraError, UnknownArchitectureError) as error:
            reasons.append(error)
            if isinstance(error, MissingExtraError):
                break
    raise UnknownArchitectureError(f"{misfit}. {reasons[0]}") from misfit


def _likeliest(found: Sequence[Candidate]) -> Candidate:
    """Return the best of the largest candidates, without the prefixes that are known as such."""
    best = [one for one in found if one.averaged == found[0].averaged]
    most = max(len(one.tensors) for one in best)
    return max(best, key=lambda one: (len(one.tensors) == most, -one.unknown, len(one.trail)))


def _refuse_several(chosen: Candidate, fitting: Sequence[Candidate]) -> None:
    """Refuse a file with several networks if nothing tells which of them is meant."""
    same = {one.key: one for one in fitting if one.rank == chosen.rank}
    if len(same) > 1 and chosen.unknown:
        raise CheckpointError(
            f"contains several networks ({', '.join(same)}): save the state dict of one of them to "
            "a file of its own"
        )


def _refuse_quantized(match: Match) -> None:
    for name, tensor in match.state.items():
        if name.endswith((".weight", ".bias")) and not tensor.is_floating_point():
            raise CheckpointError(
                f"{name} contains integers ({tensor.dtype}): the weights are quantized; use the "
                "plain checkpoint"
            )


def _notes(
    chosen: Candidate, found: Sequence[Candidate], failures: Mapping[str, Exception]
) -> tuple[str, ...]:
    """Say which weights were taken where a file has averaged and plain ones."""
    others = [
        one
        for one in found
        if one.averaged != chosen.averaged
        and 2 * len(one.tensors) > len(chosen.tensors)
        and one.trail != chosen.trail[: len(one.trail)]
    ]
    if not others:
        return ()
    here, there = chosen.key or "the plain weights", others[0].key or "the plain weights"
    if chosen.averaged:
        return (f"uses the averaged weights (EMA) {here}, not {there}",)
    reason = failures.get(others[0].key, "its names are unknown")
    return (f"uses {here}: the averaged weights {there} fit no known network ({reason})",)


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


def _cleaned(candidate: Candidate) -> dict[str, Tensor]:
    return {name: _clean(tensor, name) for name, tensor in candidate.tensors.items()}


def _clean(tensor: Tensor, name: str) -> Tensor:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        raise CheckpointError(f"{name} is sparse, quantized or complex: use the plain checkpoint")
    if tensor.is_meta:
        raise CheckpointError(f"{name} has a shape but no values: use the plain checkpoint")
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
        noted = parse_json(metadata[METADATA_KEY])
        name = str(noted["architecture"])
        known = name if spandrel_models.is_foreign(name) else find(name).name
        return known, dict(noted["parameters"])
    except (ValueError, KeyError, TypeError, OptionError) as error:
        raise CheckpointError(f"the metadata of {file} is damaged: {error}") from error
