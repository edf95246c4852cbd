"""Training of a compact x4 network: Adam, EMA, warm-up, linear decay, exact resumption."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from resharp.fsutil import remove_leftovers, replacing, write_whole
from resharp.models.archs.srvgg import SRVGGNetCompact
from resharp.training.data import Pairs, load_images
from resharp.training.degrade import Degradation, Image
from resharp.training.validate import clean_input, degraded_input, measure

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All settings that determine a run; written next to its result."""

    features: int = 48
    """Channels of the network's hidden layers."""
    convolutions: int = 12
    """Number of convolutions between the first and the last one."""
    steps: int = 20000
    """Number of steps of the run; resuming with another number only moves its end."""
    batch: int = 16
    """Number of samples per step."""
    patch: int = 48
    """Side length of an input patch in pixels."""
    learning_rate: float = 1e-3
    """Adam's learning rate between warm-up and decay."""
    warmup: int = 200
    """Number of linear warm-up steps."""
    decay: float = 0.35
    """Fraction of the run, at its end, over which the learning rate falls linearly to zero."""
    ema: float = 0.999
    """Decay of the moving average of the weights, which is the result."""
    loss: str = "l1"
    """``l1`` on RGB, or ``luma``: Huber loss (beta 0.05) on RGB plus the same on luma."""
    bfloat16: bool = True
    """Whether to compute in bfloat16; weights, optimizer and loss stay float32."""
    seed: int = 7
    """Random seed of the initial weights and of every batch."""
    degradation: Degradation = field(default_factory=Degradation)
    """Degradation of the inputs."""

    def rate(self, step: int) -> float:
        """Return the learning rate of one step."""
        start = round(self.steps * (1 - self.decay))
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if step < start:
            return self.learning_rate
        return self.learning_rate * (self.steps - step) / max(self.steps - start, 1)


def to_tensor(images: np.ndarray, device: str) -> torch.Tensor:
    """Convert uint8 BGR ``[n, h, w, 3]`` to channels-last float RGB ``[n, 3, h, w]`` in 0..1."""
    tensor = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).to(device)
    return tensor.permute(0, 3, 1, 2).float().div(255)


def network_of(config: TrainingConfig) -> SRVGGNetCompact:
    """Create a network with initial weights from the config's seed."""
    torch.manual_seed(config.seed)
    network = SRVGGNetCompact(
        num_feat=config.features, num_conv=config.convolutions, upscale=config.degradation.scale
    )
    # PyTorch's default shrinks the signal at every convolution, to almost nothing after 14.
    convolutions = [layer for layer in network.body if isinstance(layer, nn.Conv2d)]
    for convolution in convolutions:
        nn.init.kaiming_normal_(convolution.weight, a=0.25)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
    with torch.no_grad():  # start close to plain upscaling
        convolutions[-1].weight.mul_(0.1)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def upscale_with(network: nn.Module, device: str) -> Any:
    """Wrap a network as the ``uint8 -> uint8`` function that validation expects."""

    def upscale(image: Image) -> Image:
        with torch.inference_mode():
            out = network(to_tensor(image[None], device)).clamp(0, 1).mul(255).round()
        rgb = out[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
        return np.ascontiguousarray(rgb[..., ::-1])

    return upscale


def luma_loss(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the Huber loss on RGB ``[n, 3, h, w]`` plus that on BT.601 luma."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=out.device).view(1, 3, 1, 1)
    one, two = (out * weights).sum(1), (target * weights).sum(1)
    return F.smooth_l1_loss(out, target, beta=0.05) + F.smooth_l1_loss(one, two, beta=0.05)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "l1": F.l1_loss,
    "luma": luma_loss,
}


class TrainingRun:
    """A training run in a folder: ``last.pt`` (to resume), ``average.pth``, ``log.jsonl``."""

    def __init__(self, folder: Path, config: TrainingConfig, train: Path, valid: Path) -> None:
        self.folder, self.config = folder, config
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = network_of(config).to(self.device)
        self.average = network_of(config).to(self.device).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate)
        self.step = 0
        self.valid = load_images(valid)
        self.pairs = Pairs(
            load_images(train),
            patch=config.patch,
            batch=config.batch,
            degradation=config.degradation,
            seed=config.seed,
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "recipe.json", json.dumps(asdict(config), indent=2).encode() + b"\n")

    def resume(self) -> bool:
        """Resume from ``last.pt``; return whether it exists."""
        path = self.folder / "last.pt"
        if not path.exists():
            return False
        # Load to the CPU, where Adam keeps its step count: on a GPU, every step would synchronize.
        # load_state_dict moves the other tensors to the device of the parameters.
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        return True

    def run(self, *, every: int = 500, until: int | None = None) -> dict[str, float]:
        """Train to step ``until`` or to the end; validate and save after each ``every`` steps."""
        began, losses, figures = time.monotonic(), [], self.validate()
        stop = self.config.steps if until is None else min(until, self.config.steps)
        for inputs, targets in self.pairs.iterate(self.step, stop):
            losses.append(self._advance(inputs, targets))
            self.step += 1
            if self.step % every == 0 or self.step == stop:
                figures = self.validate()
                figures |= {
                    "step": self.step,
                    "loss": float(np.mean(losses)),
                    "seconds": round(time.monotonic() - began, 1),
                }
                losses = []
                self._save(figures)
                logger.info("%s", json.dumps(figures))
        return figures

    def validate(self) -> dict[str, float]:
        """Return the gains of the averaged weights over bicubic upscaling, in dB."""
        upscale = upscale_with(self.average, self.device)
        scale = self.config.degradation.scale
        return {
            "clean_gain": round(measure(self.valid, upscale, clean_input, scale).gain, 4),
            "worn_gain": round(measure(self.valid, upscale, degraded_input, scale).gain, 4),
        }

    def _advance(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.bfloat16):
            out = self.network(to_tensor(inputs, self.device))
        loss = LOSSES[self.config.loss](out.float(), to_tensor(targets, self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        blend = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, blend)
        return float(loss.item())

    def _save(self, figures: Mapping[str, float]) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        _write(self.folder / "last.pt", state)
        _write(self.folder / "average.pth", {"params_ema": self.average.state_dict()})
        with (self.folder / "log.jsonl").open("a") as stream:
            stream.write(json.dumps(figures) + "\n")


def _write(path: Path, state: Any) -> None:
    remove_leftovers(path)
    with replacing(path) as part:
        torch.save(state, part)
