"""Finding a network's weights in what a checkpoint file holds, whichever trainer wrote it.

Trainers put state dicts into dicts (``params_ema``, ``state_dict``, ``netG``, several levels deep)
and prefixes before the names of tensors (``net_g.``, ``generator_ema.``, ``model.``, in any order),
next to counters, optimizers, discriminators and the networks of losses. Some of these words are
also the official names of parts of a network: ``model.0.weight`` of the first ESRGAN code,
``generator.blocks`` of CodeFormer. So nothing is decided by names alone: :func:`candidates` lists
what could be a network, the best first, and ``checkpoint.py`` takes the first that is one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resharp.errors import CheckpointError
from resharp.models.architecture import State

WRAPPERS = (
    "params_ema",  # BasicSR: the averaged weights, preferred upstream
    "params",
    "state_dict",  # Lightning, mmcv and others
    "model_state_dict",
    "generator_ema",  # MMagic
    "generator",
    "model_ema",
    "ema_model",
    "model",
    "net_g_ema",
    "net_g",  # BasicSR and its descendants
    "netg_ema",
    "netg",  # KAIR and pix2pix
    "ema",
    "net",
    "network",
    "weights",
    "gen",
    "g_ema",
    "g",
    "student",
    "online_model",
)
"""Keys and prefixes that mean the network that is used, in order of preference; lower case."""

_ANYWHERE = re.compile(
    r"^(?:module\.)+"  # DataParallel
    r"|(?<![^.])_(?:orig_mod|forward_module|fsdp_wrapped_module|checkpoint_wrapped_module)\."
)
"""Prefixes that are never part of a name: torch's own, some of which also stand inside of one."""
_AVERAGED = re.compile(r"(?i:(?:^|[^a-z])(?:ema|swa|averaged?)(?:[^a-z]|$))|EMA")
_DISCRIMINATOR = re.compile(
    r"(?i)(?:net_?d|model_?d|disc|discriminators?|d)(?:_(?:\d+|ema|state_dict|params|weights))?"
)
_LOSSES = re.compile(
    r"(?i)(?:.*_)?(?:loss(?:es)?|criterion|perceptual|percep|lpips|vgg)(?:_.*|\d*)"
)
_STATE_OF_TRAINING = re.compile(r"(?i)optim(?!i[sz]ed)|sched|scaler|exp_avg|param_groups")
_COUNTER = re.compile(
    r"(?i)(?:.*_)?(?:steps?|iters?|iterations?|epochs?|lr|loss|psnr|ssim|lpips|count(?:er)?|"
    r"averaged|updates|decay|initted|best|seed|time|version)(?:_.*)?"
)
_CLASSIFIER = re.compile(r"classifier\.\d+\.weight|fc\.weight")
_SPECTRAL = re.compile(r"\.weight_u$|\.parametrizations\.weight\.0\._u$")
"""Names of spectral normalization, torch's old one and its new one."""
_ONLY_FOR_TRAINING = "which is only used for training: use the generator's file (net_g)"
_DISCRIMINATOR_HINT = f"a discriminator, {_ONLY_FOR_TRAINING}"
_DEPTH = 8
_NESTS = 1000
"""Dicts to look into: a small hostile file can hold any number of them."""
_SHOWN = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """Tensors of a file that could be the weights of a network."""

    trail: tuple[str, ...]
    """Keys of the dicts, then the prefixes of the names, that lead to them."""
    tensors: dict[str, Tensor]
    """Tensors by name, without those prefixes."""

    @property
    def key(self) -> str:
        """The trail as text; empty at the file's top level."""
        return ".".join(self.trail)

    @property
    def averaged(self) -> bool:
        """Whether these are moving averages (EMA) of weights."""
        return any(map(_AVERAGED.search, self.trail))

    @property
    def rank(self) -> tuple[bool, tuple[int, ...]]:
        """Sort key, the smallest first: averages, then the order of ``WRAPPERS``."""
        return not self.averaged, tuple(map(_place, self.trail))

    @property
    def unknown(self) -> int:
        """Number of keys and prefixes of the trail that are not in ``WRAPPERS``."""
        return sum(place == len(WRAPPERS) for place in self.rank[1])


def candidates(content: Mapping[Any, Any]) -> list[Candidate]:
    """Return what could be the weights of a network, the best first.

    One trail may occur twice: with all of its tensors, then without counters and without the
    networks of losses and discriminators.

    Args:
        content: what a checkpoint file holds.

    Raises:
        CheckpointError: two tensors have the same name once torch's own prefixes are removed.
    """
    found = [
        candidate
        for trail, tensors in _nests(content)
        if not any(map(_is_for_training, trail))
        for candidate in _groups(trail, tensors)
    ]
    return sorted(found, key=lambda candidate: candidate.rank)


