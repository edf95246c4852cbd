"""RestoreFormer, face restoration by attention between degraded features and codebook features.

Source: ``RestoreFormer/modules/vqvae/vqvae_arch.py`` of wzhouxiff/RestoreFormer (Apache-2.0), which
TencentARC/GFPGAN copies as ``gfpgan/archs/restoreformer_arch.py``, described in "RestoreFormer:
High-Quality Blind Face Restoration from Undegraded Key-Value Pairs" (Wang et al., CVPR 2022).
License: Apache-2.0. Reimplemented here; the state-dict names are the official ones.

Differences from upstream: the nearest code is looked up, whereas upstream multiplies by a one-hot
matrix; and encoder and codebook stay float32 under ``.half()`` (``layers.py`` explains why).

GFPGAN's release file has the official names under ``params``; the authors' own checkpoints have
them under ``state_dict`` with the prefix ``vqvae.``, together with the networks of their losses,
which are dropped.
"""

from __future__ import annotations

import re
from itertools import pairwise

from torch import Tensor, nn

from resharp.models.architecture import (
    Architecture,
    Parameters,
    State,
    face_facts,
    indices,
    size,
)
from resharp.models.archs.layers import (
    Codebook,
    Double,
    Halve,
    ResBlock,
    as_taken_by,
    attend,
    conv3x3,
    norm,
    swish,
)
from resharp.models.fp32_modules import KeepFP32

SHORTCUT = "nin_shortcut"
PREFIX = "vqvae."
SMALLEST = 16
"""Side of the code map in the official network, which weights do not reveal."""
_DOWN = re.compile(r"encoder\.down\.(\d+)\.block\.0\.conv1\.weight")
_BLOCK = re.compile(r"encoder\.down\.0\.block\.(\d+)\.conv1\.weight")


class RestoreFormer(nn.Module):
    """An encoder, the nearest codes, and a decoder that attends to the encoder's features.

    Args:
        resolution: side length of input and output images.
        ch: channels at full size.
        ch_mult: multipliers of ``ch`` at each size, full size first; each size is half the last.
        num_res_blocks: residual blocks at each size; the decoder has one more.
        n_embed: number of codes.
        embed_dim: length of a code.
        z_channels: channels of the encoder's output.
        head_size: number of attention heads, which weights do not reveal.

    ``forward`` takes float ``[n, 3, resolution, resolution]`` in -1..1, RGB, and returns the same,
    which may exceed -1..1. Attention is at the smallest size, as in the official network.
    """

    def __init__(
        self,
        resolution: int = 512,
        ch: int = 64,
        ch_mult: str = "1,2,2,4,4,8",
        num_res_blocks: int = 2,
        n_embed: int = 1024,
        embed_dim: int = 256,
        z_channels: int = 256,
        head_size: int = 8,
    ) -> None:
        super().__init__()
        widths = [ch * int(number) for number in ch_mult.split(",")]
        self.side = resolution >> len(widths) - 1
        if self.side << len(widths) - 1 != resolution or self.side < 1:
            raise ValueError(f"resolution {resolution} cannot be halved {len(widths) - 1} times")
        if widths[-1] % head_size:
            raise ValueError(f"{widths[-1]} channels are not a multiple of {head_size} heads")
        self.encoder = RestoreFormerEncoder(ch, widths, num_res_blocks, z_channels, head_size)
        self.decoder = RestoreFormerDecoder(widths, num_res_blocks, z_channels, head_size)
        self.quantize = Quantizer(n_embed, embed_dim)
        self.quant_conv = _Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Restore aligned faces; only n is dynamic."""
        features, early, late = self.encoder(x)
        codes = self.quantize(self.quant_conv(features), self.side)
        codes = self.post_quant_conv(as_taken_by(codes, self.post_quant_conv))
        restored: Tensor = self.decoder(codes, early, late)
        return restored


class RestoreFormerEncoder(KeepFP32):
    """Residual blocks from full size down; float32."""

    def __init__(
        self, ch: int, widths: list[int], num_res_blocks: int, z_channels: int, heads: int
    ) -> None:
        super().__init__()
        self.conv_in = conv3x3(3, ch)
        self.down = nn.ModuleList()
        for level, (before, width) in enumerate(pairwise([ch, *widths])):
            smallest = level == len(widths) - 1
            inputs = [before] + [width] * (num_res_blocks - 1)
            step = None if smallest else ("downsample", Halve(width))
            self.down.append(RestoreFormerStage(inputs, width, heads if smallest else 0, step))
        self.mid = Middle(widths[-1], heads)
        self.norm_out = norm(widths[-1])
        self.conv_out = conv3x3(widths[-1], z_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output and the middle's features: after its first block and at its end."""
        out = self.conv_in(x.float())
        for stage in self.down:
            out = stage(out)
        early = self.mid.block_1(out)
        late = self.mid.block_2(self.mid.attn_1(early))
        return self.conv_out(swish(self.norm_out(late))), early, late


