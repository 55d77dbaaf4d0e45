"""The webui's samplers and schedulers on a model's noise levels: our own solvers in sigma, and diffusers' DDIM and UniPC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import PhaseEngine, evaluated_sigmas, evaluated_timesteps, first_sigma
from .brownian import Brownian
from .guidance import EpsForm, Guided, SigmaForm
from .names import ETA, Sampler
from .solving import SOLVERS, Noise, Run, exponential, karras


class Schedule:
    """A model's noise levels. alphas_cumprod: float64 `(1000,)`; a level of infinite sigma (zero terminal SNR) is capped."""

    def __init__(self, alphas_cumprod: torch.Tensor):
        self.alphas_cumprod = alphas_cumprod.clamp(min=2e-8)
        self.log_sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).log() / 2

    @property
    def sigma_min(self) -> float:
        return float(self.log_sigmas[0].exp())

    @property
    def sigma_max(self) -> float:
        return float(self.log_sigmas[-1].exp())

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        low = t.long().clamp(0, len(self.log_sigmas) - 2)
        share = t.double() - low
        return torch.lerp(self.log_sigmas[low], self.log_sigmas[low + 1], share).exp()

    def t(self, sigma: float) -> float:
        """The training timestep of a noise level, between whole ones by the logarithm as k-diffusion does."""
        level = torch.tensor(sigma, dtype=torch.float64).log()
        high = int(torch.searchsorted(self.log_sigmas, level).clamp(1, len(self.log_sigmas) - 1))
        below, above = self.log_sigmas[high - 1], self.log_sigmas[high]
        return min(max(high - 1 + float((level - below) / (above - below)), 0.0), len(self.log_sigmas) - 1.0)

    def shrunk(self, form: SigmaForm | EpsForm, gain: float) -> tuple[float, SigmaForm | EpsForm]:
        """The timestep and the form of a latent whose noise is `gain` times that of the given form's."""
        if isinstance(form, SigmaForm):
            return self.t(form.sigma * gain), SigmaForm(form.sigma * gain, form.prediction)
        sigma = form.sigma / form.alpha * gain
        alpha = (1 + sigma**2) ** -0.5
        return self.t(sigma), EpsForm(alpha, alpha * sigma, form.prediction)

    def alpha_sigma(self, t: int) -> tuple[float, float]:
        alpha = float(self.alphas_cumprod[t])
        return alpha**0.5, (1 - alpha) ** 0.5

    def level(self, t: float) -> float:
        return float(self.sigma(torch.tensor(t, dtype=torch.float64)))

    def sigmas(self, steps: int, scheduler: str, start_t: float | None = None) -> torch.Tensor:
        """From the highest to 0, float32 `(steps + 1,)`.

        From timestep `start_t` on, the last step begins one above the lowest level, where nothing is left to draw.
        """
        end_t, start_t = (0.0, len(self.log_sigmas) - 1.0) if start_t is None else (start_t / steps, start_t)
        low, high = self.level(end_t), self.level(start_t)
        if scheduler == "Uniform":
            levels = self.sigma(torch.linspace(start_t, end_t, steps, dtype=torch.float64))
            return torch.cat([levels.float(), torch.zeros(1)])
        # a polynomial of the first degree, as the webui takes it, is the exponential one
        return karras(steps, low, high) if scheduler == "Karras" else exponential(steps, low, high)


@dataclass(frozen=True)
class Start:
    """Where a run begins: `alpha * x0 + sigma * noise`."""

    alpha: float
    sigma: float


