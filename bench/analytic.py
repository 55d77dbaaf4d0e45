"""A denoiser that is exact by construction: the posterior mean of a distribution that can be summed up in full."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

NEGLIGIBLE = 1e-9  # the posterior mass of a picture below which its crops can't be seen in the mean
LOG_ZERO = -60.0  # as good as no weight, and clear of the denormal numbers, which make a Fourier transform crawl


class NoiseSchedule:
    """Noise level and training timestep: Stable Diffusion's (scaled-linear betas 0.00085 to 0.012), times `shift`.

    shift: how much more noise these pictures take than a VAE's latents until nothing is left of them. Their
        neighbouring pixels are far more alike, and at Stable Diffusion's own levels the plan shows through the most noise.
    """

    def __init__(self, shift: float):
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        kept = np.cumprod(1 - betas)
        self._ts = np.arange(1000)
        self._log_sigmas = np.log(shift * np.sqrt((1 - kept) / kept))

    def t(self, sigma: float) -> float:
        return float(np.interp(math.log(sigma), self._log_sigmas, self._ts))

    def sigmas(self, steps: int) -> torch.Tensor:
        """Noise levels at evenly spaced timesteps, 999 to 0, and a last level of none: `(steps + 1,)`."""
        levels = np.exp(np.interp(np.linspace(999, 0, steps), self._ts, self._log_sigmas))
        return torch.from_numpy(np.append(levels, 0.0)).float()


def window_sums(plane: torch.Tensor, window: int) -> torch.Tensor:
    """The sum over each `window * window` part of `(..., height, width)`, by the part's top left corner."""
    totals = F.pad(plane.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0))
    rows = totals[..., window:, :] - totals[..., :-window, :]
    return rows[..., window:] - rows[..., :-window]


class Crops:
    """All crops of `window * window` of square pictures `(k, channels, size, size)`, each as likely as any other.

    share: the prior mass of all of them together. The crop at each place is never cut out: cross-correlation with
    the whole pictures, in Fourier space, gives `<x, crop>` for every place at once, and convolution the mean.
    """

    def __init__(self, pictures: torch.Tensor, share: float, window: int):
        self.window = window
        self.size = pictures.shape[-1]
        self.places = self.size - window + 1
        self.spectrum = torch.fft.rfft2(pictures).transpose(0, 1).contiguous()  # (channels, k, ...)
        self.half_norms = window_sums(pictures.square().sum(1), window).div(2).float()  # |crop|^2 / 2
        self.log_prior = math.log(share / self.half_norms.numel())

    def _forward(self, planes: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(planes, s=(self.size, self.size))

    def _backward(self, spectrum: torch.Tensor, length: int) -> torch.Tensor:
        """The first `length` rows and columns of the planes; the other rows are never computed."""
        rows = torch.fft.ifft(spectrum, dim=-2)[..., :length, :]
        return torch.fft.irfft(rows, n=self.size)[..., :length]

    def log_weights(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """`log p(crop) - |x - crop|^2 / (2 sigma^2)`, but for the `|x|^2` they share: `(k, places, places)`."""
        spectrum = self._forward(x).conj().resolve_conj()
        product = self.spectrum[0] * spectrum[0]
        for pictures, channel in zip(self.spectrum[1:], spectrum[1:]):
            product.addcmul_(pictures, channel)
        return (self._backward(product, self.places) - self.half_norms).div_(sigma**2).add_(self.log_prior)

    def mean(self, weights: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """The sum of the crops of some pictures `which (k)`, each times its weight `(those, places, places)`."""
        total = (self.spectrum[:, which] * self._forward(weights).conj()).sum(1)
        return self._backward(total, self.window)


class CropPrior:
    """A distribution of square inputs: a mixture of sets of crops, and its exact denoiser.

    sets: pictures `(k, channels, size, size)` and the share of the prior that their crops have, shares adding up to 1.
        Pictures of the window's own size have one crop, themselves.
    threads: how many inputs are denoised at once.
    """

    def __init__(self, sets: Sequence[tuple[torch.Tensor, float]], window: int, threads: int = 1):
        self.window = window
        self.channels = sets[0][0].shape[1]
        self.sets = [Crops(pictures, share, window) for pictures, share in sets]
        self.pool = ThreadPoolExecutor(threads)

    def denoise(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """`E[x0 | x]` for `x = x0 + sigma * noise`, `(n, channels, window, window)`."""
        return torch.stack(list(self.pool.map(lambda one: self._denoise_one(one, sigma), x)))

    def _denoise_one(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        logs = [crops.log_weights(x, sigma) for crops in self.sets]
        peak = max(float(log.max()) for log in logs)
        weights = [log.sub_(peak).clamp_(min=LOG_ZERO).exp_() for log in logs]
        masses = [weight.sum((1, 2)) for weight in weights]
        total = torch.cat(masses).sum()
        mean = torch.zeros_like(x)
        for crops, weight, mass in zip(self.sets, weights, masses):
            seen = mass > NEGLIGIBLE * total
            if seen.any():
                mean += crops.mean(weight[seen] / total, seen)
        return mean
