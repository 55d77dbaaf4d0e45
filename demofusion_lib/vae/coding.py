"""Latent to picture and back, at any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .memory import Memory
from .planning import Plan

MODES = ("auto", "exact", "estimated")
TILE_LAT = 64


def decode(
    vae: Any,
    latent: torch.Tensor,
    *,
    mode: str = "auto",
    tile_lat: int = TILE_LAT,
    memory: Memory | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    told: Callable[[Plan], None] | None = None,
    dtype: torch.dtype | None = None,
    fallback: torch.dtype | None = None,
    out_device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The picture `(batch, 3, 8h, 8w)` of a latent `(batch, 4, h, w)` in the VAE's own scale: `vae.decode`, by tiles.

    vae: diffusers' or ldm's (sgm's) AutoencoderKL. It is not changed, but for accelerate's whole-model offload hook,
        which is called as its own `decode` would.
    mode: `exact` (the undivided result but for rounding), `estimated` (group norms' statistics from a sample of the
        picture), or `auto`: exact where its layers fit on the device, in host memory or in a file, else estimated.
    tile_lat: a tile has as many values as the last layer's has on `tile_lat` latent cells squared. At least 8.
    memory: what is free; found out if None.
    on_tile: told `(done, total)` after each tile's work. What it raises ends the work, and leaves nothing behind.
    told: given the plan before the work begins; a second time if the work is begun anew (fallback, lack of memory).
    dtype: precision to compute in, without changing the module; the weights' own if None.
    fallback: precision to begin anew in, once, where values are not finite.
    out_device: where the picture lies, in the precision that it was computed in.

    Raises Unreadable for a module that can't be read, ValueError for a value outside its range, NoRoom where an exact
    decode would fit nowhere, NotFinite, OSError for a full disk.
    """
    raise NotImplementedError


def encode(
    vae: Any,
    image: torch.Tensor,
    *,
    mode: str = "auto",
    tile_lat: int = TILE_LAT,
    memory: Memory | None = None,
    on_tile: Callable[[int, int], None] | None = None,
    told: Callable[[Plan], None] | None = None,
    dtype: torch.dtype | None = None,
    fallback: torch.dtype | None = None,
    out_device: torch.device | str = "cpu",
) -> torch.Tensor:
    """The moments `(batch, 2 * 4, h, w)`, mean and log variance, of an image `(batch, 3, 8h, 8w)` in [-1, 1].

    Everything else as in `decode`.
    """
    raise NotImplementedError


def peak_bytes(
    vae: Any, h_lat: int, w_lat: int, *, mode: str = "exact", tile_lat: int = TILE_LAT, dtype: torch.dtype | None = None
) -> Plan:
    """The plan of a decode of `(h_lat, w_lat)` cells on the device: its `device_bytes` and `store_bytes`."""
    raise NotImplementedError
