"""What the residual must know of a solver: which evaluations begin a step, and whether it adds noise of its own.

Solvers are named by their functions: k-diffusion's (`sample_heun`), and the host's own (`ddim`, `restart_sampler`).
The residual may enter at step starts only: at the midpoint evaluations of a multi-stage solver it would be undone by
the solver's own arithmetic, and take its order of convergence.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

SINGLE_STAGE = frozenset({
    "sample_euler", "sample_euler_ancestral", "sample_lms", "sample_dpmpp_2m", "sample_dpmpp_2m_sde",
    "sample_dpmpp_3m_sde", "sample_lcm", "ddim", "ddim_cfgpp", "unipc",
})  # fmt: skip
ANCESTRAL = frozenset({
    "sample_euler_ancestral", "sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde",
    "sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde", "sample_dpm_fast", "sample_dpm_adaptive", "ddim", "ddim_cfgpp",
})  # fmt: skip
CHURNED = frozenset({"sample_euler", "sample_heun", "sample_dpm_2"})
ALWAYS_STOCHASTIC = frozenset({"sample_lcm", "restart_sampler"})
CORRECTED = frozenset({"unipc"})
"""Solvers that recompute `x` after the evaluation, from the step before: their corrected `x` needs the pull as well."""

LEAST_STEPS = {"sample_dpm_fast": 4, "plms": 2, "sample_dpmpp_2m_sde": 2, "sample_dpmpp_3m_sde": 2}
"""In a phase. In fewer, DPM fast (2 or 3) and PLMS leave the picture in ruins, as their first step goes all the way by a
guess at its middle or end; k-diffusion's SDE solvers of several steps stop at their only one."""


def _every(steps: int) -> Iterator[bool]:
    return itertools.repeat(True)


def _two_stages(steps: int) -> Iterator[bool]:
    return itertools.cycle((True, False))


def _three_stages(steps: int) -> Iterator[bool]:
    return itertools.cycle((True, False, False))


def _plms(steps: int) -> Iterator[bool]:
    """Two evaluations in the first step, one in each further one."""
    return itertools.chain((True, False), itertools.repeat(True))


def _dpm_fast(steps: int) -> Iterator[bool]:
    """`steps` evaluations in steps of order 3 and a shorter end (DPM-Solver-fast, arXiv 2206.00927, section 3.4)."""
    whole = steps // 3 + 1
    orders = [3] * (whole - 2) + [2, 1] if steps % 3 == 0 else [3] * (whole - 1) + [steps % 3]
    return itertools.chain.from_iterable([True] + [False] * (order - 1) for order in orders)


_STARTS: dict[str, Callable[[int], Iterator[bool]]] = {
    **dict.fromkeys(SINGLE_STAGE, _every),
    **dict.fromkeys(
        (
            "sample_heun",
            "sample_dpm_2",
            "sample_dpm_2_ancestral",
            "sample_dpmpp_2s_ancestral",
            "sample_dpmpp_sde",
            "restart_sampler",
        ),
        _two_stages,
    ),
    "plms": _plms,
    "sample_dpm_fast": _dpm_fast,
    "sample_dpm_adaptive": _three_stages,
}

SOLVERS = frozenset(_STARTS)


def step_starts(solver: str, steps: int) -> Iterator[bool]:
    """For each evaluation in turn, whether it begins a step. Raises ValueError for an unknown solver."""
    if solver not in _STARTS:
        raise ValueError(f"solver is {solver!r}, allowed: {', '.join(sorted(_STARTS))}")
    return _STARTS[solver](steps)


def is_stochastic(solver: str, *, eta: float = 0.0, churn: float = 0.0) -> bool:
    """Whether the solver replaces some of the noise in `x` by noise of its own."""
    return solver in ALWAYS_STOCHASTIC or (solver in ANCESTRAL and eta != 0) or (solver in CHURNED and churn > 0)


def degenerate_step(solver: str, eta: float) -> bool:
    """Whether `eta` makes a two-stage ancestral solver skip its second stage, so that its evaluations can't be told apart.

    Above 1 the ancestral step can take all noise out of `x` before it adds its own, and then the solver takes a
    plain Euler step in the middle of the run.
    """
    return eta > 1 and solver in {"sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral"}


def first_sigma(solver: str, sigmas: Sequence[float], sigma_max: float) -> float:
    """The noise level a run begins at: of the schedule, or the model's own for the solvers that build theirs."""
    return sigma_max if solver in {"sample_dpm_fast", "sample_dpm_adaptive"} else sigmas[0]
