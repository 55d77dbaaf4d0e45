"""The phases once more from the core alone: no adapter, no guided denoiser of the host, its solver functions only.

Windows predict the network's raw output; its scalings are applied to the whole latent afterwards. Outputs being
linear in those, this must be what the adapter gets, which fuses the scaled outputs instead.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from k_diffusion import sampling
from k_diffusion.external import CompVisDenoiser, CompVisVDenoiser
from modules import sd_samplers_lcm, sd_samplers_timesteps_impl, shared
from modules.sd_samplers_common import TorchHijack

from demofusion_lib.core import (
    InLatent,
    PhaseEngine,
    PhaseFusion,
    Residual,
    SkipResidual,
    WindowGrid,
    centre_crop,
    climb,
    is_stochastic,
    step_generator,
    step_starts,
)

CFG = 3.0


class Sigmas:
    """The network in `x = x0 + sigma * noise`: what goes in, and `answer = skip * x + out * network`."""

    def __init__(self, model: Any):
        self.v = model.parameterization == "v"
        self.schedule = (CompVisVDenoiser if self.v else CompVisDenoiser)(model)

    def level(self, level: torch.Tensor) -> tuple[float, float, float]:
        return float(self.schedule.sigma_to_t(level)[0]), 1.0, float(level[0])

    def scalings(self, t: float, alpha: float, sigma: float) -> tuple[float, float, float]:
        size = math.sqrt(1 + sigma**2)
        return (1 / size, 1 / size**2, -sigma / size) if self.v else (1 / size, 1.0, -sigma)

    def shrunk(self, t: float, alpha: float, sigma: float, by: float) -> tuple[float, float, float]:
        """The level of a latent whose noise is a `by`th."""
        return self.level(torch.tensor([sigma / by]))


class Consistency(Sigmas):
    def __init__(self, model: Any):
        self.schedule = sd_samplers_lcm.LCMCompVisDenoiser(model)

    def scalings(self, t: float, alpha: float, sigma: float) -> tuple[float, float, float]:
        boundary_skip, boundary_out = 0.25 / (100 * t**2 + 0.25), 10 * t / math.sqrt(100 * t**2 + 0.25)
        return 1 / math.sqrt(1 + sigma**2), boundary_skip + boundary_out, -boundary_out * sigma


class Timesteps:
    """The network in `x = alpha * x0 + sigma * noise`, answering epsilon."""

    def __init__(self, model: Any):
        self.model = model

    def level(self, level: torch.Tensor) -> tuple[float, float, float]:
        alpha, sigma = self.model.alpha_sigma(level[:1])
        return float(level[0]), float(alpha), float(sigma)

    def scalings(self, t: float, alpha: float, sigma: float) -> tuple[float, float, float]:
        whole = float(self.model.alphas_cumprod[int(t)])
        return (1.0, math.sqrt(1 - whole), math.sqrt(whole)) if self.model.parameterization == "v" else (1.0, 0.0, 1.0)

    def shrunk(self, t: float, alpha: float, sigma: float, by: float) -> tuple[float, float, float]:
        sigmas = ((1 - self.model.alphas_cumprod) / self.model.alphas_cumprod).sqrt()
        return self.level((sigmas - sigma / alpha / by).abs().argmin()[None].float())


class Guided:
    """The fused denoiser with guidance, as a solver calls it."""

    def __init__(
        self, family: Any, model: Any, engine: PhaseEngine, texts: list[tuple[str, str]], wrap: bool,
        params: Any, before: torch.Tensor, base_lat: tuple[int, int],
    ):  # fmt: skip
        self.params, self.before, self.base_lat = params, before, base_lat
        self.cfg = params.phase_cfg or CFG
        self.family = family
        self.wrap = wrap
        self.model = model
        self.engine = engine
        self.texts = torch.stack([model.encode(pair[side]) for side in (0, 1) for pair in texts])
        self.inner_model = SimpleNamespace(inner_model=model)

    def __call__(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        t, alpha, sigma = self.family.level(level)
        self.engine.before(x, t, alpha, sigma)
        into, skip, out = self.family.scalings(t, alpha, sigma)

        def predict(patches, rows, views, layout):
            around = self.wrap and views[0].corner_lat is None
            self.model.convolution.padding_mode = "circular" if around else "zeros"
            return self.model.network(patches * into, torch.full((len(rows),), t), self.texts[list(rows)])

        images, guided = range(len(x)), t >= self.params.guidance_until
        if self.params.guidance == "windows" and guided:
            rows = torch.cat([x, x])
            raw = self.engine.fusion(rows, [*images, *images], t, 0.0, predict)
            cond, uncond = (skip * rows + out * raw).chunk(2)
            answer = uncond + self.cfg * (cond - uncond)
        else:
            answer = skip * x + out * self.engine.fusion(x, images, t, 0.0, predict)
        answer = self.denoised(x, answer, alpha, sigma)
        if self.params.guidance == "low-pass" and guided:
            answer = answer + (self.cfg - 1) * bicubic(self.low_difference(x, t, alpha, sigma), x)
        if self.params.residual == "x0" and self.params.skip_residual:
            weight = ((1 + math.cos(math.pi * (1 - t / 1000))) / 2) ** self.params.a1
            missing = self.before - F.adaptive_avg_pool2d(answer, self.before.shape[-2:])
            answer = answer + weight * bicubic(missing, x)
        return answer if alpha == 1 else (x - alpha * answer) / sigma

    def denoised(self, x: torch.Tensor, answer: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
        return answer if alpha == 1 else (x - sigma * answer) / alpha

    def low_difference(self, x: torch.Tensor, t: float, alpha: float, sigma: float) -> torch.Tensor:
        """Of prompt and negative prompt, at the base's size; for whole multiples of it."""
        by = x.shape[-1] / self.base_lat[1]
        assert by == x.shape[-2] / self.base_lat[0] == int(by)
        small = self.family.shrunk(t, alpha, sigma, by)
        q = F.avg_pool2d(x, int(by)).repeat(2, 1, 1, 1) / alpha * small[1]
        into, skip, out = self.family.scalings(*small)
        self.model.convolution.padding_mode = "circular" if self.wrap else "zeros"
        answer = skip * q + out * self.model.network(q * into, torch.full((len(q),), small[0]), self.texts)
        cond, uncond = self.denoised(q, answer, *small[1:]).chunk(2)
        return cond - uncond


