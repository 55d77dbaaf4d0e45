"""ldm's layout, of which no package can be installed: its names, and its sums in our own words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ResnetBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, inputs, 1e-6), nn.GroupNorm(groups, outputs, 1e-6)
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, 1, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.dropout = nn.Dropout(0.0)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.norm(x)
        q, k, v = (layer(normed).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1)
        return x + self.proj_out((weights @ v).transpose(1, 2).reshape(x.shape))


class Upsample(nn.Module):
    with_conv = True

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Downsample(nn.Module):
    with_conv = True

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 2, 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Coder(nn.Module):
    def __init__(self, channels: int, inputs: int, outputs: int, groups: int):
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, channels, 3, 1, 1)
        self.mid = nn.Module()
        self.norm_out = nn.GroupNorm(groups, channels, 1e-6)
        self.conv_out = nn.Conv2d(channels, outputs, 3, 1, 1)

    def set_middle(self, channels: int, groups: int) -> None:
        self.mid.block_1, self.mid.block_2 = (ResnetBlock(channels, channels, groups) for _ in range(2))
        self.mid.attn_1 = AttnBlock(channels, groups)

    def middle(self, h: torch.Tensor) -> torch.Tensor:
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))

    def end(self, h: torch.Tensor) -> torch.Tensor:
        return self.conv_out(F.silu(self.norm_out(h)))


def level(blocks: list[nn.Module], attention: list[nn.Module], name: str, sampler: nn.Module | None) -> nn.Module:
    made = nn.Module()
    made.block, made.attn = nn.ModuleList(blocks), nn.ModuleList(attention)
    if sampler is not None:
        setattr(made, name, sampler)
    return made


class Decoder(Coder):
    give_pre_end = tanh_out = False

    def __init__(self, channels: tuple[int, ...], groups: int):
        super().__init__(channels[0], 4, 3, groups)
        self.conv_in = nn.Conv2d(4, channels[-1], 3, 1, 1)
        self.set_middle(channels[-1], groups)
        levels, inputs = [], channels[-1]
        for number in reversed(range(len(channels))):
            blocks = [
                ResnetBlock(inputs, channels[number], groups),
                ResnetBlock(channels[number], channels[number], groups),
            ]
            inputs = channels[number]
            levels.insert(0, level(blocks, [], "upsample", Upsample(inputs) if number else None))
        self.up = nn.ModuleList(levels)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        h = self.middle(self.conv_in(z))
        for part in reversed(self.up):
            for block in part.block:
                h = block(h)
            h = part.upsample(h) if hasattr(part, "upsample") else h
        return self.end(h).tanh() if self.tanh_out else self.end(h)


class Encoder(Coder):
    def __init__(self, channels: tuple[int, ...], groups: int):
        super().__init__(channels[0], 3, 8, groups)
        levels, inputs = [], channels[0]
        for number, width in enumerate(channels):
            sampler = Downsample(width) if number < len(channels) - 1 else None
            attention = [AttnBlock(width, groups)] if number == len(channels) - 1 else []
            levels.append(level([ResnetBlock(inputs, width, groups)], attention, "downsample", sampler))
            inputs = width
        self.down = nn.ModuleList(levels)
        self.set_middle(channels[-1], groups)
        self.norm_out, self.conv_out = nn.GroupNorm(groups, channels[-1], 1e-6), nn.Conv2d(channels[-1], 8, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(x)
        for part in self.down:
            for number, block in enumerate(part.block):
                h = block(h)
                h = part.attn[number](h) if len(part.attn) else h
            h = part.downsample(h) if hasattr(part, "downsample") else h
        return self.end(self.middle(h))


class AutoencoderKL(nn.Module):
    """ldm's names. Attention stands in the encoder's last level too, as a config may ask for it."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 32, 32), groups: int = 8):
        super().__init__()
        self.encoder, self.decoder = Encoder(channels, groups), Decoder(channels, groups)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(z))

    def moments(self, x: torch.Tensor) -> torch.Tensor:
        return self.quant_conv(self.encoder(x))
