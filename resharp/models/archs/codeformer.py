"""CodeFormer, face restoration by looking up codes that a transformer predicts.

Source: ``basicsr/archs/codeformer_arch.py`` and ``vqgan_arch.py`` of sczhou/CodeFormer, described
in "Towards Robust Blind Face Restoration with Codebook Lookup Transformer" (Zhou et al., NeurIPS
2022). License: S-Lab License 1.0, which allows non-commercial use only and covers the weights.
Reimplemented here; the state-dict names are the official ones.

Differences from upstream and their reasons:

- The fidelity is an input, without upstream's branch for 0: the controlled features are multiplied
  by 0 instead.
- The code with the largest logit is looked up; upstream takes the maximum of their softmax,
  converts it to a one-hot matrix and multiplies.
- Encoder, transformer and codebook stay float32 under ``.half()`` (``layers.py`` explains why). The
  generator and the blocks that the fidelity controls become half.
"""

from __future__ import annotations

import re
from itertools import pairwise
from math import isqrt
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    conv_pair,
    norm,
)
from resharp.models.fp32_modules import KeepFP32

FIDELITY = 0.5
"""Default fidelity, as upstream."""
SHORTCUT = "conv_out"
_HALVE = re.compile(r"encoder\.blocks\.(\d+)\.conv\.weight")
_BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.conv1\.weight")
_LAST = re.compile(r"encoder\.blocks\.(\d+)\.weight")
_LAYER = re.compile(r"ft_layers\.(\d+)\.linear1\.weight")
_FUSE = re.compile(r"fuse_convs_dict\.(\d+)\.scale\.0\.weight")


class CodeFormer(KeepFP32):
    """An encoder, a transformer that predicts codes, a generator, and blocks that control it.

    Args:
        img_size: side length of input and output images.
        nf: channels at full size.
        ch_mult: multipliers of ``nf`` at each size, full size first; each size is half the last.
        res_blocks: residual blocks at each size.
        emb_dim: length of a code.
        codebook_size: number of codes.
        dim_embd: length of a token in the transformer.
        n_head: attention heads of the transformer, which weights do not reveal.
        n_layers: layers of the transformer.
        connect: sizes at which encoder features reach the generator, weighted by the fidelity.

    ``forward`` takes float ``[n, 3, img_size, img_size]`` in -1..1, RGB, and the fidelity, a tensor
    of one number or one per image in 0..1: 0 gives the best-looking result, 1 the closest to the
    input. It returns the same shape, which may exceed -1..1.
    """

    keeps_float32: ClassVar[tuple[str, ...]] = ("position_emb",)

    def __init__(
        self,
        img_size: int = 512,
        nf: int = 64,
        ch_mult: str = "1,2,2,4,4,8",
        res_blocks: int = 2,
        emb_dim: int = 256,
        codebook_size: int = 1024,
        dim_embd: int = 512,
        n_head: int = 8,
        n_layers: int = 9,
        connect: str = "32,64,128,256",
    ) -> None:
        super().__init__()
        widths = [nf * number for number in numbers(ch_mult)]
        sides = [img_size >> level for level in range(len(widths))]
        joined = numbers(connect) if connect else []
        if sides[-1] << len(sides) - 1 != img_size or not set(joined) <= set(sides[:-1]):
            raise ValueError(f"images of {img_size} have the sizes {sides}, got {joined}")
        if dim_embd % n_head:
            raise ValueError(f"dim_embd must be a multiple of {n_head} heads, got {dim_embd}")
        self.side = sides[-1]
        self.position_emb = nn.Parameter(torch.zeros(self.side**2, dim_embd))
        self.encoder = CodeFormerEncoder(nf, widths, res_blocks, emb_dim)
        self.quantize = Codebook(codebook_size, emb_dim)
        self.generator = CodeFormerGenerator(widths, res_blocks, emb_dim)
        self.feat_emb = _Linear(emb_dim, dim_embd)
        self.ft_layers = nn.Sequential(*(Layer(dim_embd, n_head) for _ in range(n_layers)))
        self.idx_pred_layer = Head(dim_embd, codebook_size)
        self.fuse_convs_dict = nn.ModuleDict(
            {str(side): Fuse(widths[sides.index(side)]) for side in joined}
        )
        self.levels = {sides.index(side): str(side) for side in joined}

    def forward(self, x: Tensor, fidelity: Tensor | None = None) -> Tensor:
        """Restore aligned faces; only n is dynamic."""
        features, levels = self.encoder(x)
        codes = self.quantize(self.logits(features).argmax(2), self.side)
        steer = x.new_full((1,), FIDELITY) if fidelity is None else fidelity
        fuse = {
            level: (self.fuse_convs_dict[name], levels[level])
            for level, name in self.levels.items()
        }
        restored: Tensor = self.generator(adain(codes, features), fuse, steer.reshape(-1, 1, 1, 1))
        return restored

    def logits(self, features: Tensor) -> Tensor:
        """Map encoder features ``[n, c, s, s]`` to scores of the codes ``[n, s * s, codes]``."""
        tokens: Tensor = self.feat_emb(features.flatten(2).transpose(1, 2))
        for layer in self.ft_layers:
            tokens = layer(tokens, self.position_emb)
        scores: Tensor = self.idx_pred_layer(tokens)
        return scores