def bicubic(latent: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return F.interpolate(latent, size=like.shape[-2:], mode="bicubic")


def solver_of(name: str) -> Any:
    solvers = {"sample_lcm": sd_samplers_lcm.sample_lcm}
    return solvers.get(name) or getattr(sampling, name, None) or getattr(sd_samplers_timesteps_impl, name)


def family_of(solver: str, model: Any) -> Any:
    if solver == "sample_lcm":
        return Consistency(model)
    return Sigmas(model) if solver.startswith("sample_") else Timesteps(model)


def draw(
    model: Any,
    base: torch.Tensor,
    params: Any,
    solver: str,
    seeds: list[int],
    texts: Any,
    steps: int,
    wrap: bool = False,
    **settings: float,
) -> Any:
    """Every phase's latent after the base latent, the last one last.

    texts: prompt and negative of each image. wrap: for a seamless picture. settings: of the solver function.
    """
    window = tuple(base.shape[-2:])
    base_lat, phases = params.phases(window)
    base = centre_crop(base, *base_lat)

    def denoise(phase, previous, before):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def fresh():
            return torch.stack([torch.randn(previous.shape[1:], generator=g) for g in generators])

        noise = fresh()
        family = family_of(solver, model)
        residual = Residual(previous, noise) if params.residual == "x0" else SkipResidual(
            previous, noise, params.weights,
            normalise=params.step_normalised, stochastic=is_stochastic(solver, eta=settings.get("eta", 0.0), churn=settings.get("s_churn", 0.0)),
        )  # fmt: skip
        grid = WindowGrid(phase.height_lat, phase.width_lat, window, params.overlap, params.jitter, params.border, wrap)
        fusion = PhaseFusion(
            phase, grid, params.weights, blur=params.blur, batch=64, wrap=wrap, window_weight=params.window_weight
        )
        engine = PhaseEngine(
            residual, fusion, step_starts(solver, steps),
            lambda step: [step_generator(seed, phase.number, step) for seed in seeds],
        )  # fmt: skip
        guided = Guided(family, model, engine, texts, wrap, params, before, base_lat)
        sampling.torch = TorchHijack(SimpleNamespace(rng=SimpleNamespace(next=fresh)))
        return solve(guided, family, residual, solver, steps, settings, params.start)

    with torch.no_grad():
        enlarge = through_pixels if params.enlarge == "pixels" else InLatent(wrap)
        return [latent for _, latent in climb(base, phases, denoise, enlarge=enlarge)]


def through_pixels(latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
    """By the tiny model's flat squares: their means are cells again, of three channels."""
    squares = latent[:, :3].div(4).clamp(-1, 1).repeat_interleave(8, -1).repeat_interleave(8, -2)
    larger = F.interpolate(squares, size=(8 * height_lat, 8 * width_lat), mode="bicubic").clamp(-1, 1)
    return F.pad(F.avg_pool2d(larger, 8).mul(4), (0, 0, 0, 0, 0, 1))


def solve(
    guided: Guided, family: Any, residual: Residual, solver: str, steps: int, settings: Any, start: int
) -> torch.Tensor:
    function = solver_of(solver)
    if start < 1000:
        return solve_late(guided, family, residual, solver, steps, settings, start)
    if isinstance(family, Timesteps):
        timesteps = (torch.arange(0, 1000, 1000 // steps) + 1).clamp(max=999)
        first = 999 if solver == "unipc" else int(timesteps[-1])
        _, alpha, sigma = family.level(torch.tensor([first]))
        correct = (lambda info: guided.engine.corrected(info["x"])) if solver == "unipc" else None
        return function(guided, residual.noised(alpha, sigma), timesteps, callback=correct, **settings)
    sigmas = family.schedule.get_sigmas(steps)
    return function(guided, residual.noised(1.0, float(sigmas[0])), sigmas, disable=True, **settings)


def solve_late(
    guided: Guided, family: Any, residual: Residual, solver: str, steps: int, settings: Any, start: int
) -> torch.Tensor:
    """In even steps of the timestep from `start` down."""
    shared.opts.uni_pc_order = min(3, steps)  # as with the host's UniPC fewer steps can't be had
    function, even = solver_of(solver), [start * (1 - i / steps) for i in range(steps)]
    if isinstance(family, Timesteps):
        timesteps = torch.tensor([1, *(round(t) for t in reversed(even))])
        _, alpha, sigma = family.level(timesteps[-1:])
        if solver == "unipc":
            settings = {**settings, "is_img2img": True}
            timesteps = timesteps[1:]
        correct = (lambda info: guided.engine.corrected(info["x"])) if solver == "unipc" else None
        return function(guided, residual.noised(alpha, sigma), timesteps, callback=correct, **settings)
    levels = [float(family.schedule.t_to_sigma(torch.tensor(t))) for t in even]
    if isinstance(family, Consistency):  # evenly between those of its fifty timesteps that are nearest to the ends
        high, low = (float(family.schedule.sigma_to_t(torch.tensor(levels[i]))) for i in (0, -1))
        inner = torch.linspace(high, low, steps).tolist()[1:]
        levels[1:] = [float(family.schedule.t_to_sigma(torch.tensor(t))) for t in inner]
    sigmas = torch.tensor([*levels, 0.0])
    return function(guided, residual.noised(1.0, float(sigmas[0])), sigmas, disable=True, **settings)
