"""The webui's samplers, each from the paper that describes it, over `denoise(x, sigma) -> denoised` with `x = x0 + sigma * noise`.

Named as k-diffusion names them, whose answers they give (tests/standalone/test_solving.py). `x` is handed to `denoise` as the
sampler's own tensor, which may be changed in place: every step goes on from it as it is then. `sigmas` fall, the last of them 0.
`noise(sigma, following)` is of unit deviation and of `x`'s shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

Denoise = Callable[[torch.Tensor, float], torch.Tensor]
Noise = Callable[[float, float], torch.Tensor]
ORDER = 4
"""Of the linear multistep method."""
RTOL, ATOL, FIRST_STEP, SAFETY = 0.05, 0.0078, 0.05, 0.81
"""Of the adaptive solver."""
NEAR = 1e-5
"""In the logarithm of sigma: how close to its end an adaptive run is done."""


@dataclass(frozen=True)
class Run:
    """What a solver is given. ends: the lowest and highest sigma, for those that make their own steps, `steps` of them.

    eta: how much of each step's noise is new in the ancestral and stochastic solvers, 0 to 1.
    """

    denoise: Denoise
    sigmas: Sequence[float]
    ends: tuple[float, float]
    steps: int
    noise: Noise
    eta: float = 1.0

    def pairs(self) -> Iterator[tuple[float, float]]:
        return pairwise(self.sigmas)

    def slope(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """`dx / dsigma` of the probability flow (arXiv 2206.00364, eq. 3): the network's noise."""
        return (x - self.denoise(x, sigma)) / sigma


def ancestral(sigma: float, following: float, eta: float) -> tuple[float, float]:
    """Where a step goes down to, and how much new noise takes it to `following` again.

    In single precision, in which it is decided whether a steep step leaves anything to go down to (`core.evaluations`).
    """
    high, low = torch.tensor(sigma), torch.tensor(following)
    up = torch.minimum(low, eta * (low**2 * (high**2 - low**2) / high**2) ** 0.5)
    return float((low**2 - up**2) ** 0.5), float(up)


def sample_euler(run: Run, x: torch.Tensor) -> torch.Tensor:
    """arXiv 2206.00364, algorithm 1 without its correction."""
    for sigma, following in run.pairs():
        x = x.add(run.slope(x, sigma), alpha=following - sigma)
    return x


def sample_euler_ancestral(run: Run, x: torch.Tensor) -> torch.Tensor:
    for sigma, following in run.pairs():
        down, up = ancestral(sigma, following, run.eta)
        x = x.add(run.slope(x, sigma), alpha=down - sigma)
        if following > 0:
            x = x.add(run.noise(sigma, following), alpha=up)
    return x


def sample_heun(run: Run, x: torch.Tensor) -> torch.Tensor:
    """arXiv 2206.00364, algorithm 1."""
    for sigma, following in run.pairs():
        slope = run.slope(x, sigma)
        ahead = x.add(slope, alpha=following - sigma)
        if following > 0:
            ahead = x.add(slope + run.slope(ahead, following), alpha=(following - sigma) / 2)
        x = ahead
    return x


def sample_dpm_2(run: Run, x: torch.Tensor) -> torch.Tensor:
    """By the slope at the middle, of the logarithms (arXiv 2206.00927, DPM-Solver-2)."""
    for sigma, following in run.pairs():
        x = _by_the_middle(run, x, sigma, following)
    return x


def sample_dpm_2_ancestral(run: Run, x: torch.Tensor) -> torch.Tensor:
    for sigma, following in run.pairs():
        down, up = ancestral(sigma, following, run.eta)
        x = _by_the_middle(run, x, sigma, down)
        if down > 0:
            x = x.add(run.noise(sigma, following), alpha=up)
    return x


def _by_the_middle(run: Run, x: torch.Tensor, sigma: float, following: float) -> torch.Tensor:
    slope = run.slope(x, sigma)
    if following > 0:
        middle = math.sqrt(sigma * following)
        slope = run.slope(x.add(slope, alpha=middle - sigma), middle)
    return x.add(slope, alpha=following - sigma)


def sample_lms(run: Run, x: torch.Tensor) -> torch.Tensor:
    """The polynomial through the last slopes, integrated (Adams-Bashforth at uneven steps)."""
    slopes: list[torch.Tensor] = []
    for i, (sigma, following) in enumerate(run.pairs()):
        slopes = [run.slope(x, sigma), *slopes][:ORDER]
        knots = [run.sigmas[i - back] for back in range(len(slopes))]
        for number, slope in enumerate(slopes):
            x = x.add(slope, alpha=_integral(knots, number, sigma, following))
    return x


def _integral(knots: Sequence[float], number: int, start: float, end: float) -> float:
    """Of the Lagrange polynomial that is 1 at one knot and 0 at the others: exact, as its antiderivative is known."""
    polynomial = [1.0]
    for other, knot in enumerate(knots):
        if other != number:
            gap = knots[number] - knot
            longer = [*polynomial, 0.0]
            shifted = [0.0, *polynomial]
            polynomial = [(a - knot * b) / gap for a, b in zip(shifted, longer)]
    return sum(
        factor / (power + 1) * (end ** (power + 1) - start ** (power + 1)) for power, factor in enumerate(polynomial)
    )