class Solver:
    """One run of a sampler: from its start to the clean latent. `seeds` are the images', for a sampler's own noise."""

    def __init__(self, sampler: Sampler, schedule: Schedule, scheduler: str, steps: int, start_t: float | None = None):
        self.sampler, self.schedule, self.steps = sampler, schedule, steps
        self.sigma_max = schedule.sigma_max if start_t is None else schedule.level(start_t)
        if sampler.is_timestep:
            self.diffusers = _timestep_scheduler(sampler.solver, schedule, steps, start_t)
            self.diffusers.set_timesteps(steps)
            self.timesteps = [int(t) for t in self.diffusers.timesteps]
            self.start = Start(*schedule.alpha_sigma(self.timesteps[0]))
        else:
            self.levels = schedule.sigmas(steps, scheduler, start_t)
            self.start = Start(1.0, first_sigma(sampler.solver, self.levels.tolist(), self.sigma_max))

    def levels_t(self) -> list[float]:
        """The training timestep of each evaluation of a run, in order; of DPM adaptive, those that it is likely to make."""
        if self.sampler.is_timestep:
            return evaluated_timesteps(self.sampler.solver, self.timesteps)
        ends = self.schedule.sigma_min, self.sigma_max
        sigmas = evaluated_sigmas(self.sampler.solver, self.levels.tolist(), ends, eta=ETA)
        return [self.schedule.t(sigma) for sigma in sigmas]

    def from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Where a picture begins that has nothing to begin with; the timestep samplers take unit noise for it."""
        return noise if self.sampler.is_timestep else noise.mul(self.start.sigma)

    def run(self, guided: Guided, x: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        return self._timesteps(guided, x) if self.sampler.is_timestep else self._sigmas(guided, x, seeds)

    def _sigmas(self, guided: Guided, x: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
        prediction, schedule = guided.model.prediction, self.schedule

        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            t = schedule.t(sigma)
            if guided.engine is None:
                return guided(x, t, SigmaForm(sigma, prediction))
            guided.engine.before(x, t, 1.0, sigma)
            denoised = guided(x, t, SigmaForm(sigma, prediction), schedule.shrunk)
            return guided.engine.after_denoised(denoised, t)

        ends = schedule.sigma_min, self.sigma_max
        run = Run(denoise, self.levels.tolist(), ends, self.steps, self._noise(x, seeds), ETA)
        return SOLVERS[self.sampler.solver](run, x)

    def _noise(self, x: torch.Tensor, seeds: Sequence[int]) -> Noise:
        """Each image's from its own seed: an image must not depend on its batch-mates."""
        if "sde" in self.sampler.solver:
            low = float(self.levels[self.levels > 0].min())
            return Brownian(x, low, self.sigma_max, seeds)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        shape = x.shape[1:]
        return lambda *levels: torch.stack([torch.randn(shape, generator=g) for g in generators]).to(x)

    def _timesteps(self, guided: Guided, x: torch.Tensor) -> torch.Tensor:
        if guided.engine is not None and self.sampler.solver == "unipc":
            self.diffusers.engine = guided.engine
        for t in self.timesteps:
            alpha, sigma = self.schedule.alpha_sigma(t)
            form = EpsForm(alpha, sigma, guided.model.prediction)
            if guided.engine is None:
                eps = guided(x, float(t), form)
            else:
                guided.engine.before(x, float(t), alpha, sigma)
                eps = guided(x, float(t), form, self.schedule.shrunk)
                eps = guided.engine.after_eps(eps, x, float(t), alpha, sigma)
            x = self.diffusers.step(eps, t, x).prev_sample
        return x


class LateDDIM:
    """DDIM without noise of its own (arXiv 2010.02502, eq. 12), in even steps from a timestep in the midst of the schedule.

    diffusers' can't begin there: it counts a step's end from the whole schedule's length.
    """

    def __init__(self, schedule: Schedule, start_t: float):
        self.schedule, self.start_t = schedule, start_t
        self.timesteps: list[int] = []
        self.prev_sample = torch.empty(0)

    def set_timesteps(self, steps: int) -> None:
        self.timesteps = [round(self.start_t * (1 - i / steps)) for i in range(steps)]

    def step(self, eps: torch.Tensor, t: int, x: torch.Tensor) -> LateDDIM:
        alpha, sigma = self.schedule.alpha_sigma(t)
        next_alpha, next_sigma = self.schedule.alpha_sigma(max((n for n in self.timesteps if n < t), default=0))
        denoised = x.sub(eps, alpha=sigma).div_(alpha)
        self.prev_sample = denoised.mul_(next_alpha).add_(eps, alpha=next_sigma)
        return self


def _timestep_scheduler(solver: str, schedule: Schedule, steps: int, start_t: float | None) -> Any:
    """`start_t`: the highest timestep; None for the whole schedule. Of fewer `steps` than its order UniPC takes a lower one."""
    from diffusers import DDIMScheduler, UniPCMultistepScheduler

    class PulledUniPC(UniPCMultistepScheduler):  # type: ignore[misc]
        """Goes on from a corrected `x`, which it makes from the step before: that one needs the residual as well."""

        engine: PhaseEngine | None = None

        def multistep_uni_c_bh_update(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            x = super().multistep_uni_c_bh_update(*args, **kwargs)
            if self.engine is not None:
                self.engine.corrected(x)
            return x

    betas = 1 - schedule.alphas_cumprod / torch.cat([torch.ones(1, dtype=torch.float64), schedule.alphas_cumprod[:-1]])
    known: dict[str, Any] = {"trained_betas": betas.float().numpy(), "prediction_type": "epsilon"}
    if start_t is not None:
        if solver == "ddim":
            return LateDDIM(schedule, start_t)
        known["trained_betas"] = known["trained_betas"][: round(start_t) + 1]
        known["num_train_timesteps"] = len(known["trained_betas"])
    if solver == "ddim":
        return DDIMScheduler(**known, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    return PulledUniPC(
        **known,
        solver_order=min(3, steps),
        solver_type="bh1",
        timestep_spacing="linspace",
        final_sigmas_type="sigma_min",
    )
