"""The second toy's network: the exact answer for pictures of a known distribution, at every noise level.

A latent's first two channels are a smooth scene, a Gaussian field without a scale of its own. The other two are fine
texture: every cell is woven, the third channel at plus or minus `strength`, or brushed, the fourth, of either sign alike.
The prompt's word says which is the likelier, and is wrong in three of ten, as captions are: without guidance three cells of
ten show the other texture, and guidance makes them fewer. A cell's kind is its own, so that only what is guided at its own
size is guided; or, if `shared`, that of all cells, so that an enlarged base image already tells a phase which it is.
"""

from __future__ import annotations

import math
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch

from demofusion_lib.standalone.samplers import Schedule
from lab.unet_training import alphas_cumprod

RIGHT = 0.7
"""Share of cells that are what the word says."""
SPREAD = 0.25
"""Standard deviation about a texture's own value, as a share of `strength`."""
NATIVE_LAT = 32
SCENE, TEXTURE = slice(0, 2), slice(2, 4)
KINDS = ("woven", "brushed")
"""In the order of their channels."""
SCALE_FREE = 3.0
"""A plane whose power falls with this power of the frequency looks alike at every scale, as natural pictures about do."""


class ExactUNet(torch.nn.Module):
    """Answers epsilon as diffusers' UNets do. Told `(rows, tokens, 1)`: the share of woven cells, at every token.

    strength: of either texture, in a latent whose scene has unit deviation. It is the noise level, too, about which it is
    decided what a cell is. shared: whether all cells that it is shown are of one kind, which is decided sooner.
    """

    def __init__(self, strength: float, shared: bool = False):
        super().__init__()
        self.strength, self.shared = strength, shared
        self.config = SimpleNamespace(sample_size=NATIVE_LAT, in_channels=4, time_cond_proj_dim=None)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.schedule = Schedule(alphas_cumprod())

    def forward(
        self, x: torch.Tensor, times: torch.Tensor, *, encoder_hidden_states: torch.Tensor, **other: Any
    ) -> tuple[torch.Tensor]:
        sigma = float(self.schedule.sigma(times[:1]))
        x = x * math.sqrt(sigma**2 + 1)
        return ((x - self.denoised(x, sigma, encoder_hidden_states[:, 0, 0])) / sigma,)

    def denoised(self, x: torch.Tensor, sigma: float, woven: torch.Tensor) -> torch.Tensor:
        """`E[x0 | x]` for `x = x0 + sigma * noise`, `(rows, 4, height, width)`; `woven (rows)`: the share of such cells."""
        texture = denoised_texture(x[:, TEXTURE], sigma, self.strength, woven, self.shared)
        return torch.cat([denoised_scene(x[:, SCENE], sigma), texture], 1)


def denoised_texture(
    x: torch.Tensor, sigma: float, strength: float, woven: torch.Tensor, shared: bool = False
) -> torch.Tensor:
    """Of a mixture of four Gaussians in the plane of two channels, cell by cell. `x (rows, 2, height, width)`.

    shared: all cells of a row are of one kind, the signs still their own.
    """
    spread = (SPREAD * strength) ** 2
    variance = spread + sigma**2
    leaning = x * (strength / variance)
    evidence = leaning.abs() + torch.log1p((-2 * leaning.abs()).exp())  # log 2 cosh: of both signs together
    if shared:
        evidence = evidence.sum((2, 3), keepdim=True)
    kinds = (torch.stack([woven, 1 - woven], 1).log()[:, :, None, None] + evidence).softmax(1)
    means = strength * kinds * leaning.tanh()
    return means + (x - means) * (spread / variance)


def denoised_scene(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Of a Gaussian field that is mirrored at the edges of `x (rows, channels, height, width)`: Wiener's filter."""
    down, across = cosines(x.shape[-2]), cosines(x.shape[-1])
    power = scene_power(x.shape[-2], x.shape[-1])
    return down.T @ ((down @ x @ across.T) * (power / (power + sigma**2))) @ across


@lru_cache(maxsize=32)
def cosines(length: int) -> torch.Tensor:
    """The orthonormal cosine transform of so many cells, a frequency a row."""
    steps = torch.arange(length, dtype=torch.float64)
    rows = torch.cos(steps[:, None] * (steps + 0.5) * math.pi / length) * math.sqrt(2 / length)
    rows[0] /= math.sqrt(2)
    return rows.float()


@lru_cache(maxsize=32)
def scene_power(height: int, width: int) -> torch.Tensor:
    """Variance of the scene's cosines, `(height, width)`, such that a native one's cells have unit variance."""
    return _falling(height, width) / _falling(NATIVE_LAT, NATIVE_LAT).mean()


def _falling(height: int, width: int) -> torch.Tensor:
    rows, cols = torch.arange(height) / (2 * height), torch.arange(width) / (2 * width)
    lowest = 1 / (2 * NATIVE_LAT)
    return torch.hypot(rows[:, None], cols[None]).clamp(min=lowest) ** -SCALE_FREE


def drawn_texture(
    shape: tuple[int, int], strength: float, woven: float, generator: torch.Generator, shared: bool = False
) -> torch.Tensor:
    """A true one, `(2, height, width)`."""
    kinds = (torch.rand((1, 1) if shared else shape, generator=generator) >= woven).long().expand(shape)
    signs = torch.randint(2, shape, generator=generator) * 2.0 - 1
    cells = torch.nn.functional.one_hot(kinds, 2).movedim(-1, 0) * signs
    return strength * (cells + SPREAD * torch.randn(2, *shape, generator=generator))
