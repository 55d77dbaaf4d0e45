"""How much room a device has, for a run's window batch."""

from __future__ import annotations

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
