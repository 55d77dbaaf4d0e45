"""The second toy: its fine texture is what the prompt's word and guidance make of it, cell by cell.

It judges ways to guide, and is no part of the product: the package that is installed doesn't carry it. Its network is not
trained but reckoned (`exact`), so that what a way to guide misses is the way's own fault, and there is no checkpoint.
"""

from __future__ import annotations

from demofusion_lib.standalone.models import Model
from lab.unet_training import alphas_cumprod

from .exact import ExactUNet
from .words import Shares, Words


def load_toy2(strength: float, shared: bool = False) -> Model:
    """The second toy, see `ExactUNet`. It has no autoencoder: its latents are what is judged."""
    unet = ExactUNet(strength, shared).eval()
    return Model("toy2", unet, None, ((Words(), Shares()),), alphas_cumprod(), "epsilon", False)
