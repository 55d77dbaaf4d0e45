"""The host's HyperTile, which divides the UNet's attention into tiles.

It is set once for the picture's width and height and guesses from them how many of an attention's tokens make a row.
Windows that have another shape, where the target crops the base image or a dilated sub-image is a cell larger, would
be cut across their rows. (Token merging needs nothing of the kind: it looks at each input of the UNet.)
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from modules import shared

from ..targets import LATENT_PX


class HyperTile:
    """Keeps the host's HyperTile set to the shape of what the UNet is given, while a phase lasts."""

    def __init__(self, p: Any):
        self.module = sys.modules.get("hypertile")  # by this name the host's built-in extension loads it
        self.on = self.module is not None and bool(getattr(shared.opts, "hypertile_enable_unet", False))
        self.base_lat = p.height // LATENT_PX, p.width // LATENT_PX
        self.shape_lat = self.base_lat

    def suit(self, height_lat: int, width_lat: int) -> None:
        """Before the UNet is given patches of this shape."""
        if not self.on or (height_lat, width_lat) == self.shape_lat:
            return
        self.shape_lat = height_lat, width_lat
        opts, model = shared.opts, shared.sd_model
        assert self.module is not None
        self.module.hypertile_hook_model(
            model.model, width_lat * LATENT_PX, height_lat * LATENT_PX, enable=True,
            swap_size=opts.hypertile_swap_size_unet, max_depth=opts.hypertile_max_depth_unet,
            tile_size_max=opts.hypertile_max_tile_unet, is_sdxl=model.is_sdxl,
        )  # fmt: skip

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.suit(*self.base_lat)
