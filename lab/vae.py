"""The autoencoder in the original SD1 layout: 8 px to a latent cell, 4 channels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

LATENT_CHANNELS = 4


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResBlock(nn.Module):
    def __init__(self, given: int, made: int):
        super().__init__()
        self.norm1, self.conv1 = norm(given), nn.Conv2d(given, made, 3, padding=1)
        self.norm2, self.conv2 = norm(made), nn.Conv2d(made, made, 3, padding=1)
        if given != made:
            self.nin_shortcut = nn.Conv2d(given, made, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = norm(width)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.norm(x)
        q, k, v = (part(own).flatten(2).transpose(1, 2)[:, None] for part in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(seen.unflatten(2, x.shape[-2:]))


class Resample(nn.Module):
    """Halves with zeros at the bottom and right, or doubles, as SD1 does."""

    def __init__(self, width: int, up: bool):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, padding=1) if up else nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest") if self.up else F.pad(x, (0, 1, 0, 1)))


def middle(width: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"block_1": ResBlock(width, width), "attn_1": Attention(width), "block_2": ResBlock(width, width)}
    )


def level(given: int, made: int, blocks: int) -> nn.ModuleDict:
    return nn.ModuleDict({"block": nn.ModuleList(ResBlock(given if i == 0 else made, made) for i in range(blocks))})


class Encoder(nn.Module):
    def __init__(self, width: int, multiples: Sequence[int]):
        super().__init__()
        widths = [width, *(width * m for m in multiples)]
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(level(given, made, 1) for given, made in pairwise(widths))
        for i in range(len(multiples) - 1):
            self.down[i]["downsample"] = Resample(widths[i + 1], up=False)
        self.mid = middle(widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * LATENT_CHANNELS, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(x)
        for part in self.down:
            x = part["block"][0](x)
            x = part["downsample"](x) if "downsample" in part else x
        for name in ("block_1", "attn_1", "block_2"):
            x = self.mid[name](x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    def __init__(self, width: int, multiples: Sequence[int]):
        super().__init__()
        widths = [width * m for m in (*multiples, multiples[-1])]
        self.conv_in = nn.Conv2d(LATENT_CHANNELS, widths[-1], 3, padding=1)
        self.mid = middle(widths[-1])
        self.up = nn.ModuleList(level(widths[i + 1], widths[i], 2) for i in range(len(multiples)))
        for i in range(1, len(multiples)):
            self.up[i]["upsample"] = Resample(widths[i], up=True)
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = self.conv_in(z)
        for name in ("block_1", "attn_1", "block_2"):
            x = self.mid[name](x)
        for part in reversed(self.up):
            for block in part["block"]:
                x = block(x)
            x = part["upsample"](x) if "upsample" in part else x
        return self.conv_out(F.silu(self.norm_out(x)))


class VAE(nn.Module):
    """Pictures `(batch, 3, height, width)` in [-1, 1] to latents `(batch, 4, height / 8, width / 8)` and back."""

    def __init__(self, width: int = 32, multiples: Sequence[int] = (1, 1, 1, 1)):
        super().__init__()
        self.encoder, self.decoder = Encoder(width, multiples), Decoder(width, multiples)
        self.quant_conv = nn.Conv2d(2 * LATENT_CHANNELS, 2 * LATENT_CHANNELS, 1)
        self.post_quant_conv = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)

    def moments(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the latents."""
        mean, logvar = self.quant_conv(self.encoder(pictures)).chunk(2, 1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.post_quant_conv(z))
