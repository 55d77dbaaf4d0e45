"""What a run of the host is made of, before it begins."""

from __future__ import annotations

from typing import Any

from ..params import LATENT_PX, Params
from ..plan import Levels, Plan
from .checks import ancestral_eta
from .choices import asking, asking_in_phases
from .families import family_of, plain_sampler, solver_name
from .tiling import wraps


def latent_size(p: Any) -> tuple[int, int]:
    """`(height, width)` of the base image's latent."""
    return p.height // LATENT_PX, p.width // LATENT_PX


def plan_of(p: Any, settings: Params) -> Plan:
    """Of one batch. Each image counts as a prompt and a negative prompt; `AND`, NGMS and the like come to other rows."""
    solver, levels = sampling_of(asking(p))
    phase_solver, levels_of_phases = sampling_of(asking_in_phases(p, settings))
    return Plan(
        settings, latent_size(p), p.steps, solver, levels, images=p.batch_size, wrap=wraps(p),
        phase_solver=phase_solver, levels_of_phases=levels_of_phases,
    )  # fmt: skip


def sampling_of(asked: Any) -> tuple[str, Levels]:
    """The solver, and at which timesteps it evaluates, of the sampler that is asked for."""
    sampler = plain_sampler(asked)
    family, eta = family_of(sampler), ancestral_eta(asked, sampler)
    return solver_name(sampler), lambda steps, start: family.levels_t(sampler, asked, steps, eta, start)
