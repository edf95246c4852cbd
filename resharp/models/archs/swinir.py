"""SwinIR, image restoration with shifted-window transformers.

Sources: "SwinIR: Image Restoration Using Swin Transformer" (Liang et al., ICCVW 2021); the names
are those of ``models/network_swinir.py`` of JingyunLiang/SwinIR (Apache-2.0), which builds on Swin
Transformer (MIT). Reimplemented here for export: the batch size is never a Python number that a
trace could freeze, the mask of the shifted windows is computed with tensor operations once per
forward pass, and the padding to whole windows is part of the graph.

Upstream stores two kinds of tables with the weights (``relative_position_index``, ``attn_mask``);
both follow from the window size and are not part of this module's state dict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resharp.checks import shown
from resharp.models.architecture import Architecture, Parameters, State, facts_named, size
from resharp.models.archs.layers import SLOPE, conv3x3, leaky, reflected

UPSAMPLERS = ("pixelshuffle", "pixelshuffledirect", "nearest+conv", "")
RESIDUALS = ("1conv", "3conv")
RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of DIV2K, subtracted from color images; nothing is subtracted from gray images."""
FORBIDDEN = -100.0
"""Added to the scores of pixels that only a shift made neighbors; exp(-100) is negligible."""
JPEG_WINDOW = 7
"""Window size of upstream's JPEG networks, the only ones that work on 0..255."""