def without_weights(content: Mapping[Any, Any]) -> str:
    """Say what a file is that has no candidates, and what to use instead."""
    keys = [str(key) for key in content]
    found = ", ".join(keys[:_SHOWN]) or "nothing"
    if any(map(_DISCRIMINATOR.fullmatch, [key for trail, _ in _nests(content) for key in trail])):
        return f"has no generator, only {_DISCRIMINATOR_HINT}"
    if "param_groups" in keys:
        return "is the state of an optimizer: use the file with the network's weights"
    if any(map(_STATE_OF_TRAINING.search, keys)):
        return (
            f"has no weights, found {found}: this is a training state, used to resume training; "
            "use the file of the network that was saved with it, e.g. net_g_latest.pth"
        )
    return f"has no weights, found {found}: use the file with the network's weights"


def kind_of_training(state: State) -> str:
    """Say what these weights are if they are of a network that is only used for training.

    Known are discriminators (Real-ESRGAN's U-Net, those of VGG style, StyleGAN2's, PatchGAN),
    classification networks as in perceptual losses, and LPIPS.

    Returns:
        The kind and what to use instead; empty if it is none of them.
    """
    names = set(state)
    if "lin0.model.1.weight" in names:
        return f"a perceptual metric (LPIPS), {_ONLY_FOR_TRAINING}"
    classes = [tensor.shape[0] for name, tensor in state.items() if _CLASSIFIER.fullmatch(name)]
    if classes and classes[-1] > 1:
        return f"a classification network for perceptual losses, {_ONLY_FOR_TRAINING}"
    last = state.get("conv9.weight")
    unet = last is not None and "conv0.weight" in names and last.shape[:1] == (1,)
    vgg = {"conv0_0.weight", "linear2.weight"} <= names
    style = {"final_conv", "final_linear"} <= {name.partition(".")[0] for name in names}
    named = all(_DISCRIMINATOR.fullmatch(name.partition(".")[0]) for name in names)
    if classes or unet or vgg or style or named or _judges(state):
        return _DISCRIMINATOR_HINT
    return ""


def _judges(state: State) -> bool:
    """Return whether an image goes in and one number for each place comes out."""
    weights = [tensor for tensor in state.values() if tensor.ndim in (2, 4)]
    spectral = any(map(_SPECTRAL.search, state))
    patches = sum(tuple(one.shape[2:]) == (4, 4) for one in weights) >= 3
    ends = {one.shape[0] for one in weights}
    return (spectral or patches) and 1 in ends and 3 not in ends


def _is_for_training(name: str) -> bool:
    """Return whether a key or prefix means something that is only used for training."""
    return bool(
        _DISCRIMINATOR.fullmatch(name) or _LOSSES.fullmatch(name) or _STATE_OF_TRAINING.search(name)
    )


def _nests(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield the tensors of each dict within dicts, outermost first, with the keys to it."""
    pending: deque[tuple[tuple[str, ...], Mapping[Any, Any]]] = deque([((), content)])
    for _ in range(_NESTS):
        if not pending:
            return
        trail, one = pending.popleft()
        tensors = {str(name): value for name, value in one.items() if isinstance(value, Tensor)}
        if tensors:
            yield trail, tensors
        if len(trail) < _DEPTH:
            pending.extend(
                ((*trail, key), value)
                for key, value in one.items()
                if isinstance(key, str) and isinstance(value, Mapping)
            )


def _groups(trail: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Iterator[Candidate]:
    """Yield the tensors, the part that counts, and what is behind each prefix."""
    own = _without_torch_prefixes(tensors)
    if all(map(_is_counter, own, own.values())):
        return
    yield Candidate(trail=trail, tensors=own)
    kept = {name: one for name, one in own.items() if not _is_beside(name, one)}
    if not kept:
        return
    if len(kept) < len(own):
        yield Candidate(trail=trail, tensors=kept)
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in kept.items():
        head, _, rest = name.partition(".")
        parts.setdefault(head if rest else "", {})[rest] = tensor
    for head, part in parts.items():
        wraps = len(parts) == 1 or _place(head) < len(WRAPPERS) or _AVERAGED.search(head)
        if head and wraps and len(trail) < _DEPTH:
            yield from _groups((*trail, head), part)


def _without_torch_prefixes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        short = name
        while short != (shorter := _ANYWHERE.sub("", short)):
            short = shorter
        if short in stripped:
            raise CheckpointError(f"contains {short} twice, with and without a prefix")
        stripped[short] = tensor
    return stripped


def _place(name: str) -> int:
    """Return the index of a key or prefix in ``WRAPPERS``; its length if it is none of them."""
    name = name.lower().replace("-", "_")
    return WRAPPERS.index(name) if name in WRAPPERS else len(WRAPPERS)


def _is_beside(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is no weight of the network: a counter, or of another network."""
    head, _, rest = name.partition(".")
    if not rest:
        return _is_counter(name, tensor)
    return bool(_DISCRIMINATOR.fullmatch(head) or _LOSSES.fullmatch(head))


def _is_counter(name: str, tensor: Tensor) -> bool:
    """Return whether it is one number of the training, such as ``step``, not a learned one."""
    if "." in name or tensor.numel() > 1:
        return False
    return not tensor.is_floating_point() or _COUNTER.fullmatch(name) is not None
