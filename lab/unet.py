"""A small latent diffusion model whose state dict has the original SD1 layout: names, shapes and operations.

Written for training alone. What comes out loads in any program that reads SD1 checkpoints with a config of these widths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

LATENT_CHANNELS = 4


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-5)


def sinusoids(t: torch.Tensor, width: int) -> torch.Tensor:
    """`(batch, width)` of timesteps `(batch,)`: cosines first, as SD1 has them."""
    rates = torch.exp(-math.log(10000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t[:, None].float() * rates
    return torch.cat((angles.cos(), angles.sin()), 1)


class ResBlock(nn.Module):
    def __init__(self, given: int, made: int, time_width: int):
        super().__init__()
        self.in_layers = nn.Sequential(norm(given), nn.SiLU(), nn.Conv2d(given, made, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, made))
        self.out_layers = nn.Sequential(norm(made), nn.SiLU(), nn.Dropout(0), nn.Conv2d(made, made, 3, padding=1))
        self.skip_connection = nn.Identity() if given == made else nn.Conv2d(given, made, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        hidden = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(hidden)


class Attention(nn.Module):
    def __init__(self, width: int, context_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(Gated(width, 4 * width), nn.Dropout(0), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context_width: int, heads: int):
        super().__init__()
        self.attn1 = Attention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = Attention(width, context_width, heads)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        own = self.norm1(x)
        x = x + self.attn1(own, own)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, context_width: int, heads: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, context_width, heads)])
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        height = x.shape[-2]
        hidden = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        hidden = self.transformer_blocks[0](hidden, context)
        return x + self.proj_out(hidden.transpose(1, 2).unflatten(2, (height, -1)))


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Block(nn.ModuleList):
    """Layers in a row, each given the time and the context whether it wants them or not."""

    def forward(self, x: torch.Tensor, time: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, time, context)
        return x


class UNet(nn.Module):
    """SD1's UNet with one residual block a level. `attention` are the levels that look at the prompt, 0 the finest."""

    def __init__(
        self,
        width: int = 64,
        multiples: Sequence[int] = (1, 2, 2),
        attention: Sequence[int] = (1, 2),
        context_width: int = 64,
        heads: int = 4,
    ):
        super().__init__()
        self.width = width
        time_width = 4 * width
        self.time_embed = nn.Sequential(nn.Linear(width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))

        def layers(level: int, given: int) -> list[nn.Module]:
            made = width * multiples[level]
            look = [SpatialTransformer(made, context_width, heads)] if level in attention else []
            return [ResBlock(given, made, time_width), *look]

        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(LATENT_CHANNELS, width, 3, padding=1)])])
        kept, channels, last = [width], width, len(multiples) - 1
        for level, multiple in enumerate(multiples):
            self.input_blocks.append(Block(layers(level, channels)))
            channels = width * multiple
            kept.append(channels)
            if level < last:
                self.input_blocks.append(Block([Downsample(channels)]))
                kept.append(channels)
        self.middle_block = Block([
            ResBlock(channels, channels, time_width),
            SpatialTransformer(channels, context_width, heads),
            ResBlock(channels, channels, time_width),
        ])  # fmt: skip
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for i in range(2):
                block = layers(level, channels + kept.pop())
                channels = width * multiples[level]
                if i == 1 and level > 0:
                    block.append(Upsample(channels))
                self.output_blocks.append(Block(block))
        self.out = nn.Sequential(norm(channels), nn.SiLU(), nn.Conv2d(channels, LATENT_CHANNELS, 3, padding=1))
        nn.init.zeros_(self.out[2].weight)
        nn.init.zeros_(self.out[2].bias)

    def forward(self, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """Epsilon for latents `(batch, 4, height, width)` at timesteps `(batch,)`, told `(batch, 77, context_width)`."""
        time = self.time_embed(sinusoids(t, self.width))
        kept = []
        for block in self.input_blocks:
            x = block(x, time, context)
            kept.append(x)
        x = self.middle_block(x, time, context)
        for block in self.output_blocks:
            x = block(torch.cat((x, kept.pop()), 1), time, context)
        return self.out(x)