def sample_dpmpp_2m(run: Run, x: torch.Tensor) -> torch.Tensor:
    """DPM-Solver++(2M), arXiv 2211.01095, algorithm 2."""
    before: torch.Tensor | None = None
    last = 0.0
    for sigma, following in run.pairs():
        denoised = run.denoise(x, sigma)
        if following == 0:
            return denoised
        h = math.log(sigma / following)
        straight = denoised
        if before is not None:
            straight = denoised.add(denoised - before, alpha=h / (2 * last))
        x = _towards(x, straight, sigma, following)
        before, last = denoised, h
    return x


def sample_dpmpp_2s_ancestral(run: Run, x: torch.Tensor) -> torch.Tensor:
    """DPM-Solver++(2S), arXiv 2211.01095, algorithm 1, in ancestral steps."""
    for sigma, following in run.pairs():
        down, up = ancestral(sigma, following, run.eta)
        denoised = run.denoise(x, sigma)
        if down > 0:
            middle = math.sqrt(sigma * down)
            denoised = run.denoise(_towards(x, denoised, sigma, middle), middle)
        x = _towards(x, denoised, sigma, down)
        if following > 0:
            x = x.add(run.noise(sigma, following), alpha=up)
    return x


def _towards(x: torch.Tensor, denoised: torch.Tensor, sigma: float, following: float) -> torch.Tensor:
    """The exact step of a prediction that stays as it is."""
    share = following / sigma
    return x.mul(share).add_(denoised, alpha=1 - share)


def sample_dpmpp_sde(run: Run, x: torch.Tensor) -> torch.Tensor:
    """DPM-Solver++ of two stages, each with noise of its own from one Brownian path (arXiv 2211.01095, section 5)."""
    for sigma, following in run.pairs():
        denoised = run.denoise(x, sigma)
        if following == 0:
            return denoised
        middle = math.sqrt(sigma * following)
        down, up = ancestral(sigma, middle, run.eta)
        ahead = _towards(x, denoised, sigma, down).add_(run.noise(sigma, middle), alpha=up)
        denoised = run.denoise(ahead, middle)
        down, up = ancestral(sigma, following, run.eta)
        x = _towards(x, denoised, sigma, down).add_(run.noise(sigma, following), alpha=up)
    return x


def sample_dpmpp_2m_sde(run: Run, x: torch.Tensor) -> torch.Tensor:
    """SDE-DPM-Solver++(2M), arXiv 2211.01095, appendix, by the midpoint."""
    before: torch.Tensor | None = None
    last = 0.0
    for sigma, following in run.pairs():
        denoised = run.denoise(x, sigma)
        if following == 0:
            return denoised
        h = math.log(sigma / following)
        weight = -math.expm1(-h * (1 + run.eta))
        x = x.mul(1 - weight).add_(denoised, alpha=weight)
        if before is not None:
            x = x.add(denoised - before, alpha=weight * h / (2 * last))
        x = _noised(run, x, sigma, following, h)
        before, last = denoised, h
    return x


def sample_dpmpp_3m_sde(run: Run, x: torch.Tensor) -> torch.Tensor:
    """The same with a parabola through the last three predictions."""
    known: list[tuple[torch.Tensor, float]] = []  # the predictions before, the latest first, and the step behind each
    for sigma, following in run.pairs():
        denoised = run.denoise(x, sigma)
        if following == 0:
            return denoised
        h = math.log(sigma / following)
        decay = h * (1 + run.eta)
        x = x.mul(math.exp(-decay)).sub_(denoised, alpha=math.expm1(-decay))
        linear = math.expm1(-decay) / decay + 1
        if known:
            before, step = known[0]
            first = denoised.sub(before).mul_(h / step)
            if len(known) > 1:
                older, step_before = known[1]
                second = before.sub(older).mul_(h / step_before)
                r, r_before = step / h, step_before / h
                bend = (first - second) / (r + r_before)
                first = first.add(bend, alpha=r)
                x = x.sub(bend, alpha=linear / decay - 0.5)
            x = x.add(first, alpha=linear)
        x = _noised(run, x, sigma, following, h)
        known = [(denoised, h), *known][:2]
    return x


def _noised(run: Run, x: torch.Tensor, sigma: float, following: float, h: float) -> torch.Tensor:
    if run.eta == 0:
        return x
    return x.add(run.noise(sigma, following), alpha=following * math.sqrt(-math.expm1(-2 * run.eta * h)))


