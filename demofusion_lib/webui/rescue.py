"""The UNet in float32 for a moment: what a window that it answered with NaN is asked for once more in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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
def unet_in_float32(sd_model: Any, beside: Sequence[torch.nn.Module] = ()) -> Iterator[None]:
    """Every weight comes back as it was: a float32 holds all that a shorter number does.

    The host's own idea of the UNet's precision is changed with it, since it casts what it gives the UNet. beside: models that
    are called with it, and cast what they are given to a `dtype` of their own.
    """
    unet = sd_model.model.diffusion_model
    models = unet, *beside
    before = [(tensor, tensor.dtype) for model in models for tensor in (*model.parameters(), *model.buffers())]
    before = [(tensor, dtype) for tensor, dtype in before if dtype.is_floating_point and dtype != torch.float32]
    of_host = devices.dtype_unet, devices.unet_needs_upcast
    told = [(part, vars(part).get("dtype")) for model in models for part in model.modules()]
    told = [(part, dtype) for part, dtype in told if isinstance(dtype, torch.dtype)]
    try:
        for tensor, _ in before:
            tensor.data = tensor.data.float()
        devices.dtype_unet, devices.unet_needs_upcast = torch.float32, False
        for part, _ in told:
            part.dtype = torch.float32
        with devices.without_autocast():
            yield
    finally:
        devices.dtype_unet, devices.unet_needs_upcast = of_host
        for part, dtype in told:
            part.dtype = dtype
        for tensor, dtype in before:
            tensor.data = tensor.data.to(dtype)