class CodeFormerEncoder(KeepFP32):
    """Residual blocks from full size down; float32."""

    def __init__(self, nf: int, widths: list[int], res_blocks: int, emb_dim: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = [conv3x3(3, nf)]
        self.ends: list[int] = []
        """Index of the last residual block at each size."""
        for level, (before, width) in enumerate(pairwise([nf, *widths])):
            smallest = level == len(widths) - 1
            for index in range(res_blocks):
                blocks.append(ResBlock(width if index else before, width, SHORTCUT))
                if smallest:
                    blocks.append(CodeFormerAttention(width))
            self.ends.append(len(blocks) - 1 - smallest)
            if not smallest:
                blocks.append(Halve(width))
        blocks += _middle(width)
        blocks += [norm(width), conv3x3(width, emb_dim)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the features of the smallest size and those at the end of every size."""
        levels, out = [], x.float()
        for index, block in enumerate(self.blocks):
            out = block(out)
            if index in self.ends:
                levels.append(out)
        return out, levels


class CodeFormerGenerator(nn.Module):
    """Residual blocks from the codes up to full size."""

    def __init__(self, widths: list[int], res_blocks: int, emb_dim: int) -> None:
        super().__init__()
        width = widths[-1]
        blocks: list[nn.Module] = [conv3x3(emb_dim, width), *_middle(width)]
        self.starts: dict[int, int] = {}
        """Level by the index of its first residual block."""
        for level in reversed(range(len(widths))):
            self.starts[len(blocks)] = level
            for _ in range(res_blocks):
                blocks.append(ResBlock(width, widths[level], SHORTCUT))
                width = widths[level]
                if level == len(widths) - 1:
                    blocks.append(CodeFormerAttention(width))
            if level:
                blocks.append(Double(width))
        blocks += [norm(width), conv3x3(width, 3)]
        self.blocks = nn.ModuleList(blocks)

    def forward(
        self, codes: Tensor, fuse: dict[int, tuple[nn.Module, Tensor]], fidelity: Tensor
    ) -> Tensor:
        """Map codes ``[n, c, s, s]`` to images; ``fuse`` holds a block and features per level."""
        out = as_taken_by(codes, self.blocks[0])
        for index, block in enumerate(self.blocks):
            out = block(out)
            level = self.starts.get(index, -1)
            if level in fuse:
                steer, features = fuse[level]
                out = steer(features.to(out.dtype), out, fidelity.to(out.dtype))
        return out


class CodeFormerAttention(nn.Module):
    """Attention between all positions with 1x1 convolutions, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply attention to ``[n, c, h, w]``."""
        inner = self.norm(x)
        query, key, value = (
            layer(inner).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        found = attend(query, key, value).transpose(1, 2).reshape(x.shape)
        out: Tensor = self.proj_out(found)
        return x + out


class Fuse(nn.Module):
    """Scales and shifts the generator's features according to the encoder's features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels, SHORTCUT)
        self.scale = conv_pair(channels)
        self.shift = conv_pair(channels)

    def forward(self, seen: Tensor, out: Tensor, fidelity: Tensor) -> Tensor:
        """Adjust ``out`` in proportion to ``fidelity``; it and ``seen`` are ``[n, c, h, w]``."""
        both: Tensor = self.encode_enc(torch.cat((seen, out), 1))
        moved: Tensor = out * self.scale(both) + self.shift(both)
        return out + fidelity * moved


class Layer(KeepFP32):
    """A pre-norm transformer layer; the positions are added to queries and keys."""

    def __init__(self, length: int, heads: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(length, heads)
        self.linear1 = nn.Linear(length, 2 * length)
        self.linear2 = nn.Linear(2 * length, length)
        self.norm1 = nn.LayerNorm(length)
        self.norm2 = nn.LayerNorm(length)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Apply the layer to ``[n, tokens, length]``."""
        normed = self.norm1(tokens)
        tokens = tokens + self.self_attn(normed + positions, normed)
        inner = F.gelu(self.linear1(self.norm2(tokens)))
        out: Tensor = tokens + self.linear2(inner)
        return out


class SelfAttention(KeepFP32):
    """Self-attention with the state-dict names of ``nn.MultiheadAttention``."""

    def __init__(self, length: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * length, length))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * length))
        self.out_proj = nn.Linear(length, length)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, placed: Tensor, plain: Tensor) -> Tensor:
        """Compute queries and keys from tokens with positions, and values from those without."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        query, key, value = (
            self._split(F.linear(given, weight, bias))
            for given, weight, bias in zip((placed, placed, plain), weights, biases, strict=True)
        )
        out: Tensor = self.out_proj(attend(query, key, value).transpose(1, 2).flatten(2))
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        """Reshape ``[n, tokens, length]`` to ``[n, heads, tokens, length / heads]``."""
        length = self.out_proj.in_features // self.heads
        return tokens.reshape(-1, tokens.shape[1], self.heads, length).transpose(1, 2)


class Head(KeepFP32, nn.Sequential):
    """A norm and a linear layer that scores the codes."""

    def __init__(self, length: int, codes: int) -> None:
        super().__init__(nn.LayerNorm(length), nn.Linear(length, codes, bias=False))


class _Linear(KeepFP32, nn.Linear):
    """A linear layer in float32."""


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Return ``content`` with the mean and deviation of ``style`` in each channel; float32."""
    mean, deviation = _moments(content)
    wanted_mean, wanted_deviation = _moments(style.float())
    return (content - mean) / deviation * wanted_deviation + wanted_mean


def numbers(text: str) -> list[int]:
    """Parse ``"1,2,4"`` as ``[1, 2, 4]``."""
    return [int(number) for number in text.split(",")]


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    count = features.shape[2] * features.shape[3]
    mean = features.mean((2, 3), keepdim=True)
    variance = (features - mean).square().sum((2, 3), keepdim=True) / (count - 1)
    return mean, (variance + 1e-5).sqrt()


def _middle(width: int) -> list[nn.Module]:
    return [
        ResBlock(width, width, SHORTCUT),
        CodeFormerAttention(width),
        ResBlock(width, width, SHORTCUT),
    ]


def matches(state: State) -> bool:
    """Return whether there are a position embedding, an encoder in one list, and a transformer."""
    wanted = ("position_emb", "encoder.blocks.0.weight", "idx_pred_layer.1.weight")
    return all(name in state for name in wanted)


def infer(state: State) -> Parameters:
    """Infer the parameters of the CodeFormer with these weights.

    Weights do not reveal the number of attention heads: the official 8 is assumed, unless
    ``read_checkpoint(path, parameters={"n_head": 4})`` overrides it.
    """
    nf = max(size(state, "encoder.blocks.0.weight", 0, 64), 1)
    halves = sorted(indices(state, _HALVE))
    tokens = size(state, "position_emb", 0, 256)
    ends = [f"encoder.blocks.{index}.conv.weight" for index in halves]
    ends.append(f"encoder.blocks.{max(indices(state, _LAST), default=0)}.weight")
    blocks = [index for index in indices(state, _BLOCK) if index < min(halves, default=0)]
    return {
        "img_size": max(isqrt(tokens), 1) << len(halves),
        "nf": nf,
        "ch_mult": ",".join(str(max(size(state, name, 1, nf) // nf, 1)) for name in ends),
        "res_blocks": len(blocks) or 2,
        "emb_dim": size(state, "quantize.embedding.weight", 1, 256),
        "codebook_size": size(state, "quantize.embedding.weight", 0, 1024),
        "dim_embd": size(state, "position_emb", 1, 512),
        "n_head": 8,
        "n_layers": len(indices(state, _LAYER)),
        "connect": ",".join(str(side) for side in sorted(indices(state, _FUSE))),
    }


ARCHITECTURE = Architecture(
    build=CodeFormer,
    matches=matches,
    infer=infer,
    facts=lambda parameters: face_facts(int(parameters["img_size"]), ("fidelity", FIDELITY)),
)
