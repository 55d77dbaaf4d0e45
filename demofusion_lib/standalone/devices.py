"""What a device can compute in."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .errors import UserError, first_line
from .models import DTYPES


def check_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raises UserError if the device lacks what a model needs in `dtype`: told before gigabytes are loaded."""
    fault = _fault(device, dtype)
    if fault is not None:
        allowed = ", ".join(name for name, other in DTYPES.items() if _fault(device, other) is None)
        name = str(dtype).removeprefix("torch.")
        raise UserError(
            f"dtype is {name!r}, which torch {torch.__version__} can't compute in on {device} ({fault}), "
            f"allowed there: {allowed or 'none'}"
        )


def _fault(device: torch.device, dtype: torch.dtype) -> str | None:
    try:
        _one_of_each(device, dtype)
    except (RuntimeError, TypeError) as error:  # a kernel that is lacking, a dtype that Apple's GPUs don't have
        return first_line(error)
    return None


@torch.no_grad()
def _one_of_each(device: torch.device, dtype: torch.dtype) -> None:
    """The operations of a UNet, a VAE and a text encoder, on as little as they take."""
    x = torch.randn(1, 32, 8, 8).to(device, dtype)
    x = F.silu(F.group_norm(F.conv2d(x, x.new_ones(32, 32, 3, 3), padding=1), 8, x.new_ones(32), x.new_zeros(32)))
    x = F.interpolate(F.conv2d(x, x.new_ones(32, 32, 3, 3), stride=2), scale_factor=2.0, mode="nearest")
    tokens = x.flatten(2).transpose(1, 2)
    tokens = F.gelu(F.layer_norm(F.linear(tokens, x.new_ones(32, 32)), (32,)))
    heads = tokens.unflatten(2, (2, 16)).transpose(1, 2)
    F.scaled_dot_product_attention(heads, heads, heads)
    F.scaled_dot_product_attention(heads, heads, heads, attn_mask=torch.ones(1, 1, 1, heads.shape[2]).bool().to(device))
    F.embedding(torch.zeros(1, 2, dtype=torch.long, device=device), tokens[0]).softmax(
        -1
    ).sigmoid().float().sum().item()
