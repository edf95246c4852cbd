"""GFPGANv1Clean, the face restoration network of GFPGAN 1.3, 1.4 and NoCE-C2.

Source: ``gfpgan/archs/gfpganv1_clean_arch.py`` and ``stylegan2_clean_arch.py`` of
TencentARC/GFPGAN, described in "Towards Real-World Blind Face Restoration with Generative Facial
Prior" (Wang et al., CVPR 2021). License: Apache-2.0, whose file also lists StyleGAN2 code under
NVIDIA's terms, which allow non-commercial use only ("research or evaluation purposes only").
Treat upstream's weights as bound by both. Reimplemented here; the state-dict names are the official
ones.

Differences from upstream and their reasons:

- Styles scale activations instead of weights, so that one convolution handles every image of a
  batch (upstream's grouped convolution has the batch in its shape, which no exporter supports).
- Demodulation is float32 (:class:`ModulatedConv2d`), and activations are divided by the largest
  style: in fp16, upstream's sum of squared weights overflows for large styles and is 0 for small
  ones.
- The noise is that of the checkpoint (upstream's ``randomize_noise=False``). By default, upstream
  draws new noise in each call, so its result varies from call to call.
- Intermediate images of the encoder (``toRGB``) are not computed; their weights are kept.

The release files contain ``params_ema`` (training files also ``params``); upstream's ``GFPGANer``
prefers the former, as ``read_checkpoint`` does. Older GFPGAN 1 files (``GFPGANv1.pth``) contain a
different network, with CUDA operators and ``conv_body_first.0``.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resharp.errors import UnknownArchitectureError
from resharp.models.architecture import (
    Architecture,
    Parameters,
    State,
    face_facts,
    indices,
    size,
)
from resharp.models.archs.layers import SLOPE, conv3x3, conv_pair, leaky
from resharp.models.fp32_modules import Float32Linear, PixelLinear, linear

FIRST = 3
"""Base-2 exponent of the first size above 4x4."""
EPS = 1e-8
_DOWN = re.compile(r"conv_body_down\.(\d+)\.conv1\.weight")
_MLP = re.compile(r"stylegan_decoder\.style_mlp\.(\d+)\.weight")
_OLD = "conv_body_first.0.weight"
_DECODER = "stylegan_decoder.constant_input.weight"


class GFPGANv1Clean(nn.Module):
    """A U-Net that produces styles and spatial conditions, and a StyleGAN2 decoder they control.

    Args:
        out_size: side length of input and output images, a power of two from 8 to 1024.
        num_style_feat: length of a style.
        channel_multiplier: multiplier of the decoder's channels from 64x64 on.
        num_mlp: layers of the style network, which is stored in files but not used.
        num_feat: channels of the decoder at 4x4 to 32x32; 512 times upstream's ``narrow``.

    ``forward`` takes ``[n, 3, out_size, out_size]`` in -1..1, RGB, and returns the same in float32,
    which may exceed -1..1. The official networks have ``different_w``, ``input_is_latent`` and
    ``sft_half`` enabled, as this one does.
    """

    def __init__(
        self,
        out_size: int = 512,
        num_style_feat: int = 512,
        channel_multiplier: int = 2,
        num_mlp: int = 8,
        num_feat: int = 512,
    ) -> None:
        super().__init__()
        self.out_size, self.num_style_feat = out_size, num_style_feat
        self.log_size = _exponent(out_size)
        wide = channels(num_feat, channel_multiplier)
        narrow = {side: max(count // 2, 1) for side, count in wide.items()}
        sides = [1 << power for power in range(FIRST, self.log_size + 1)]
        self.bottom = narrow[4] * 16
        self.num_latent = 2 * self.log_size - 2
        down = [narrow[side] for side in (*reversed(sides), 4)]
        up = [narrow[side] for side in (4, *sides)]
        self.conv_body_first = nn.Conv2d(3, narrow[out_size], 1)
        self.conv_body_down = nn.ModuleList(
            StyleGanResBlock(a, b, "down") for a, b in pairwise(down)
        )
        self.final_conv = conv3x3(narrow[4], narrow[4])
        self.conv_body_up = nn.ModuleList(StyleGanResBlock(a, b, "up") for a, b in pairwise(up))
        self.toRGB = nn.ModuleList(nn.Conv2d(narrow[side], 3, 1) for side in sides)
        self.final_linear = PixelLinear(self.bottom, self.num_latent * num_style_feat)
        self.stylegan_decoder = StyleGanDecoder(wide, self.log_size, num_style_feat, num_mlp)
        self.condition_scale = nn.ModuleList(conv_pair(narrow[side]) for side in sides)
        self.condition_shift = nn.ModuleList(conv_pair(narrow[side]) for side in sides)

    def forward(self, x: Tensor) -> Tensor:
        """Restore aligned faces; only n is dynamic."""
        features = leaky(self.conv_body_first(x))
        skips = []
        for block in self.conv_body_down:
            features = block(features)
            skips.append(features)
        features = leaky(self.final_conv(features))
        styles: Tensor = self.final_linear(features.reshape(-1, self.bottom))
        conditions = []
        layers = zip(self.conv_body_up, self.condition_scale, self.condition_shift, strict=True)
        for (block, scale, shift), skip in zip(layers, reversed(skips), strict=True):
            features = block(features + skip)
            conditions.append((scale(features), shift(features)))
        styles = styles.reshape(-1, self.num_latent, self.num_style_feat)
        restored: Tensor = self.stylegan_decoder(styles, conditions)
        return restored


class StyleGanResBlock(nn.Module):
    """Two convolutions around bilinear doubling or halving, plus a parallel 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, mode: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, inputs)
        self.conv2 = conv3x3(inputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.up = mode == "up"

    def forward(self, x: Tensor) -> Tensor:
        """Double or halve the size of ``[n, c, h, w]``."""
        inner = leaky(self.conv2(self._resize(leaky(self.conv1(x)))))
        out: Tensor = inner + self.skip(self._resize(x))
        return out

    def _resize(self, x: Tensor) -> Tensor:
        # Bilinear halving without aligned corners is the mean of 2x2 pixels.
        return _double(x) if self.up else F.avg_pool2d(x, 2)


class ModulatedConv2d(nn.Module):
    """StyleGAN2's convolution, whose input channels are scaled by a style; no bias.

    The style is computed in float32. Activations are multiplied by the style divided by its largest
    magnitude, and the result by the remaining factor, so that the convolution operates on numbers
    of the magnitude of its input whether styles are around 1e-3 or 3000.
    """

    casts: ClassVar[bool] = True

    def __init__(
        self, inputs: int, outputs: int, kernel: int, style: int, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.modulation = Float32Linear(style, inputs)
        nn.init.ones_(self.modulation.bias)
        weight = torch.randn(1, outputs, inputs, kernel, kernel)
        self.weight = nn.Parameter(weight / math.sqrt(inputs * kernel**2))

    def forward(self, x: Tensor, style: Tensor, gain: float = 1.0) -> Tensor:
        """Map ``[n, c, h, w]`` and ``[n, style]`` to ``[n, outputs, h, w]``, times ``gain``.

        Without demodulation, nothing bounds the result, so it is float32.
        """
        scale, rest = self._styles(style)
        weight = self.weight[0]
        scaled = (x * scale.to(x.dtype)[:, :, None, None]).to(weight.dtype)
        out = F.conv2d(scaled, weight, padding=weight.shape[-1] // 2)
        if not self.demodulate:
            return out.float() * (rest * gain)[:, :, None, None]
        return out.to(x.dtype) * (rest * gain).to(x.dtype)[:, :, None, None]

    def _styles(self, style: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors for the input channels, at most 1, and the output channels; float32."""
        styles = self.modulation(style)
        largest = styles.abs().amax(1, keepdim=True).clamp_min(1e-6)
        scale = styles / largest
        if not self.demodulate:
            return scale, largest
        power = self.weight[0].float().pow(2).sum((2, 3))  # of the weights as they are in use
        return scale, torch.rsqrt(linear(scale * scale, power) + EPS / (largest * largest))


class StyleConv(nn.Module):
    """A modulated convolution, noise, bias and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, style: int, double: bool) -> None:
        super().__init__()
        self.doubles = double
        self.modulated_conv = ModulatedConv2d(inputs, outputs, 3, style)
        self.weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, outputs, 1, 1))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """Map ``[n, c, h, w]`` to ``[n, outputs, h, w]``, or to twice that size."""
        out = self.modulated_conv(_double(x) if self.doubles else x, style, math.sqrt(2))
        # Added separately: otherwise exporters fold both into a constant of the output's size.
        out = out + (self.weight * noise).to(out.dtype)
        return leaky(out + self.bias.to(out.dtype))


class ToRGB(nn.Module):
    """Converts features to an image and adds the upsampled image of the size below; float32."""

    def __init__(self, inputs: int, style: int) -> None:
        super().__init__()
        self.modulated_conv = ModulatedConv2d(inputs, 3, 1, style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, below: Tensor | None) -> Tensor:
        """Map ``[n, c, h, w]`` to float32 ``[n, 3, h, w]``."""
        out: Tensor = self.modulated_conv(x, style) + self.bias.float()
        return out if below is None else out + _double(below)


class Constant(nn.Module):
    """The learned 4x4 features that every image starts from."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, features, 4, 4))


class NormStyle(nn.Module):
    """Scales styles to mean square 1; has no weights but preserves the official numbering."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize styles ``[n, style]``."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPS)


