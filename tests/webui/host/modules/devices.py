"""Devices and precisions: float32 on the CPU."""

import contextlib

import torch

from modules import shared

cpu: torch.device = torch.device("cpu")
device: torch.device = cpu
dtype: torch.dtype = torch.float32
dtype_vae: torch.dtype = torch.float32
dtype_unet: torch.dtype = torch.float32
unet_needs_upcast = False


class NansException(Exception):
    pass


def torch_gc():
    pass


def autocast(disable=False):
    return contextlib.nullcontext()


def without_autocast(disable=False):
    return contextlib.nullcontext()


def test_for_nans(x, where):
    """The webui looks at the first number only."""
    if not shared.cmd_opts.disable_nan_check and torch.isnan(x.flatten()[0]):
        raise NansException(f"A tensor with NaNs was produced in {where}.")
