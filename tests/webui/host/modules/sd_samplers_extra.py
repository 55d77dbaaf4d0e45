"""Restart sampling (Xu et al. 2023)."""

import itertools

import k_diffusion.sampling
import torch
from k_diffusion.sampling import get_sigmas_karras


@torch.no_grad()
def restart_sampler(model, x, sigmas, extra_args=None, callback=None, disable=None, s_noise=1.0, restart_list=None):
    """Heun's method; from 20 steps on some of them descend again from sigma 2 to 0.1."""
    extra_args, ones = extra_args or {}, x.new_ones(len(x))
    steps, last = len(sigmas) - 1, None
    descents = [sigmas]
    if steps >= 20:
        again, times = (steps // 4, 2) if steps >= 36 else (9, 1)
        main = get_sigmas_karras(steps - again * times, sigmas[-2].item(), sigmas[0].item())
        low, high = (int((main - sigma).abs().argmin()) for sigma in (0.1, 2))
        restart = get_sigmas_karras(again + 1, main[low].item(), main[high].item())[:-1]
        descents = [main[: low + 1], *[restart] * times, main[low:]]
    pairs = [pair for descent in descents for pair in itertools.pairwise(descent)]
    for i, (old, new) in enumerate(pairs):
        if last is not None and old > last:
            x = x + k_diffusion.sampling.torch.randn_like(x) * s_noise * (old**2 - last**2) ** 0.5
        denoised = model(x, old * ones, **extra_args)
        slope = (x - denoised) / old
        if callback is not None:
            callback({"x": x, "i": i, "sigma": new, "sigma_hat": old, "denoised": denoised})
        if new > 0:
            ahead = x + slope * (new - old)
            slope = (slope + (ahead - model(ahead, new * ones, **extra_args)) / new) / 2
        x, last = x + slope * (new - old), new
    return x
