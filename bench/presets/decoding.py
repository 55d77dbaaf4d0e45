"""What the picture takes behind its latent: the exact tiles, and diffusers' decoder in one piece."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.live_bytes import counted
from bench.presets.watching import Clock
from demofusion_lib.standalone.decoding import HOST, Way, decode
from demofusion_lib.standalone.models import Model

MOST_LAT = 128
"""The side of the largest latent that is decoded in one piece: four times the area takes 20 GB."""


@dataclass(frozen=True)
class Decoded:
    """Seconds; None in one piece where that is too large. layers: bytes of planes, which may lie elsewhere."""

    exact: float
    undivided: float | None
    exact_bytes: int
    layers_bytes: int
    undivided_bytes: int | None


@torch.no_grad()
def timed(model: Model, latent: torch.Tensor, mode: str, clock: Clock) -> float:
    begun = clock()
    decode(model, latent, Way(mode))
    return clock() - begun


@torch.no_grad()
def bytes_of(model: Model, latent: torch.Tensor, mode: str) -> tuple[int, int]:
    """The most that is live, and what lies in stored planes."""
    with counted() as live:
        decode(model, latent, Way(mode))
    return live.peak, live.store_peak


def decoded(model: Model, latent: torch.Tensor, clock: Clock, rounds: int, *, memory: bool = True) -> Decoded:
    """Both in turn, the least of the rounds. memory: counted in rounds of their own."""
    modes = ["exact"] if max(latent.shape[-2:]) > MOST_LAT else ["exact", HOST]
    seconds = {mode: [timed(model, latent, mode, clock)] for mode in modes}
    for _ in range(rounds - 1):
        for mode in modes:
            seconds[mode].append(timed(model, latent, mode, clock))
    sizes = {mode: bytes_of(model, latent, mode) if memory else (0, 0) for mode in modes}
    whole = min(seconds[HOST]) if HOST in modes else None
    return Decoded(min(seconds["exact"]), whole, *sizes["exact"], sizes[HOST][0] if HOST in modes else None)