_BLOCK = re.compile(r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(.+)")
_TABLE = "attn.relative_position_bias_table"
_INDEX = ".attn.relative_position_index"
_MASK = ".attn_mask"
_LARGEST = 64
"""Largest plausible window size; a larger one means a damaged file."""


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """The division of images into windows of ``side * side`` tokens in one forward pass.

    Between the steps, tokens are flat, ``[n * h * w, c]``, in any order: a linear layer on two axes
    is exported with its weights as they are stored, so that graphs can share them.
    """

    side: int
    channels: int
    rows: int
    columns: int
    count: int
    """``rows * columns``."""
    index: Tensor
    """int64 ``[tokens * tokens]``: row of the bias table for each pair of tokens."""
    mask: Tensor
    """``[rows * columns, 1, tokens, tokens]``, 0 or negative, for shifted windows."""

    def picture(self, x: Tensor) -> Tensor:
        """Reshape flat tokens to ``[n, h, w, c]``."""
        return x.reshape(-1, self.rows * self.side, self.columns * self.side, self.channels)

    def cut(self, x: Tensor) -> Tensor:
        """Reorder tokens from image order to flat tokens in window order."""
        side, channels = self.side, self.channels
        grid = x.reshape(-1, self.rows, side, self.columns, side, channels)
        return grid.transpose(2, 3).reshape(-1, channels)

    def join(self, x: Tensor) -> Tensor:
        """Reorder flat tokens from window order to image order."""
        side, channels = self.side, self.channels
        grid = x.reshape(-1, self.rows, self.columns, side, side, channels)
        return grid.transpose(2, 3).reshape(-1, channels)


class WindowAttention(nn.Module):
    """Self-attention within each window, with a learned bias for each relative position."""

    def __init__(self, dim: int, side: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.heads, self.scale = side * side, heads, (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        _start(self.relative_position_bias_table)

    def forward(self, x: Tensor, windows: _Windows, shifted: bool) -> Tensor:
        """Apply attention to flat tokens in window order."""
        tokens, heads, dim = self.tokens, self.heads, windows.channels
        parts = self.qkv(x).reshape(-1, tokens, 3, heads, dim // heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (query * self.scale) @ key.transpose(2, 3)
        bias = self.relative_position_bias_table[windows.index].reshape(tokens, tokens, heads)
        scores = scores + bias.permute(2, 0, 1)
        if shifted:
            pictures = scores.reshape(-1, windows.count, heads, tokens, tokens)
            scores = (pictures + windows.mask).reshape(-1, heads, tokens, tokens)
        mixed = scores.softmax(3) @ value
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(-1, dim))
        return out


class Mlp(nn.Module):
    """Two linear layers, applied to each token."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the MLP to flat tokens."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwinBlock(nn.Module):
    """Attention in windows that start ``shift`` pixels later, then the :class:`Mlp`."""

    def __init__(self, dim: int, side: int, heads: int, hidden: int, shift: int) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, side, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor, windows: _Windows) -> Tensor:
        """Apply the block to flat tokens."""
        x = x + self._attend(self.norm1(x), windows)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _attend(self, x: Tensor, windows: _Windows) -> Tensor:
        if not self.shift:
            return windows.join(self.attn(windows.cut(x), windows, shifted=False))
        moved = torch.roll(windows.picture(x), (-self.shift, -self.shift), (1, 2))
        done = windows.picture(windows.join(self.attn(windows.cut(moved), windows, shifted=True)))
        return torch.roll(done, (self.shift, self.shift), (1, 2)).reshape(-1, windows.channels)


class BasicLayer(nn.Module):
    """A sequence of blocks, every second one shifted by half a window."""

    def __init__(self, dim: int, side: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        shifts = (side // 2 * (index % 2) for index in range(depth))
        self.blocks = nn.ModuleList(SwinBlock(dim, side, heads, hidden, s) for s in shifts)

    def forward(self, x: Tensor, windows: _Windows) -> Tensor:
        """Apply the blocks to flat tokens."""
        for block in self.blocks:
            x = block(x, windows)
        return x


class RSTB(nn.Module):
    """A residual Swin transformer block: a :class:`BasicLayer`, a convolution, plus the input."""

    def __init__(
        self, dim: int, side: int, heads: int, hidden: int, depth: int, residual: str
    ) -> None:
        super().__init__()
        self.residual_group = BasicLayer(dim, side, heads, hidden, depth)
        self.conv = _residual(dim, residual)

    def forward(self, x: Tensor, windows: _Windows) -> Tensor:
        """Apply the block to flat tokens."""
        planes = windows.picture(self.residual_group(x, windows)).permute(0, 3, 1, 2)
        out: Tensor = self.conv(planes)
        return out.permute(0, 2, 3, 1).reshape(-1, windows.channels) + x


class SwinIR(nn.Module):
    """A convolution, residual Swin transformer blocks, and one of four upsamplers.

    Args:
        in_chans: channels of the input and output images: 3 (RGB) or 1 (gray).
        embed_dim: channels of the trunk.
        depths: number of Swin blocks in each RSTB, as text: ``"6,6,6,6,6,6"``.
        num_heads: number of attention heads in each RSTB, as text.
        window_size: side length of a window in pixels; the input is padded to a multiple of it.
        mlp_dim: hidden features of each block's MLP; upstream's ``mlp_ratio * embed_dim``.
        upscale: output size over input size.
        img_range: value of white in the trunk: 255 in the JPEG networks, otherwise 1.
        upsampler: ``pixelshuffle`` (classical), ``pixelshuffledirect`` (lightweight),
            ``nearest+conv`` (real-world), or empty (denoising, JPEG: the residual is learned).
        resi_connection: ``1conv``, or ``3conv`` in SwinIR-L.
        num_feat: channels of the upsampler; 64 in every official network.

    ``forward`` takes float ``[n, in_chans, h, w]`` in 0..1, any h and w from 1, and returns
    ``[n, in_chans, h*upscale, w*upscale]``, not clamped. Sizes that are not a multiple of the
    window are padded by reflection as upstream, even if an image is smaller than its padding, and
    the output is cropped. resharp's tiles also reflect, so it does not matter which of them pads.

    Raises:
        ValueError: the parameters do not describe a valid network.
    """

    _mean: Tensor
    _index: Tensor
    _apart: Tensor

    def __init__(
        self,
        in_chans: int = 3,
        embed_dim: int = 180,
        depths: str = "6,6,6,6,6,6",
        num_heads: str = "6,6,6,6,6,6",
        window_size: int = 8,
        mlp_dim: int = 360,
        upscale: int = 4,
        img_range: int = 1,
        upsampler: str = "pixelshuffle",
        resi_connection: str = "1conv",
        num_feat: int = 64,
    ) -> None:
        super().__init__()
        blocks, heads = _numbers("depths", depths), _numbers("num_heads", num_heads)
        _check(embed_dim, blocks, heads, upscale, upsampler, resi_connection)
        if min(in_chans, window_size, mlp_dim, img_range, num_feat) < 1:
            raise ValueError("every numeric parameter of SwinIR must be at least 1")
        self.num_in_ch = self.num_out_ch = in_chans
        self.window_size, self.upscale = window_size, upscale
        self.img_range, self.upsampler = img_range, upsampler
        self.conv_first = conv3x3(in_chans, embed_dim)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(embed_dim)})
        self.layers = nn.ModuleList(
            RSTB(embed_dim, window_size, count, mlp_dim, depth, resi_connection)
            for depth, count in zip(blocks, heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = _residual(embed_dim, resi_connection)
        self._add_upsampling(embed_dim, num_feat)
        self._add_tables()

    def forward(self, x: Tensor) -> Tensor:
        """Restore float ``[n, in_chans, h, w]``."""
        height, width = x.shape[2], x.shape[3]
        # Not `-height % side`: TensorRT-RTX 1.7 cannot infer shapes through a remainder.
        rows = (height + self.window_size - 1) // self.window_size
        columns = (width + self.window_size - 1) // self.window_size
        padded = reflected(x, rows * self.window_size, columns * self.window_size)
        shallow = (padded - self._mean) * self.img_range
        features = self.conv_first(shallow)
        features = features + self.conv_after_body(self._trunk(features, rows, columns))
        out = self._upsample(features) if self.upsampler else shallow + self.conv_last(features)
        out = out / self.img_range + self._mean
        return out[:, :, : height * self.upscale, : width * self.upscale]

    def _trunk(self, features: Tensor, rows: int, columns: int) -> Tensor:
        windows = _Windows(
            side=self.window_size,
            channels=self.conv_first.out_channels,
            rows=rows,
            columns=columns,
            count=rows * columns,
            index=self._index,
            mask=self._mask(rows, columns),
        )
        x = features.permute(0, 2, 3, 1).reshape(-1, windows.channels)
        x = self.patch_embed["norm"](x)
        for layer in self.layers:
            x = layer(x, windows)
        return windows.picture(self.norm(x)).permute(0, 3, 1, 2)

    def _mask(self, rows: int, columns: int) -> Tensor:
        """Return the mask for shifted windows, where a roll joins opposite edges of the image."""
        tokens, device = self.window_size**2, self._apart.device
        last_row = (torch.arange(rows, device=device) == rows - 1).to(self._apart.dtype)
        last_column = (torch.arange(columns, device=device) == columns - 1).to(self._apart.dtype)
        upright = last_row.reshape(-1, 1, 1, 1) * self._apart[0]
        sideways = last_column.reshape(1, -1, 1, 1) * self._apart[1]
        # Twice FORBIDDEN in the last corner, which is also negligible.
        return (upright + sideways).reshape(-1, 1, tokens, tokens)

    def _upsample(self, features: Tensor) -> Tensor:
        if self.upsampler == "pixelshuffledirect":
            out: Tensor = self.upsample(features)
            return out
        features = self.conv_before_upsample(features)
        if self.upsampler == "pixelshuffle":
            features = self.upsample(features)
        else:
            for index in range(1, self.upscale.bit_length()):
                features = F.interpolate(features, scale_factor=2.0, mode="nearest")
                convolution = self.get_submodule(f"conv_up{index}")
                features = leaky(convolution(features))
            features = leaky(self.conv_hr(features))
        last: Tensor = self.conv_last(features)
        return last

    def _add_upsampling(self, dim: int, feat: int) -> None:
        channels, scale = self.num_out_ch, self.upscale
        if self.upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(conv3x3(dim, channels * scale**2), nn.PixelShuffle(scale))
            return
        if self.upsampler:
            self.conv_before_upsample = nn.Sequential(conv3x3(dim, feat), nn.LeakyReLU())
        if self.upsampler == "pixelshuffle":
            self.upsample = _shuffles(scale, feat)
        elif self.upsampler == "nearest+conv":
            for index in range(1, scale.bit_length()):
                self.add_module(f"conv_up{index}", conv3x3(feat, feat))
            self.conv_hr = conv3x3(feat, feat)
        self.conv_last = conv3x3(feat if self.upsampler else dim, channels)

    def _add_tables(self) -> None:
        """Register constants as buffers, which follow the weights to their device and dtype."""
        with torch.device("cpu"):  # the meta device would import sympy, which takes 1 s
            mean = torch.tensor(RGB_MEAN if self.num_in_ch == 3 else (0.0,)).reshape(1, -1, 1, 1)
            index, apart = position_index(self.window_size).reshape(-1), _apart(self.window_size)
        for name, table in (("_mean", mean), ("_index", index), ("_apart", apart)):
            place = self.conv_first.weight.device
            self.register_buffer(name, table.to(place), persistent=False)


def position_index(side: int) -> Tensor:
    """Return int64 ``[side**2, side**2]``: row of the bias table for two tokens of a window.

    Upstream's ``relative_position_index``: ``(dy + side - 1) * (2 * side - 1) + dx + side - 1``.
    """
    place = torch.arange(side * side)
    y, x = place // side, place % side
    dy, dx = y[:, None] - y[None], x[:, None] - x[None]
    return (dy + side - 1) * (2 * side - 1) + dx + side - 1


def _apart(side: int) -> Tensor:
    """Return ``[2, side**2, side**2]``: FORBIDDEN across the horizontal or vertical seam."""
    place, seam = torch.arange(side * side), side - side // 2
    below, beside = place // side >= seam, place % side >= seam
    parted = torch.stack((below[:, None] != below[None], beside[:, None] != beside[None]))
    return parted.float() * FORBIDDEN


def _shuffles(scale: int, feat: int) -> nn.Sequential:
    steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    layers: list[nn.Module] = []
    for step in steps:
        layers += [conv3x3(feat, step * step * feat), nn.PixelShuffle(step)]
    return nn.Sequential(*layers)


def _residual(dim: int, kind: str) -> nn.Module:
    if kind == "1conv":
        return conv3x3(dim, dim)
    return nn.Sequential(
        conv3x3(dim, dim // 4),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(SLOPE),
        conv3x3(dim // 4, dim),
    )


def _start(table: Tensor) -> None:
    if not table.is_meta:  # a meta tensor has no data to fill
        nn.init.trunc_normal_(table, std=0.02)


def _numbers(name: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise ValueError(
            f"{name} must be comma-separated integers of at least 1, got {shown(text)}"
        )
    return found


def _check(
    dim: int, blocks: list[int], heads: list[int], upscale: int, upsampler: str, residual: str
) -> None:
    if len(blocks) != len(heads):
        raise ValueError(
            f"depths and num_heads must have equal length, got {len(blocks)} and {len(heads)}"
        )
    if dim < 1 or any(dim % count for count in heads):
        raise ValueError(f"embed_dim must be a multiple of each of num_heads {heads}, got {dim}")
    if upsampler not in UPSAMPLERS:
        raise ValueError(f"upsampler must be one of {UPSAMPLERS}, got {shown(upsampler)}")
    if residual not in RESIDUALS:
        raise ValueError(f"resi_connection must be one of {RESIDUALS}, got {shown(residual)}")
    doubles = upscale > 0 and upscale & (upscale - 1) == 0
    possible = {"": upscale == 1, "pixelshuffledirect": upscale >= 1, "nearest+conv": doubles}
    if not possible.get(upsampler, doubles or upscale == 3):
        raise ValueError(f"upsampler {shown(upsampler)} does not support upscale {upscale}")


def matches(state: State) -> bool:
    """Return whether any Swin block has a table of position biases."""
    return any((found := _BLOCK.fullmatch(name)) and found[3] == _TABLE for name in state)


def convert(state: State) -> dict[str, Tensor]:
    """Return the weights without the tables that upstream stores with them.

    ``attn_mask`` depends on the size of the training crops. ``relative_position_index`` follows
    from the window size; a table with other values is kept, so that the comparison rejects it.
    """
    return {
        name: tensor
        for name, tensor in state.items()
        if not (_BLOCK.fullmatch(name) and (name.endswith(_MASK) or _is_index(name, tensor)))
    }


def infer(state: State) -> Parameters:
    """Infer the parameters of the SwinIR with these official names.

    ``img_range`` leaves no trace in the weights. As in spandrel (MIT), 255 is assumed for a window
    of 7 (upstream's JPEG networks) and 1 otherwise; to override it, use
    ``read_checkpoint(path, parameters={"img_range": 1})``.
    """
    dim = max(size(state, "conv_first.weight", 0, 180), 1)
    channels = size(state, "conv_first.weight", 1, 3)
    feat = size(state, "conv_before_upsample.0.weight", 0, 64)
    first = "layers.0.residual_group.blocks.0"
    window = (isqrt(size(state, f"{first}.{_TABLE}", 0, 225)) + 1) // 2
    upsampler, upscale = _upsampling(state, channels, feat)
    depths, heads = _layers(state, dim)
    return {
        "in_chans": channels,
        "embed_dim": dim,
        "depths": ",".join(map(str, depths)),
        "num_heads": ",".join(map(str, heads)),
        "window_size": min(max(window, 1), _LARGEST),
        "mlp_dim": size(state, f"{first}.mlp.fc1.weight", 0, 2 * dim),
        "upscale": upscale,
        "img_range": 255 if window == JPEG_WINDOW else 1,
        "upsampler": upsampler,
        "resi_connection": "3conv" if "conv_after_body.0.weight" in state else "1conv",
        "num_feat": feat,
    }


def _is_index(name: str, tensor: Tensor) -> bool:
    side = isqrt(tensor.shape[0]) if tensor.ndim == 2 else 0
    if not name.endswith(_INDEX) or not 0 < side <= _LARGEST or tensor.shape != (side**2,) * 2:
        return False
    return tensor.is_meta or torch.equal(tensor.long(), position_index(side))


def _layers(state: State, dim: int) -> tuple[list[int], list[int]]:
    """Return the numbers of blocks and attention heads of each RSTB."""
    blocks: dict[int, set[int]] = {}
    for name in state:
        if found := _BLOCK.fullmatch(name):
            blocks.setdefault(int(found[1]), set()).add(int(found[2]))
    if not blocks:
        return [6] * 6, [6 if dim % 6 == 0 else 1] * 6
    tables = (f"layers.{layer}.residual_group.blocks.0.{_TABLE}" for layer in sorted(blocks))
    heads = [size(state, table, 1, 1) for table in tables]
    depths = [len(blocks[layer]) for layer in sorted(blocks)]
    return depths, [count if count and dim % count == 0 else 1 for count in heads]


def _upsampling(state: State, channels: int, feat: int) -> tuple[str, int]:
    """Return the upsampler and the scale that follows from its convolutions."""
    if "conv_up1.weight" in state:
        return "nearest+conv", 2 ** sum(f"conv_up{index}.weight" in state for index in range(1, 9))
    if "conv_before_upsample.0.weight" in state:
        if size(state, "upsample.0.weight", 0, 0) == 9 * feat:
            return "pixelshuffle", 3
        steps = sum(f"upsample.{2 * index}.weight" in state for index in range(8))
        return "pixelshuffle", 2**steps
    if "upsample.0.weight" in state:
        outputs = size(state, "upsample.0.weight", 0, 0) // max(channels, 1)
        return "pixelshuffledirect", max(isqrt(outputs), 1)
    return "", 1


ARCHITECTURE = Architecture(
    build=SwinIR,
    matches=matches,
    convert=convert,
    infer=infer,
    facts=facts_named(scale="upscale", channels=("in_chans", "in_chans"), multiple="window_size"),
)
