"""What stands in for a trained model: the scenes of a prompt, as distributions and as the exact answer at every size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from bench.analytic import CropPrior
from bench.scenes import NATIVE, Scene, paint, render

WHOLE_SHARE = 0.5


class SceneModel:
    """The scenes, and the two distributions that a model trained on pictures of them would know.

    native: whole scenes at native size, each as likely: what phase 1 draws from.
    windows: what any native-size view of a large picture may be: a whole scene (that is what a dilated sub-image
        shows) with probability `WHOLE_SHARE`, else any crop of any scene at any scale from 2 to `max_scale`. It isn't
        told which: a window by itself would as soon draw another small whole scene.

    Pictures are brought to zero mean and unit deviation, as a latent would be.
    """

    def __init__(self, scenes: Sequence[Scene], max_scale: int, threads: int = 1):
        self.scenes = scenes
        paintings = torch.stack([paint(scene) for scene in scenes])
        renders = {scale: render(paintings, scale) for scale in range(1, max_scale + 1)}
        self._mean, self._std = float(renders[1].mean()), float(renders[1].std())
        self._latents = {scale: rgb.sub(self._mean).div(self._std) for scale, rgb in renders.items()}
        crops = [self._latents[scale] for scale in range(2, max_scale + 1)]
        sets = [(self._latents[1], WHOLE_SHARE)] + [(c, (1 - WHOLE_SHARE) / len(crops)) for c in crops]
        self.native = CropPrior([(self._latents[1], 1.0)], NATIVE)
        self.windows = CropPrior(sets, NATIVE, threads)

    def exact(self, scene: Scene, scale: int) -> torch.Tensor:
        """The scene at `scale`, `(1, 3, size, size)`, in the model's units."""
        return self._latents[scale][self.scenes.index(scene)].unsqueeze(0)

    def nearest(self, base: torch.Tensor) -> Scene:
        """The scene that a native-size picture `(1, 3, NATIVE, NATIVE)` shows."""
        distances = (self._latents[1].sub(base)).square().sum((1, 2, 3))
        return self.scenes[int(distances.argmin())]

    def rgb(self, latent: torch.Tensor) -> torch.Tensor:
        """In colours, 0 to 1."""
        return latent.mul(self._std).add(self._mean).clamp(0, 1)

    def psnr(self, latent: torch.Tensor, exact: torch.Tensor) -> float:
        """Peak signal to noise ratio of the colours in dB, at most 99."""
        error = float((self.rgb(latent) - self.rgb(exact)).square().mean())
        return min(99.0, -10 * math.log10(error)) if error > 0 else 99.0
