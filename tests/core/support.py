"""What the tests of the core share: a noise schedule, denoisers with a known answer, and a host in a dozen lines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from demofusion_lib.core import (
    Phase,
    PhaseEngine,
    PhaseFusion,
    SkipResidual,
    Weights,
    WindowGrid,
    plan_phases,
    scaled_size,
    step_generator,
    step_starts,
)

Denoise = Callable[[torch.Tensor, float, Sequence[int]], torch.Tensor]
"""`denoise(patches, sigma, rows)`: the denoised prediction; `rows[i]` is the image that patch `i` belongs to."""


class Schedule:
    """Stable Diffusion's noise levels, in k-diffusion's form `x = x0 + sigma * noise`."""

    def __init__(self) -> None:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas_cumprod = np.cumprod(1 - betas)
        self.log_sigmas = np.log((1 - self.alphas_cumprod) / self.alphas_cumprod) / 2

    def sigma(self, t: float) -> float:
        return math.exp(np.interp(t, range(1000), self.log_sigmas))

    def t(self, sigma: float) -> float:
        return float(np.interp(math.log(sigma), self.log_sigmas, range(1000)))

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest sigma."""
        return self.sigma(0), self.sigma(999)

    def sigmas(self, steps: int, last: float = 0.0) -> torch.Tensor:
        """`steps` levels at uniform timesteps, and `last`."""
        return torch.tensor([self.sigma(t) for t in np.linspace(999, 0, steps)] + [last], dtype=torch.float64)


SCHEDULE = Schedule()


class PhaseModel:
    """A k-diffusion model whose evaluations go through an engine, as a host's do. `skip` as `PhaseFusion` takes it."""

    def __init__(self, engine: PhaseEngine, denoise: Denoise, skip: float = 1.0):
        self.engine = engine
        self.denoise = denoise
        self.skip = skip

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **extra: object) -> torch.Tensor:
        level = float(sigma[0])
        t = SCHEDULE.t(level)
        self.engine.before(x, t, 1.0, level)
        denoised = self.engine.fusion(
            x, range(len(x)), t, self.skip, lambda patches, rows, views, layout: self.denoise(patches, level, rows)
        )
        return denoised


def gaussian_denoiser(std: float, mean: float = 0.0) -> Denoise:
    """The exact answer where every latent cell is drawn from `N(mean, std^2)` for itself."""

    def denoise(patches: torch.Tensor, sigma: float, rows: Sequence[int]) -> torch.Tensor:
        return mean + std**2 / (std**2 + sigma**2) * (patches - mean)

    return denoise


def network_denoiser(channels: int = 4, images: int = 1) -> Denoise:
    """A small convolutional epsilon network, with another prompt for each image of a batch."""
    generator = torch.Generator().manual_seed(20)
    inner = torch.randn(8, channels, 3, 3, generator=generator) * 0.3
    outer = torch.randn(channels, 8, 3, 3, generator=generator) * 0.3
    prompts = torch.randn(images, 8, 1, 1, generator=generator)

    def denoise(patches: torch.Tensor, sigma: float, rows: Sequence[int]) -> torch.Tensor:
        scaled = patches / math.sqrt(1 + sigma**2)
        hidden = torch.nn.functional.conv2d(scaled, inner, padding=1) + prompts[list(rows)]
        eps = torch.nn.functional.conv2d(torch.tanh(hidden), outer, padding=1) + scaled * sigma / math.sqrt(
            1 + sigma**2
        )
        return patches - sigma * eps

    return denoise


def draws(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def one_phase(base_lat: tuple[int, int], scale: float) -> Phase:
    """The one phase that jumps to the scale."""
    return plan_phases(base_lat, scaled_size(*base_lat, scale), "direct")[0]


def build_engine(
    phase: Phase,
    previous: torch.Tensor,
    noise: torch.Tensor,
    *,
    window_lat: tuple[int, int],
    solver: str = "sample_euler",
    steps: int = 50,
    seeds: Sequence[int] = (0,),
    weights: Weights | None = None,
    blur: float = 0.8,
    batch: int = 16,
    border: str = "inside",
    normalise: bool = True,
    stochastic: bool = False,
    wrap: bool = False,
) -> PhaseEngine:
    """An engine for one phase, with each image's windows drawn from its own seed."""
    weights = weights or Weights()
    residual = SkipResidual(previous, noise, weights, normalise=normalise, stochastic=stochastic)
    grid = WindowGrid(phase.height_lat, phase.width_lat, window_lat, border=border, wrap=wrap)
    fusion = PhaseFusion(phase, grid, weights, blur=blur, batch=batch, wrap=wrap)
    starts = step_starts(solver, steps)
    return PhaseEngine(
        residual, fusion, starts, lambda step: [step_generator(seed, phase.number, step) for seed in seeds]
    )
