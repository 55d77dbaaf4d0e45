"""The host's two sampler families, as the engine needs them: noise levels, and what the inner model answers.

`KDiffusionSampler` (LCM too) steps in `x = x0 + sigma * noise` and its inner model answers the denoised;
`CompVisSampler` (DDIM, PLMS, UniPC) steps in `x = alpha * x0 + sigma * noise`, and its inner model answers epsilon.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from modules import sd_samplers, shared

from ..core import SkipResidual, evaluated_sigmas, evaluated_timesteps, first_sigma


class SigmaFamily:
    """`level` is a tensor of sigmas."""

    def __init__(self, base: Any):
        self.base = base

    def level(self, level: torch.Tensor) -> tuple[float, float, float]:
        """Training timestep, alpha, sigma."""
        return float(self.base.sigma_to_t(level[:1])), 1.0, float(level[0])

    def skip(self, level: torch.Tensor) -> float:
        """How much of its input the inner model's answer holds beside the network's output."""
        sigma = level[:1]
        if hasattr(self.base, "get_scaled_out"):  # LCM: boundary scalings around an epsilon model
            one = torch.ones(1, device=sigma.device)
            return float(self.base.get_scaled_out(sigma, one, one))
        scalings = self.base.get_scalings(sigma)
        return float(scalings[0]) if len(scalings) == 3 else 1.0

    def levels_t(self, sampler: Any, p: Any, steps: int, eta: float) -> list[float]:
        """The training timestep of each evaluation of a sampling, in order; of DPM adaptive, about."""
        sigmas = sampler.get_sigmas(p, steps).tolist()
        ends = float(self.base.sigmas[0]), float(self.base.sigmas[-1])
        levels = evaluated_sigmas(solver_name(sampler), sigmas, ends, eta=eta)
        like = self.base.sigmas
        return [self.level(torch.tensor([sigma], dtype=like.dtype, device=like.device))[0] for sigma in levels]

    def start(self, sampler: Any, p: Any, steps: int, residual: SkipResidual) -> torch.Tensor:
        """What to hand to the host's `sample`, which scales unit noise to the first sigma, to begin at the noised latent."""
        sigmas = sampler.get_sigmas(p, steps).tolist()
        sigma = first_sigma(solver_name(sampler), sigmas, float(self.base.sigmas[-1]))
        scale = math.sqrt(1 + sigmas[0] ** 2) if shared.opts.sgm_noise_multiplier else sigmas[0]
        return residual.noised(1.0, sigma) / scale


class TimestepFamily:
    """`level` is a tensor of training timesteps, not always whole ones (UniPC)."""

    def __init__(self, base: Any, alphas_cumprod: torch.Tensor):
        self.base = base
        self.alphas_cumprod = alphas_cumprod.detach().cpu().double()  # in this order: Apple's GPUs have no float64

    def _alpha_sigma(self, t: float) -> tuple[float, float]:
        t = min(max(t, 0.0), len(self.alphas_cumprod) - 1.0)
        low = int(t)
        high = min(low + 1, len(self.alphas_cumprod) - 1)
        log_low, log_high = self.alphas_cumprod[[low, high]].log().tolist()
        squared = math.exp(log_low + (t - low) * (log_high - log_low))
        return math.sqrt(squared), math.sqrt(1 - squared)

    def level(self, level: torch.Tensor) -> tuple[float, float, float]:
        t = float(level[0])
        return t, *self._alpha_sigma(t)

    def skip(self, level: torch.Tensor) -> float:
        """0 for epsilon models; from `v` the host computes `eps = alpha * v + sigma * x` at the whole timestep."""
        v_model = hasattr(self.base, "predict_eps_from_z_and_v")
        return self._alpha_sigma(int(level[0]))[1] if v_model else 0.0

    def levels_t(self, sampler: Any, p: Any, steps: int, eta: float) -> list[float]:
        """As `SigmaFamily`'s. UniPC goes over the whole range in even steps, or nearly, as the host's setting has it."""
        solver, timesteps = solver_name(sampler), sampler.get_timesteps(p, steps).tolist()
        if solver == "unipc":
            count = len(timesteps)
            return evaluated_timesteps(solver, [(1 - i / count) * (len(self.alphas_cumprod) - 1) for i in range(count)])
        return evaluated_timesteps(solver, timesteps[:0:-1])

    def start(self, sampler: Any, p: Any, steps: int, residual: SkipResidual) -> torch.Tensor:
        last = len(self.alphas_cumprod) - 1
        t = last if solver_name(sampler) == "unipc" else int(sampler.get_timesteps(p, steps)[-1])
        return residual.noised(*self._alpha_sigma(t))


def solver_name(sampler: Any) -> str:
    """The name of the function that does the sampling."""
    return getattr(sampler.func, "__name__", str(sampler.func))


def family_of(sampler: Any) -> SigmaFamily | TimestepFamily:
    base = sampler.model_wrap_cfg.inner_model
    if hasattr(base, "sigma_to_t"):
        return SigmaFamily(base)
    return TimestepFamily(base, shared.sd_model.alphas_cumprod)


def plain_sampler(p: Any) -> Any:
    """One as the host makes it, whatever another extension may have put in the place of its `create_sampler`."""
    config = sd_samplers.find_sampler_config(p.sampler_name)
    sampler = config.constructor(p.sd_model)
    sampler.config = config
    return sampler