class StyleGanDecoder(nn.Module):
    """StyleGAN2's generator; conditions scale and shift half of the channels at each size."""

    def __init__(self, wide: dict[int, int], log_size: int, style: int, num_mlp: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [NormStyle()]
        for _ in range(num_mlp):
            layers += [nn.Linear(style, style), nn.LeakyReLU(SLOPE)]
        self.style_mlp = nn.Sequential(*layers)
        self.constant_input = Constant(wide[4])
        self.style_conv1 = StyleConv(wide[4], wide[4], style, double=False)
        self.to_rgb1 = ToRGB(wide[4], style)
        self.style_convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        self.noises = nn.Module()
        self.noises.register_buffer("noise0", torch.randn(1, 1, 4, 4))
        for index, power in enumerate(range(FIRST, log_size + 1)):
            side = 1 << power
            inputs, outputs = wide[side // 2], wide[side]
            self.style_convs.append(StyleConv(inputs, outputs, style, double=True))
            self.style_convs.append(StyleConv(outputs, outputs, style, double=False))
            self.to_rgbs.append(ToRGB(outputs, style))
            for number in (2 * index + 1, 2 * index + 2):
                self.noises.register_buffer(f"noise{number}", torch.randn(1, 1, side, side))

    def forward(self, styles: Tensor, conditions: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Map styles ``[n, latents, style]`` and (scale, shift) per size to float32 images."""
        noises = list(self.noises.buffers())  # in order of registration: coarse to fine
        start = self.constant_input.weight.to(conditions[0][0].dtype)
        out = self.style_conv1(start, styles[:, 0], noises[0])
        picture = self.to_rgb1(out, styles[:, 1], None)
        for level, (scale, shift) in enumerate(conditions):
            first, second = self.style_convs[2 * level], self.style_convs[2 * level + 1]
            latent = 2 * level + 1
            out = first(out, styles[:, latent], noises[latent])
            same, steered = out.chunk(2, 1)
            out = torch.cat((same, steered * scale + shift), 1)
            out = second(out, styles[:, latent + 1], noises[latent + 1])
            picture = self.to_rgbs[level](out, styles[:, latent + 2], picture)
        result: Tensor = picture
        return result


def channels(num_feat: int, multiplier: int) -> dict[int, int]:
    """Return the decoder's channels by side; the U-Net has half as many."""
    flat = dict.fromkeys((4, 8, 16, 32), num_feat)
    return flat | {64 << i: max(num_feat * multiplier >> i + 1, 2) for i in range(5)}


def _exponent(out_size: int) -> int:
    power = out_size.bit_length() - 1
    if out_size not in range(8, 1025) or 1 << power != out_size:
        raise ValueError(f"out_size must be a power of two from 8 to 1024, got {out_size}")
    return power


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def matches(state: State) -> bool:
    """Return whether there is a StyleGAN2 decoder preceded by a U-Net."""
    return _DECODER in state and ("conv_body_first.weight" in state or _OLD in state)


def convert(state: State) -> dict[str, Tensor]:
    """Return the same tensors: their names are already the official ones.

    Raises:
        UnknownArchitectureError: the network is the first GFPGAN, which is a different one.
    """
    if _OLD in state:
        raise UnknownArchitectureError(
            "these are weights of the first GFPGAN (GFPGANv1), which resharp does not support: "
            "use gfpgan-v1.3 or gfpgan-v1.4"
        )
    return dict(state)


def infer(state: State) -> Parameters:
    """Infer the parameters of the GFPGANv1Clean with these weights."""
    halvings = len(indices(state, _DOWN))
    features = size(state, _DECODER, 1, 512)
    first = "stylegan_decoder.style_conv1.modulated_conv.modulation.weight"
    wide = size(state, "stylegan_decoder.to_rgbs.3.modulated_conv.weight", 2, features)
    return {
        "out_size": 4 << min(max(halvings, 1), 8),
        "num_style_feat": size(state, first, 1, 512),
        "channel_multiplier": max(2 * wide // max(features, 1), 1),
        "num_mlp": len(indices(state, _MLP)),
        "num_feat": features,
    }


ARCHITECTURE = Architecture(
    build=GFPGANv1Clean,
    matches=matches,
    convert=convert,
    infer=infer,
    facts=lambda parameters: face_facts(int(parameters["out_size"])),
)
