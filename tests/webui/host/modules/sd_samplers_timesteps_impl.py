"""Solvers of the timestep family, which step in `x = alpha * x0 + sigma * noise` and are told epsilon."""

from __future__ import annotations

import itertools
import math

import k_diffusion.sampling
import torch

from modules import shared


def _ddim(model, x, timesteps, extra_args, callback, eta, direction):
    """Song et al. 2021, equation 12. `timesteps` ascend; `direction(eps)` is what the noise of the step is made of."""
    alphas_cumprod = model.inner_model.inner_model.alphas_cumprod
    levels = timesteps.flip(0).tolist()
    for i, (t, following) in enumerate(itertools.pairwise(levels)):
        a, a_next = float(alphas_cumprod[t]), float(alphas_cumprod[following])
        eps = model(x, t * x.new_ones(len(x)), **(extra_args or {}))
        x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        fresh = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
        x = math.sqrt(a_next) * x0 + math.sqrt(1 - a_next - fresh**2) * direction(eps)
        x = x + fresh * k_diffusion.sampling.torch.randn_like(x)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": x0})
    return x


@torch.no_grad()
def ddim(model, x, timesteps, extra_args=None, callback=None, disable=None, eta=0.0):
    return _ddim(model, x, timesteps, extra_args, callback, eta, lambda eps: eps)


@torch.no_grad()
def ddim_cfgpp(model, x, timesteps, extra_args=None, callback=None, disable=None, eta=0.0):
    """CFG++ (Chung et al. 2024): steps along the unguided noise."""
    model.cond_scale_miltiplier = 1 / 12.5
    model.need_last_noise_uncond = True
    return _ddim(model, x, timesteps, extra_args, callback, eta, lambda eps: model.last_noise_uncond)


@torch.no_grad()
def plms(model, x, timesteps, extra_args=None, callback=None, disable=None):
    """Liu et al. 2022: Adams-Bashforth over the last epsilons; the first step asks twice."""
    alphas_cumprod = model.inner_model.inner_model.alphas_cumprod
    weights = [(1.0,), (-1 / 2, 3 / 2), (5 / 12, -16 / 12, 23 / 12), (-9 / 24, 37 / 24, -59 / 24, 55 / 24)]
    history: list[torch.Tensor] = []

    def move(eps, t, following):
        a, a_next = float(alphas_cumprod[t]), float(alphas_cumprod[following])
        x0 = (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        return math.sqrt(a_next) * x0 + math.sqrt(1 - a_next) * eps, x0

    for i, (t, following) in enumerate(itertools.pairwise(timesteps.flip(0).tolist())):
        eps = model(x, t * x.new_ones(len(x)), **(extra_args or {}))
        history = [*history, eps][-4:]
        slope = sum(weight * past for weight, past in zip(weights[len(history) - 1], history))
        if i == 0:
            ahead, _ = move(eps, t, following)
            slope = (eps + model(ahead, following * x.new_ones(len(x)), **(extra_args or {}))) / 2
        x, x0 = move(slope, t, following)
        if callback is not None:
            callback({"x": x, "i": i, "sigma": 0, "sigma_hat": 0, "denoised": x0})
    return x


class _Schedule:
    """`log alpha`, linear between the training timesteps, which are `(i + 1) / N` of continuous time."""

    def __init__(self, alphas_cumprod):
        self.log_alphas = (alphas_cumprod.double().log() / 2).tolist()

    def log_alpha(self, t: float) -> float:
        index = min(max(t * len(self.log_alphas) - 1, 0.0), len(self.log_alphas) - 1.0)
        low = min(int(index), len(self.log_alphas) - 2)
        return self.log_alphas[low] + (index - low) * (self.log_alphas[low + 1] - self.log_alphas[low])

    def level(self, t: float) -> tuple[float, float, float]:
        """alpha, sigma, and half the log of their squared ratio."""
        log_alpha = self.log_alpha(t)
        sigma = math.sqrt(-math.expm1(2 * log_alpha))
        return math.exp(log_alpha), sigma, log_alpha - math.log(sigma)


def _bh_weights(ratios: list[float], hh: float) -> list[float]:
    """The coefficients that match the exponential integrator's moments (UniPC, section 3.2), with B(h) = h."""
    moments, rest, factorial = [], math.expm1(hh) / hh - 1, 1
    for power in range(1, len(ratios) + 1):
        moments.append(rest * factorial / hh)
        factorial *= power + 1
        rest = rest / hh - 1 / factorial
    powers = torch.tensor([[ratio**n for ratio in ratios] for n in range(len(ratios))], dtype=torch.float64)
    return torch.linalg.solve(powers, torch.tensor(moments, dtype=torch.float64)).tolist()


@torch.no_grad()
def unipc(model, x, timesteps, extra_args=None, callback=None, disable=None, is_img2img=False):
    """UniPC (Zhao et al. 2023), multistep, data prediction, bh1.

    Each step predicts, evaluates at the prediction, and corrects from the step before with that evaluation; the
    corrected `x` is handed to the callback and carried on without another evaluation. The last step only predicts.
    """
    schedule = _Schedule(model.inner_model.inner_model.alphas_cumprod)
    steps, order = len(timesteps), shared.opts.uni_pc_order
    assert steps >= order, "UniPC order must be < sampling steps"
    start = float(timesteps[-1] + 1) / 1000 if is_img2img else 1.0
    times = torch.linspace(start, 1 / 1000, steps + 1, dtype=torch.float64).tolist()

    def x0_at(x, t):
        alpha, sigma, _ = schedule.level(t)
        eps = model(x, (t - 1 / 1000) * 1000 * x.new_ones(len(x)), **(extra_args or {}))
        return (x - sigma * eps) / alpha

    def weighted(weights, differences):
        return sum((w * d for w, d in zip(weights, differences)), torch.zeros_like(x))

    known = [(times[0], x0_at(x, times[0]))]
    for i, t in enumerate(times[1:], start=1):
        p = min(i, order, steps + 1 - i) if shared.opts.uni_pc_lower_order_final else min(i, order)
        before, x0_before = known[-1]
        (_, sigma_before, half_before), (alpha, sigma, half) = schedule.level(before), schedule.level(t)
        h = half - half_before
        older = known[-p:-1][::-1]
        ratios = [(schedule.level(past)[2] - half_before) / h for past, _ in older]
        differences = [(x0 - x0_before) / ratio for (_, x0), ratio in zip(older, ratios)]
        base = sigma / sigma_before * x - alpha * math.expm1(-h) * x0_before
        weights = [0.5] if p == 2 else _bh_weights(ratios, -h) if p > 1 else []
        x = base + alpha * h * weighted(weights, differences)
        x0 = None
        if i < steps:
            x0 = x0_at(x, t)
            weights = [0.5] if p == 1 else _bh_weights([*ratios, 1.0], -h)
            x = base + alpha * h * weighted(weights, [*differences, x0 - x0_before])
        if callback is not None:
            callback({"x": x, "i": i - 1, "sigma": 0, "sigma_hat": 0, "denoised": x0})
        known = [*known, (t, x0)][-order:]
    return x