class RestoreFormerDecoder(nn.Module):
    """Residual blocks from the codes up to full size."""

    def __init__(self, widths: list[int], num_res_blocks: int, z_channels: int, heads: int) -> None:
        super().__init__()
        width = widths[-1]
        self.conv_in = conv3x3(z_channels, width)
        self.mid = Middle(width, heads)
        self.up = nn.ModuleList()
        for level in reversed(range(len(widths))):
            inputs = [width] + [widths[level]] * num_res_blocks
            width = widths[level]
            step = ("upsample", Double(width)) if level else None
            stage = RestoreFormerStage(
                inputs, width, heads if level == len(widths) - 1 else 0, step
            )
            self.up.insert(0, stage)
        self.norm_out = norm(width)
        self.conv_out = conv3x3(width, 3)

    def forward(self, codes: Tensor, early: Tensor, late: Tensor) -> Tensor:
        """Map codes, and the encoder's features to attend to, to images."""
        out = self.mid.block_1(self.conv_in(codes))
        early, late = early.to(out.dtype), late.to(out.dtype)
        out = self.mid.block_2(self.mid.attn_1(out, late))
        for stage in reversed(list(self.up)):
            out = stage(out, early)
        restored: Tensor = self.conv_out(swish(self.norm_out(out)))
        return restored


class RestoreFormerStage(nn.Module):
    """The blocks of one size and the step to the next one, registered under the given name."""

    def __init__(
        self, inputs: list[int], width: int, heads: int, step: tuple[str, nn.Module] | None
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResBlock(count, width, SHORTCUT) for count in inputs)
        self.attn = nn.ModuleList(RestoreFormerAttention(width, heads) for _ in inputs if heads)
        self.step = step[0] if step else ""
        if step:
            self.add_module(*step)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Map ``[n, inputs, h, w]`` to the next stage's input; any attention is to ``other``."""
        for index, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[index](x, other)
        out: Tensor = self.get_submodule(self.step)(x) if self.step else x
        return out


class Middle(nn.Module):
    """Two blocks and the attention between them, run by the owner."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(width, width, SHORTCUT)
        self.attn_1 = RestoreFormerAttention(width, heads)
        self.block_2 = ResBlock(width, width, SHORTCUT)


class RestoreFormerAttention(nn.Module):
    """Attention with queries from the encoder's features, keys and values from the input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = norm(channels)
        self.norm2 = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Both ``[n, c, h, w]``; without ``other``, attention is to ``x`` itself."""
        inner = self.norm1(x)
        asking = inner if other is None else self.norm2(other)
        query, key, value = (
            self._split(layer(given))
            for layer, given in ((self.q, asking), (self.k, inner), (self.v, inner))
        )
        found = attend(query, key, value).transpose(2, 3).reshape(x.shape)
        out: Tensor = self.proj_out(found)
        return x + out

    def _split(self, features: Tensor) -> Tensor:
        """Reshape ``[n, c, h, w]`` to ``[n, heads, h * w, c / heads]``."""
        length, places = features.shape[1] // self.heads, features.shape[2] * features.shape[3]
        return features.reshape(-1, self.heads, length, places).transpose(2, 3)


class Quantizer(Codebook):
    """A codebook that replaces features by the nearest codes; float32."""

    def forward(self, features: Tensor, side: int) -> Tensor:
        """Replace features ``[n, length, side, side]`` by the nearest codes."""
        tokens = features.float().flatten(2).transpose(1, 2)
        codes = self.embedding.weight
        # Squared distances without the tokens' own norm, which is the same for every code.
        far = codes.square().sum(1) - 2 * (tokens @ codes.t())
        return super().forward(far.argmin(2), side)


class _Conv2d(KeepFP32, nn.Conv2d):
    """A convolution in float32."""


def matches(state: State) -> bool:
    """Return whether there are an encoder, a codebook and a decoder with two norms in attention."""
    names = convert(state)
    wanted = ("encoder.conv_in.weight", "quantize.embedding.weight", "quant_conv.weight")
    return all(name in names for name in wanted) and "decoder.mid.attn_1.norm2.weight" in names


def convert(state: State) -> dict[str, Tensor]:
    """Return the same tensors under their official names, without those of the losses."""
    if not any(name.startswith(PREFIX) for name in state):
        return dict(state)
    return {
        name.removeprefix(PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(PREFIX)
    }


def infer(state: State) -> Parameters:
    """Infer the parameters of the RestoreFormer with these weights.

    Weights reveal neither the number of attention heads, assumed to be the official 8, nor the
    image size, assumed to be 16 at the smallest level. ``parameters`` override both.
    """
    ch = max(size(state, "encoder.conv_in.weight", 0, 64), 1)
    widths = [
        size(state, f"encoder.down.{level}.block.0.conv2.weight", 0, ch)
        for level in range(len(indices(state, _DOWN)) or 1)
    ]
    return {
        "resolution": SMALLEST << len(widths) - 1,
        "ch": ch,
        "ch_mult": ",".join(str(max(width // ch, 1)) for width in widths),
        "num_res_blocks": len(indices(state, _BLOCK)),
        "n_embed": size(state, "quantize.embedding.weight", 0, 1024),
        "embed_dim": size(state, "quantize.embedding.weight", 1, 256),
        "z_channels": size(state, "quant_conv.weight", 1, 256),
        "head_size": 8,
    }


ARCHITECTURE = Architecture(
    build=RestoreFormer,
    matches=matches,
    convert=convert,
    infer=infer,
    facts=lambda parameters: face_facts(int(parameters["resolution"])),
)
