"""How the latent of a phase becomes the first of the next one, at its size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .phases import upsample

ENLARGEMENTS = ("latent", "pixels")
"""Bicubic on the latent, as the paper does; or on its picture, which goes through the autoencoder there and back."""

Code = Callable[[torch.Tensor], torch.Tensor]
"""From latents to pictures or back."""
Paste = Callable[[torch.Tensor, int], torch.Tensor]
"""`paste(picture, image)`: of the enlarged picture `(1, 3, height, width)` of one image of a batch, what a phase begins with."""


@dataclass(frozen=True)
class InLatent:
    """Cubics across the cells of a latent. A latent is no picture: edges come out stepped where many steps don't mend them.

    wrap: edges go on at the opposite ones.
    """

    wrap: bool = False

    def __call__(self, latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
        return upsample(latent, height_lat, width_lat, wrap=self.wrap)


@dataclass(frozen=True)
class InPixels:
    """Cubics across pixels, one picture at a time.

    decode: of `(1, 4, h, w)` the picture `(1, 3, cell h, cell w)` in [-1, 1]; encode: back again, without chance.
    cell_px: pixels to a cell. wrap: edges go on at the opposite ones. paste: of pictures that are known in part.
    """

    decode: Code
    encode: Code
    cell_px: int
    wrap: bool = False
    paste: Paste | None = None

    def __call__(self, latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
        return torch.cat([self._one(one[None], i, height_lat, width_lat) for i, one in enumerate(latent)])

    def _one(self, latent: torch.Tensor, image: int, height_lat: int, width_lat: int) -> torch.Tensor:
        picture = self.decode(latent).float().clamp_(-1, 1)
        larger = upsample(picture, height_lat * self.cell_px, width_lat * self.cell_px, wrap=self.wrap)
        del picture
        larger = larger.clamp_(-1, 1)
        return self.encode(larger if self.paste is None else self.paste(larger, image)).to(latent)


@dataclass(frozen=True)
class FromPicture:
    """Of a given picture itself as long as nothing is drawn: its own pixels, and not what the autoencoder makes of them.

    base: its latent `(batch, 4, h, w)`, which the climb begins with. picture: `(1 or batch, 3, cell h, cell w)` in [-1, 1].
    drawn: of what phases have drawn, and of the base where no pixels are asked for.
    """

    base: torch.Tensor
    picture: torch.Tensor
    drawn: InLatent | InPixels

    def __call__(self, latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
        if latent is not self.base or isinstance(self.drawn, InLatent):
            return self.drawn(latent, height_lat, width_lat)
        cell_px = self.drawn.cell_px
        wrap, size_px = self.drawn.wrap, (height_lat * cell_px, width_lat * cell_px)
        each = [self.drawn.encode(upsample(one[None], *size_px, wrap=wrap).clamp_(-1, 1)) for one in self.picture]
        return torch.cat(each).to(latent).expand(len(latent), -1, -1, -1)
