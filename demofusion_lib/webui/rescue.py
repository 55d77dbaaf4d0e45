"""The UNet in float32 for a moment: what a window that it answered with NaN is asked for once more in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from modules import devices


def in_float32(value: Any) -> Any:
    """Conditions and latents alike; whole numbers stay what they are."""
    if isinstance(value, dict):
        return {key: in_float32(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [in_float32(part) for part in value]
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@contextlib.contextmanager
def unet_in_float32(sd_model: Any) -> Iterator[None]:
    """Every weight comes back as it was: a float32 holds all that a shorter number does.

    The host's own idea of the UNet's precision is changed with it, since it casts what it gives the UNet.
    """
    unet = sd_model.model.diffusion_model
    before = [(tensor, tensor.dtype) for tensor in (*unet.parameters(), *unet.buffers())]
    before = [(tensor, dtype) for tensor, dtype in before if dtype.is_floating_point and dtype != torch.float32]
    of_host = devices.dtype_unet, devices.unet_needs_upcast, getattr(unet, "dtype", None)
    try:
        for tensor, _ in before:
            tensor.data = tensor.data.float()
        devices.dtype_unet, devices.unet_needs_upcast = torch.float32, False
        if of_host[2] is not None:
            unet.dtype = torch.float32
        with devices.without_autocast():
            yield
    finally:
        devices.dtype_unet, devices.unet_needs_upcast = of_host[:2]
        if of_host[2] is not None:
            unet.dtype = of_host[2]
        for tensor, dtype in before:
            tensor.data = tensor.data.to(dtype)
