"""The host's two sampler families, as the engine needs them: noise levels, and what the inner model answers.

`KDiffusionSampler` (LCM too) steps in `x = x0 + sigma * noise` and its inner model answers the denoised;
`CompVisSampler` (DDIM, PLMS, UniPC) steps in `x = alpha * x0 + sigma * noise`, and its inner model answers epsilon.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from modules import sd_samplers, shared
from modules.sd_samplers_common import setup_img2img_steps

from ..core import PhaseEngine, Residual, evaluated_sigmas, evaluated_timesteps, first_sigma
from .parts import alphas_of
from .standin import StandIn, loaded, sampler_for

GUIDED_ALWAYS = ("ddim_cfgpp",)
"""Solvers that take the CFG scale for a twelfth of it, and step along the negative prompt's noise."""


class Shortened:
    """The host's inner model as its schedulers see it, with the noise levels from one timestep down to another."""

    def __init__(self, base: Any, start_t: float, end_t: float = 0.0):
        self.base = base
        ends = torch.tensor([float(end_t), float(start_t)], device=base.sigmas.device)
        low, high = base.t_to_sigma(ends).to(base.sigmas)[:, None]
        inner = base.sigmas[(base.sigmas > low * (1 + 1e-6)) & (base.sigmas < high * (1 - 1e-6))]
        self.sigmas = torch.cat([low, inner, high])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["base"], name)

    @property
    def sigma_min(self) -> torch.Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> torch.Tensor:
        return self.sigmas[-1]

    def sigma_to_t(self, sigma: torch.Tensor, *args: Any) -> torch.Tensor:
        if not knows_whole_ones(self.base):
            t: torch.Tensor = self.base.sigma_to_t(sigma, *args)
            return t
        return Interpolated(self.base.sigmas).sigma_to_t(sigma.cpu()).to(sigma.device)

    def get_sigmas(self, n: int) -> torch.Tensor:
        """At even timesteps, as the base's own, which counts them from 0."""
        high, low = (float(self.sigma_to_t(sigma.reshape(1))) for sigma in (self.sigma_max, self.sigma_min))
        levels = self.base.t_to_sigma(torch.linspace(high, low, n, device=self.sigmas.device))
        return torch.cat([levels, levels.new_zeros(1)])


Replaced = dict[str, Any]
"""What is to stand in a sampler, by attribute, while a phase runs that begins late."""


def on_cpu(base: Any) -> Any:
    """A model of the host's with its noise levels on the CPU, for what is asked of them in every evaluation: a device is
    waited for whenever a number is read from it."""
    twin = copy.copy(base)
    twin.__dict__["_buffers"] = {name: buffer.cpu() for name, buffer in getattr(base, "_buffers", {}).items()}
    return twin


def knows_whole_ones(base: Any) -> bool:
    """Whether a model of the host's tells no timestep but the nearest whole one of a level: Forge's, and those that quantize,
    as Forge Classic's do."""
    return hasattr(base, "predictor") or bool(getattr(base, "quantize", False))


class Interpolated:
    """Timesteps between the whole ones."""

    def __init__(self, sigmas: torch.Tensor):
        self.log_sigmas = sigmas.detach().cpu().log()

    def sigma_to_t(self, sigma: torch.Tensor) -> torch.Tensor:
        log = sigma.log().clamp(self.log_sigmas[0], self.log_sigmas[-1])
        low = (torch.searchsorted(self.log_sigmas, log, right=True) - 1).clamp(0, len(self.log_sigmas) - 2)
        below, above = self.log_sigmas[low], self.log_sigmas[low + 1]
        return low + (log - below) / (above - below)