class Exponential:
    """DPM-Solver's steps of order 1 to 3 in `t = -log(sigma)` (arXiv 2206.00927, section 3.3), from one evaluation at `t`."""

    def __init__(self, run: Run, x: torch.Tensor, t: float):
        self.run, self.x, self.t = run, x, t
        self.eps = run.slope(x, math.exp(-t))
        self.seen: dict[float, torch.Tensor] = {}

    def first(self, end: float) -> torch.Tensor:
        return self._moved(end, end - self.t, self.eps)

    def second(self, end: float, r: float = 0.5) -> torch.Tensor:
        h = end - self.t
        return self.first(end).sub_(self._at(r, h), alpha=math.exp(-end) / (2 * r) * math.expm1(h))

    def third(self, end: float) -> torch.Tensor:
        h, r, s = end - self.t, 1 / 3, 2 / 3
        middle = self.t + s * h
        weight = math.exp(-middle) * s / r * (math.expm1(s * h) / (s * h) - 1)
        ahead = self._moved(middle, s * h, self.eps).sub_(self._at(r, h), alpha=weight)
        bend = self.run.slope(ahead, math.exp(-middle)) - self.eps
        return self.first(end).sub_(bend, alpha=math.exp(-end) / s * (math.expm1(h) / h - 1))

    def _moved(self, end: float, h: float, eps: torch.Tensor) -> torch.Tensor:
        return self.x.sub(eps, alpha=math.exp(-end) * math.expm1(h))

    def _at(self, r: float, h: float) -> torch.Tensor:
        """How far the slope there differs, asked once."""
        if r not in self.seen:
            middle = self.t + r * h
            self.seen[r] = self.run.slope(self._moved(middle, r * h, self.eps), math.exp(-middle)) - self.eps
        return self.seen[r]


def _lower(run: Run, t: float, end: float) -> tuple[float, float]:
    """Where an ancestral step of those solvers goes, never beyond the lowest level, and how much new noise it takes then."""
    if run.eta == 0:
        return end, 0.0
    down, _ = ancestral(math.exp(-t), math.exp(-end), run.eta)
    lowest = -math.log(run.ends[0])
    lower = min(lowest, -math.log(down) if down > 0 else math.inf)
    return lower, math.sqrt(max(0.0, math.exp(-2 * end) - math.exp(-2 * lower)))


def sample_dpm_fast(run: Run, x: torch.Tensor) -> torch.Tensor:
    """DPM-Solver-fast: `steps` evaluations in all, as many as go in steps of order 3 (arXiv 2206.00927, section 3.4)."""
    start, lowest = (-math.log(sigma) for sigma in reversed(run.ends))
    whole = run.steps // 3 + 1
    orders = [3] * (whole - 2) + [2, 1] if run.steps % 3 == 0 else [3] * (whole - 1) + [run.steps % 3]
    times = [start + (lowest - start) * i / whole for i in range(whole + 1)]
    for order, (t, end) in zip(orders, pairwise(times)):
        lower, up = _lower(run, t, end)
        step = Exponential(run, x, t)
        x = (step.first, step.second, step.third)[order - 1](lower)
        if up > 0:
            x = x.add(run.noise(math.exp(-t), math.exp(-end)), alpha=up)
    return x


def sample_dpm_adaptive(run: Run, x: torch.Tensor) -> torch.Tensor:
    """DPM-Solver-23: steps as long as the orders 2 and 3 agree (arXiv 2206.00927, appendix C)."""
    t, lowest = (-math.log(sigma) for sigma in reversed(run.ends))
    h, before, order = FIRST_STEP, x, 1.5 if run.eta else 3
    while t < lowest - NEAR:
        end = min(lowest, t + h)
        lower, up = _lower(run, t, end)
        step = Exponential(run, x, t)
        low, high = step.second(lower, 1 / 3), step.third(lower)
        allowed = torch.maximum(low.abs(), before.abs()).mul(RTOL).clamp(min=ATOL)
        error = float(((low - high) / allowed).square().mean().sqrt())
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / order) - 1)
        h *= factor
        if factor >= SAFETY:
            before, x = low, high
            if up > 0:
                x = x.add(run.noise(math.exp(-t), math.exp(-end)), alpha=up)
            t = end
    return x


SOLVERS: dict[str, Callable[[Run, torch.Tensor], torch.Tensor]] = {
    function.__name__: function
    for function in (
        sample_euler, sample_euler_ancestral, sample_heun, sample_dpm_2, sample_dpm_2_ancestral, sample_lms, sample_dpmpp_2m,
        sample_dpmpp_2s_ancestral, sample_dpmpp_sde, sample_dpmpp_2m_sde, sample_dpmpp_3m_sde, sample_dpm_fast,
        sample_dpm_adaptive,
    )
}  # fmt: skip


def karras(steps: int, low: float, high: float) -> torch.Tensor:
    """Noise levels by arXiv 2206.00364, eq. 5, with rho 7; float32 `(steps + 1,)`, the last of them 0."""
    ends = high ** (1 / 7), low ** (1 / 7)
    return _levels(_ramp(steps).mul(ends[1] - ends[0]).add(ends[0]) ** 7)


def exponential(steps: int, low: float, high: float) -> torch.Tensor:
    """Even in their logarithms."""
    return _levels(_ramp(steps).mul(math.log(low / high)).exp().mul(high))


def _ramp(steps: int) -> torch.Tensor:
    return torch.linspace(0, 1, steps, dtype=torch.float64)


def _levels(sigmas: torch.Tensor) -> torch.Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float()
