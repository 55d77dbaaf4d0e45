"""Small VAEs of both layouts, and how far two pictures are apart."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import AutoencoderKL as DiffusersVae
from torch import nn

from demofusion_lib.standalone.configs import published
from demofusion_lib.vae import Memory

from .ldm import AutoencoderKL

ROOMY = Memory(device=1 << 40, host=1 << 40)


def psnr(one: torch.Tensor, other: torch.Tensor, peak: float = 2.0) -> float:
    """In dB; `peak` is the range of a picture."""
    error = (one.double() - other.double()).square().mean()
    return float(10 * torch.log10(peak**2 / error))


def diffusers_vae(
    family: str = "sd1", channels: tuple[int, ...] = (16, 32, 32, 32), groups: int = 8, **more: Any
) -> Any:
    """As the published config has it, with fewer channels and random weights."""
    config = {**published(family)["vae"], "block_out_channels": channels, "norm_num_groups": groups, **more}
    torch.manual_seed(0)
    vae = DiffusersVae.from_config(config).eval().requires_grad_(False)
    for module in vae.modules():  # at their first values norms do nothing that a wrong order would show
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return vae


def make_circular(vae: nn.Module) -> None:
    """As the webui's Tiling does it."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"


def ldm_vae() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL().eval().requires_grad_(False)


def undivided(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.decode(latent) if isinstance(vae, AutoencoderKL) else vae.decode(latent).sample


def undivided_moments(vae: Any, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return vae.moments(image) if isinstance(vae, AutoencoderKL) else vae.encode(image).latent_dist.parameters


@functools.cache
def toy_vae() -> Any:
    from demofusion_lib.standalone.loading import load_pipeline
    from demofusion_lib.standalone.sources import Source

    vae = load_pipeline(Source("toy"), torch.device("cpu"), torch.float32).vae
    return vae.to(
        memory_format=torch.contiguous_format
    )  # in the other order torch's own group norms lose digits on a CPU


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
