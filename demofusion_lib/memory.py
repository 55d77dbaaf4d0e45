"""How much room a device has, for a run's window batch, and what is given back of it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch

from .core import WindowBatch
from .vae.memory import free_device_bytes, free_host_bytes


def free_bytes(device: torch.device) -> int:
    """What can be allocated there: of a CPU, and of devices that tell nothing of themselves, what the system has."""
    return free_device_bytes(device, free_host_bytes())


def release(device: torch.device) -> None:
    """Gives back what torch keeps of a device without use."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def window_batch(wanted: int, device: torch.device) -> WindowBatch:
    """Of one run. wanted: the setting, 0 for the largest that fits and pays."""
    return WindowBatch(wanted, free_bytes=lambda: free_bytes(device), free=lambda: release(device))


TILES_KEPT = 64
"""After so many tiles of a VAE the freed memory goes back, which then costs a small part of their work."""


def give_back() -> bool:
    """Has glibc return what it keeps to the system, wherever it lies. False where there is no glibc.

    Blocks of ever other sizes, such as a decoder's tiles, leave gaps that fit none that follows: kept for good, they came
    to 7 GB at 16384 px.
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and trim(0) == 1


def giving_back(on_tile: Callable[[int, int], None] | None) -> Callable[[int, int], None]:
    """For `vae.decode`: what is told of each tile, with the gaps given back now and then."""

    def after(done: int, total: int) -> None:
        if done % TILES_KEPT == 0:
            give_back()
        if on_tile is not None:
            on_tile(done, total)

    return after
