"""Seamless pictures ("Tiling"): the host makes every convolution of the model go on at the opposite edge.

So it should for a whole picture, and for a dilated sub-image, which goes around as the picture does. A local window is a
part of the picture: what lies beyond its edge is not its other end, and a model made to believe so draws joins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ..core import Looking
from .parts import of_forge, unet_of


def wraps(p: Any) -> bool:
    """Whether the picture is to go on at its opposite edge. The host has put its option's value in place of None."""
    return bool(p.tiling)


class Convolutions:
    """Those of the UNet that the host's `apply_circular` sets, whatever it has set them to.

    Found anew for each phase: its list of layers is that of the model it loaded last, which need not be this one.
    """

    def __init__(self, sd_model: Any):
        unet, forge = unet_of(sd_model), of_forge(sd_model) is not None
        of_host = isinstance if forge else lambda layer, kind: type(layer) is kind  # Forge's cast their weights
        self.layers = [layer for layer in unet.modules() if of_host(layer, torch.nn.Conv2d)]

    @contextlib.contextmanager
    def suited_to(self, now: Looking) -> Iterator[None]:
        """Zeros beyond the edge of a window, the opposite edge for what is whole; the host's setting afterwards."""
        mode = "zeros" if now.kind == "window" else "circular"
        others = [(layer, layer.padding_mode) for layer in self.layers if layer.padding_mode != mode]
        try:
            for layer, _ in others:
                layer.padding_mode = mode
            yield
        finally:
            for layer, before in others:
                layer.padding_mode = before


def as_they_are(now: Looking) -> contextlib.AbstractContextManager[None]:
    """For a picture that has edges: the model is the host's, untouched."""
    return contextlib.nullcontext()
