"""A VAE that is a network, in the place of the doubles' flat squares, and what each phase begins with."""

from __future__ import annotations

import importlib

import pytest
import torch
from diffusers import AutoencoderKL as Diffusers

FACTOR = 0.4
"""Of the VAE's scale."""


class AutoencoderKL(Diffusers):
    """With the host's own `decode`, which answers the picture itself."""

    def decode(self, z):
        return super().decode(z, return_dict=False)[0]


def network(kind):
    """Of the class `kind`; the webui finds its convolutions in `layers`."""
    torch.manual_seed(3)
    made = kind(
        block_out_channels=(8, 8, 16, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    ).eval()  # fmt: skip
    made.layers = [module for module in made.modules() if type(module) is torch.nn.Conv2d]
    return made


@pytest.fixture
def vae(host):
    made = network(AutoencoderKL)
    host.model.first_stage_model, host.model.scale_factor = made, FACTOR
    host.model.decode_first_stage = lambda latent: made.decode(latent / FACTOR)
    return made


@pytest.fixture
def begun(host, monkeypatch):
    """What each phase begins with and what it had before."""
    seen = []
    sampling = importlib.import_module("demofusion_lib.webui.sampling")
    draw = sampling.PhaseSampler.__call__

    def phase(self, wanted, previous, before):
        seen.append((previous.clone(), before.clone()))
        return draw(self, wanted, previous, before)

    monkeypatch.setattr(sampling.PhaseSampler, "__call__", phase)
    return seen
