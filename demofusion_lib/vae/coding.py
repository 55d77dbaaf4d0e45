"""Latent to picture and back, at any size."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.amp.autocast_mode import autocast

from .errors import NotFinite
from .exact import Exact, Progress, step_tiles
from .memory import Memory
from .planes import Answer, Given, opened
from .planning import Plan
from .program import Program
from .reading import is_offloaded, read_decoder, read_encoder

MODES = ("auto", "exact", "estimated")
TILE_LAT = 64
MIN_TILE_LAT = 8


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
    _check(latent, mode, tile_lat)
    whole_at_device(vae)
    return _run(read_decoder(vae), latent, Options(mode, tile_lat, memory, on_tile, told, dtype, out_device), fallback)


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
    _check(image, mode, tile_lat)
    whole_at_device(vae)
    return _run(read_encoder(vae), image, Options(mode, tile_lat, memory, on_tile, told, dtype, out_device), fallback)


def peak_bytes(
    vae: Any, h_lat: int, w_lat: int, *, mode: str = "exact", tile_lat: int = TILE_LAT, dtype: torch.dtype | None = None
) -> Plan:
    """The plan of a decode of `(h_lat, w_lat)` cells on the device: its `device_bytes` and `store_bytes`."""
    raise NotImplementedError


@dataclass(frozen=True)
class Options:
    """What a decode was asked for."""

    mode: str
    tile_lat: int
    memory: Memory | None
    on_tile: Callable[[int, int], None] | None
    told: Callable[[Plan], None] | None
    dtype: torch.dtype | None
    out_device: torch.device | str


def _run(program: Program, given: torch.Tensor, options: Options, fallback: torch.dtype | None) -> torch.Tensor:
    try:
        return _run_once(program, given, options)
    except NotFinite:
        if fallback is None or fallback == program.dtype(options.dtype):
            raise
    return _run_once(program, given, replace(options, dtype=fallback))


def _run_once(program: Program, given: torch.Tensor, options: Options) -> torch.Tensor:
    shapes = program.shapes(*given.shape[2:])
    dtype = program.dtype(options.dtype)
    end = shapes[-1]
    answer = torch.empty(given.shape[0], end.channels, end.height, end.width, dtype=dtype, device=options.out_device)
    values = program.tile_values(options.tile_lat)
    steps = program.steps
    tiles = sum(step_tiles(*each, values) for each in zip(steps, shapes, shapes[1:]))
    progress = Progress(tiles * given.shape[0], options.on_tile)
    with torch.no_grad(), without_autocast(program.device):
        for picture, target in zip(given, answer):
            with opened("device", program.device) as store:
                run = Exact(store, progress, values, options.dtype)
                run.planes["x"] = Given(picture, dtype, program.device)
                run.run(steps, None, Answer(target))
    return answer


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Precision is the layers' own here."""
    return autocast(device.type, enabled=False) if device.type in ("cuda", "cpu", "xpu") else nullcontext()


def _check(given: torch.Tensor, mode: str, tile_lat: int) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r:.80}, allowed: {', '.join(MODES)}")
    if not isinstance(tile_lat, int) or tile_lat < MIN_TILE_LAT:
        raise ValueError(f"tile_lat is {tile_lat!r:.80}, allowed: {MIN_TILE_LAT} or more")
    if given.ndim != 4 or 0 in given.shape:
        raise ValueError(f"what the VAE is given is {tuple(given.shape)}, allowed: (batch, channels, height, width)")


def whole_at_device(vae: Any) -> None:
    """Calls accelerate's hook on the whole module, as diffusers' own `decode` does."""
    if is_offloaded(vae):
        vae._hf_hook.pre_forward(vae)
