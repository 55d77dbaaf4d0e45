"""The part of the webui's patches that "Tiling" is made of: convolutions that go on at the opposite edge."""

from __future__ import annotations

import torch


class StableDiffusionModelHijack:
    layers = None
    circular_enabled = False

    def hijack(self, m):
        self.layers = [*m.model.diffusion_model.modules(), *m.first_stage_model.layers]

    def undo_hijack(self, m):
        self.apply_circular(False)
        self.layers = None

    def apply_circular(self, enable):
        if self.circular_enabled == enable:
            return
        self.circular_enabled = enable
        for layer in [layer for layer in self.layers if type(layer) == torch.nn.Conv2d]:  # noqa: E721
            layer.padding_mode = "circular" if enable else "zeros"


model_hijack = StableDiffusionModelHijack()
