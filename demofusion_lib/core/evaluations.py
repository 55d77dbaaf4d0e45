"""At which noise levels a solver evaluates the model, in order: so that a run's cost is known before it begins.

Solvers are named as in `solvers`. Second-order ones go from their last level to 0 in one plain step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from .solvers import SOLVERS

TYPICAL_ADAPTIVE_STEPS = 18
"""DPM adaptive takes as many as the picture asks for."""

Pairs = Iterator[tuple[float, float]]


def _pairs(sigmas: Sequence[float]) -> Pairs:
    """The steps of a schedule, each with where it ends."""
    return itertools.pairwise(sigmas)


def _between(high: float, low: float, share: float = 0.5) -> float:
    """A level between two, by their logarithms."""
    return math.exp(math.log(high) + share * (math.log(low) - math.log(high)))


def _heun(steps: Pairs, eta: float) -> Iterator[float]:
    for sigma, following in steps:
        yield sigma
        if following > 0:
            yield following


def _midpoint(steps: Pairs, eta: float) -> Iterator[float]:
    for sigma, following in steps:
        yield sigma
        if following > 0:
            yield _between(sigma, following)


def _ancestral_midpoint(steps: Pairs, eta: float) -> Iterator[float]:
    """Half-way to where the step goes before it adds noise of its own."""
    for sigma, following in steps:
        yield sigma
        down = _ancestral_down(torch.tensor(sigma), torch.tensor(following), eta)
        if down > 0:
            yield _between(sigma, down)


def _ancestral_down(sigma: torch.Tensor, following: torch.Tensor, eta: float) -> float:
    """In the solvers' own precision, as a steep step loses all of it: whether 0 is left decides on the second stage."""
    up = torch.minimum(following, eta * (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5)
    return float((following**2 - up**2) ** 0.5)


_TWO_STAGES: dict[str, Callable[[Pairs, float], Iterator[float]]] = {
    "sample_heun": _heun,
    "sample_dpm_2": _midpoint,
    "sample_dpmpp_sde": _midpoint,
    "sample_dpm_2_ancestral": _ancestral_midpoint,
    "sample_dpmpp_2s_ancestral": _ancestral_midpoint,
}


def _karras(steps: int, low: float, high: float) -> list[float]:
    """Levels by Karras et al. (arXiv 2206.00364, eq. 5, rho = 7), and 0."""
    ends = high ** (1 / 7), low ** (1 / 7)
    ramp = [i / max(steps - 1, 1) for i in range(steps)]
    return [(ends[0] + share * (ends[1] - ends[0])) ** 7 for share in ramp] + [0.0]


def _nearest(levels: Sequence[float], sigma: float) -> int:
    return min(range(len(levels)), key=lambda i: abs(levels[i] - sigma))


def _restart(sigmas: Sequence[float]) -> Pairs:
    """The steps that the webui's Restart takes (arXiv 2306.14878): from 20 on, some from sigma 2 to 0.1 once more."""
    steps = len(sigmas) - 1
    if steps < 20:
        yield from _pairs(sigmas)
        return
    again, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    sigmas = _karras(steps - again * times, sigmas[-2], sigmas[0])
    low = _nearest(sigmas, 0.1)
    high = _nearest(sigmas, 2.0)
    for i, step in enumerate(_pairs(sigmas), start=1):
        yield step
        if i == low and high < low:
            for _ in range(times):
                yield from _pairs(_karras(again + 1, sigmas[low], sigmas[high])[:-1])


def _dpm_fast(steps: int, low: float, high: float, eta: float) -> Iterator[float]:
    """Steps of order 3 and a shorter end, evenly spaced by the logarithm; within a step at thirds, or at its half.

    An ancestral step goes lower than it ends, but never below the lowest level.
    """
    whole = steps // 3 + 1
    orders = [3] * (whole - 2) + [2, 1] if steps % 3 == 0 else [3] * (whole - 1) + [steps % 3]
    for i, order in enumerate(orders):
        start, end = _between(high, low, i / whole), _between(high, low, (i + 1) / whole)
        down = max(low, _ancestral_down(torch.tensor(start), torch.tensor(end), eta))
        yield from (_between(start, down, stage / order) for stage in range(order))


def is_countable(solver: str) -> bool:
    """Whether the number of evaluations is known before the picture is."""
    return solver != "sample_dpm_adaptive"


def evaluated_sigmas(
    solver: str, sigmas: Sequence[float], ends: tuple[float, float], *, eta: float = 1.0
) -> list[float]:
    """The level of each evaluation on the schedule `sigmas`, falling, its last one 0.

    ends: the model's lowest and highest sigma, for the solvers that build a schedule of their own from them. eta: of an
    ancestral solver. Raises ValueError for an unknown solver, or one that steps in timesteps (see `evaluated_timesteps`).
    """
    if solver not in SOLVERS or solver in _TIMESTEPS:
        raise ValueError(f"solver is {solver!r}, allowed: {', '.join(sorted(SOLVERS - set(_TIMESTEPS)))}")
    levels = [float(sigma) for sigma in sigmas]
    if solver in _TWO_STAGES:
        return list(_TWO_STAGES[solver](_pairs(levels), eta))
    if solver == "restart_sampler":
        return list(_heun(_restart(levels), eta))
    if solver == "sample_dpm_fast":
        return list(_dpm_fast(len(levels) - 1, *ends, eta))
    if solver == "sample_dpm_adaptive":
        starts = [_between(ends[1], ends[0], i / TYPICAL_ADAPTIVE_STEPS) for i in range(TYPICAL_ADAPTIVE_STEPS)]
        return [sigma for sigma in starts for _ in range(3)]
    return levels[:-1]


def _plms(timesteps: list[float]) -> list[float]:
    return timesteps[:1] + timesteps[1:2] + timesteps[1:]


def _as_they_are(timesteps: list[float]) -> list[float]:
    return timesteps


_TIMESTEPS: dict[str, Callable[[list[float]], list[float]]] = {
    "ddim": _as_they_are,
    "ddim_cfgpp": _as_they_are,
    "unipc": _as_they_are,
    "plms": _plms,
}


def evaluated_timesteps(solver: str, timesteps: Sequence[float]) -> list[float]:
    """The same for the solvers that step in training timesteps, those of their steps falling.

    Raises ValueError for another solver.
    """
    if solver not in _TIMESTEPS:
        raise ValueError(f"solver is {solver!r}, allowed: {', '.join(sorted(_TIMESTEPS))}")
    return _TIMESTEPS[solver]([float(t) for t in timesteps])