class SigmaFamily:
    """`level` is a tensor of sigmas on the CPU."""

    def __init__(self, base: Any):
        self.base = base
        self.levels = Interpolated(base.sigmas) if knows_whole_ones(base) else on_cpu(base)
        self.timesteps: dict[float, float] = {}
        """By sigma, what has been looked up: every evaluation asks several times."""
        self.schedules: dict[tuple[int, float], torch.Tensor] = {}
        """Those that begin late, by steps and first timestep: a phase asks for its own several times."""

    def sigmas(self, sampler: Any, p: Any, steps: int, start_t: float | None) -> torch.Tensor:
        """The schedule of a sampling from timestep `start_t`, None for the whole one, as the host's scheduler makes it.

        A scheduler that spends its last evaluation at so low a level that nothing is left to draw is given a range that
        ends a step above it.
        """
        if start_t is None:
            return sampler.get_sigmas(p, steps)
        if (steps, start_t) not in self.schedules:
            self.schedules[steps, start_t] = self._late_sigmas(sampler, p, steps, start_t)
        return self.schedules[steps, start_t]

    def _late_sigmas(self, sampler: Any, p: Any, steps: int, start_t: float) -> torch.Tensor:
        first = self.highest(start_t)
        levels = self._within(sampler, p, steps, start_t)
        if float(levels[0]) > first * 1.001:  # a scheduler that has levels of its own
            return self._end_of(lambda n: self._within(sampler, p, n, start_t), steps, first)
        if self.level(levels[-2:-1])[0] < start_t / steps / 2:
            levels = self._within(sampler, p, steps, start_t, start_t / steps)
        levels[0] = first
        return levels

    def _within(self, sampler: Any, p: Any, steps: int, start_t: float, end_t: float = 0.0) -> torch.Tensor:
        whole, sampler.model_wrap = sampler.model_wrap, Shortened(self.base, start_t, end_t)
        try:
            return sampler.get_sigmas(p, steps)
        finally:
            sampler.model_wrap = whole

    def _end_of(self, schedule: Any, steps: int, first: float) -> torch.Tensor:
        """The last levels of a schedule so long that `steps` of them lie below `first`, which takes the highest's place."""
        for n in range(steps, 100 * steps + 1):
            levels = schedule(n)
            below = levels[levels < first * 0.999]
            if len(below) > steps + 1:
                break
        ending = below[-1:] if float(below[-1]) == 0 else below.new_zeros(1)
        return torch.cat([below.new_full((1,), first), below[-steps - 1 : -2], ending])

    def late(self, sampler: Any, p: Any, steps: int, start_t: float | None) -> Replaced:
        """What makes the sampler begin at `start_t`."""
        if start_t is None:
            return {}
        sigmas = self.sigmas(sampler, p, steps, start_t)
        return {"model_wrap": Shortened(self.base, start_t), "get_sigmas": lambda p, steps: sigmas}

    def highest(self, start_t: float | None) -> float:
        return float((self.base if start_t is None else Shortened(self.base, start_t)).sigmas[-1])

    def shrunk(self, level: torch.Tensor, gain: float) -> tuple[float, float, float]:
        """The level of a latent with `gain` times the noise, what to multiply the latent by, and by what the difference of
        two answers, for that of two at `level`."""
        return float(level[0]) * gain, 1.0, 1.0

    def hold(self, engine: PhaseEngine, answer: torch.Tensor, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """The guided answer, held by the residual."""
        return engine.after_denoised(answer, self.level(level)[0])

    def level(self, level: torch.Tensor) -> tuple[float, float, float]:
        """Training timestep, alpha, sigma."""
        sigma = float(level[0])
        if sigma not in self.timesteps:
            self.timesteps[sigma] = float(self.levels.sigma_to_t(level[:1]))
        return self.timesteps[sigma], 1.0, sigma

    def skip(self, level: torch.Tensor) -> float:
        """How much of its input the inner model's answer holds beside the network's output."""
        sigma = level[:1]
        if hasattr(self.base, "get_scaled_out"):  # LCM: boundary scalings around an epsilon model
            one = torch.ones(1)
            return float(self.levels.get_scaled_out(sigma, one, one))
        scalings = self.levels.get_scalings(sigma)
        return float(scalings[0]) if len(scalings) == 3 else 1.0

    def levels_t(self, sampler: Any, p: Any, steps: int, eta: float, start_t: float | None = None) -> list[float]:
        """The training timestep of each evaluation of a sampling, in order; of DPM adaptive, about."""
        sigmas = self.sigmas(sampler, p, steps, start_t).tolist()
        ends = float(self.base.sigmas[0]), self.highest(start_t)
        levels = evaluated_sigmas(solver_name(sampler), sigmas, ends, eta=eta)
        return [self.level(torch.tensor([sigma], dtype=self.base.sigmas.dtype))[0] for sigma in levels]

    def inpainting_t(self, sampler: Any, p: Any, eta: float) -> list[float]:
        """The training timestep of each evaluation, as the host samples from a picture at its strength; of DPM adaptive, about."""
        steps, last = setup_img2img_steps(p)
        sigmas = sampler.get_sigmas(p, steps)[steps - last - 1 :].tolist() if steps else []
        if len(sigmas) < 2:
            return []
        levels = evaluated_sigmas(solver_name(sampler), sigmas, (sigmas[-2], sigmas[0]), eta=eta)
        return [self.level(torch.tensor([sigma], dtype=self.base.sigmas.dtype))[0] for sigma in levels]

    def start(self, sampler: Any, p: Any, steps: int, residual: Residual, start_t: float | None = None) -> torch.Tensor:
        """What to hand to the host's `sample`, which scales unit noise to the first sigma, to begin at the noised latent."""
        sigmas = self.sigmas(sampler, p, steps, start_t).tolist()
        sigma = first_sigma(solver_name(sampler), sigmas, self.highest(start_t))
        scale = math.sqrt(1 + sigmas[0] ** 2) if shared.opts.sgm_noise_multiplier else sigmas[0]
        return residual.noised(1.0, sigma) / scale


class TimestepFamily:
    """`level` is a tensor of training timesteps on the CPU, not always whole ones (UniPC)."""

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

    def timesteps(self, sampler: Any, p: Any, steps: int, start_t: float | None) -> torch.Tensor:
        """The host's own, rising, or `steps` of them in even steps up to `start_t`; but for UniPC with the end before."""
        whole = sampler.get_timesteps(p, steps)
        if start_t is None:
            return whole
        rising = [max(1, round(start_t * (i + 1) / steps)) for i in range(steps)]
        return torch.tensor(rising if solver_name(sampler) == "unipc" else [1, *rising]).to(whole)

    def late(self, sampler: Any, p: Any, steps: int, start_t: float | None) -> Replaced:
        if start_t is None:
            return {}
        timesteps = self.timesteps(sampler, p, steps, start_t)
        replaced: Replaced = {"get_timesteps": lambda p, steps: timesteps}
        if solver_name(sampler) == "unipc":
            replaced["func"] = ending_with_its_timesteps(sampler.func)
        return replaced

    def shrunk(self, level: torch.Tensor, gain: float) -> tuple[float, float, float]:
        """As `SigmaFamily`'s."""
        _, alpha, sigma = self.level(level)
        squared = 1 / (1 + (sigma / alpha * gain) ** 2)
        t = int((self.alphas_cumprod - squared).abs().argmin())
        _, small_alpha, small_sigma = self.level(torch.tensor([float(t)]))
        return float(t), small_alpha / alpha, (small_sigma / small_alpha) / (sigma / alpha)

    def hold(self, engine: PhaseEngine, answer: torch.Tensor, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """As `SigmaFamily`'s."""
        return engine.after_eps(answer, x, *self.level(level))

    def levels_t(self, sampler: Any, p: Any, steps: int, eta: float, start_t: float | None = None) -> list[float]:
        """As `SigmaFamily`'s. UniPC goes over the whole range in even steps, or nearly, as the host's setting has it."""
        solver, timesteps = solver_name(sampler), self.timesteps(sampler, p, steps, start_t).tolist()
        if solver == "unipc":
            count, last = len(timesteps), timesteps[-1] if start_t is not None else len(self.alphas_cumprod) - 1
            return evaluated_timesteps(solver, [(1 - i / count) * last for i in range(count)])
        return evaluated_timesteps(solver, timesteps[:0:-1])

    def inpainting_t(self, sampler: Any, p: Any, eta: float) -> list[float]:
        """As `SigmaFamily`'s."""
        steps, last = setup_img2img_steps(p)
        solver, timesteps = solver_name(sampler), sampler.get_timesteps(p, steps)[:last].tolist() if steps else []
        if not timesteps:
            return []
        if solver == "unipc":
            return evaluated_timesteps(
                solver, [(1 - i / len(timesteps)) * timesteps[-1] for i in range(len(timesteps))]
            )
        return evaluated_timesteps(solver, timesteps[:0:-1])

    def start(self, sampler: Any, p: Any, steps: int, residual: Residual, start_t: float | None = None) -> torch.Tensor:
        t = int(self.timesteps(sampler, p, steps, start_t)[-1])
        if solver_name(sampler) == "unipc" and start_t is None:
            t = len(self.alphas_cumprod) - 1
        return residual.noised(*self._alpha_sigma(t))


def ending_with_its_timesteps(solver: Any) -> Any:
    """The host's UniPC, which looks at where its timesteps end only where it is told that there is a picture already."""

    def late(
        model: Any, x: Any, timesteps: Any, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Any:
        return solver(model, x, timesteps, extra_args, callback, disable, is_img2img=True)

    late.__name__ = solver.__name__
    return late


def solver_name(sampler: Any) -> str:
    """The name of the function that does the sampling."""
    return getattr(sampler.func, "__name__", str(sampler.func))


def is_guided(solver: str, cfg: float) -> bool:
    """Whether the negative prompt has a say; at CFG 1 it cancels out."""
    return cfg != 1 or solver in GUIDED_ALWAYS


def family_of(sampler: Any) -> SigmaFamily | TimestepFamily:
    base = sampler.model_wrap_cfg.inner_model
    if hasattr(base, "sigma_to_t"):
        return SigmaFamily(base)
    model = base.inner_model if isinstance(base.inner_model, StandIn) else shared.sd_model
    return TimestepFamily(base, alphas_of(model))


def plain_sampler(p: Any) -> Any:
    """One as the host makes it, whatever another extension may have put in the place of its `create_sampler`."""
    return made(sd_samplers.find_sampler_config(p.sampler_name), p.sd_model)


class NotLoaded(Exception):
    """What a sampler does can't be told before a model is loaded."""


def made(config: Any, sd_model: Any) -> Any:
    """A sampler for a model, or for what stands for one. Raises NotLoaded."""
    sampler = sampler_for(config, sd_model) if isinstance(sd_model, StandIn) else None
    if sampler is None:
        model = loaded() if isinstance(sd_model, StandIn) else sd_model
        if model is None:
            raise NotLoaded(config.name)
        sampler = config.constructor(model)
    sampler.config = config
    return sampler
