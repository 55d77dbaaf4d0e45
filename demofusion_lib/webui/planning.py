"""What a run of the host is made of, before it begins."""

from __future__ import annotations

import copy
from typing import Any

from ..params import LATENT_PX, Params
from ..plan import Plan
from .checks import ancestral_eta
from .families import family_of, plain_sampler, solver_name
from .tiling import wraps


def latent_size(p: Any) -> tuple[int, int]:
    """`(height, width)` of the base image's latent."""
    return p.height // LATENT_PX, p.width // LATENT_PX


def plan_of(p: Any, settings: Params) -> Plan:
    """Of one batch. Each image counts as a prompt and a negative prompt; `AND`, NGMS and the like come to other rows."""
    asked = copy.copy(p)
    asked.extra_generation_params = {}  # a schedule tells of itself there when it is made
    sampler = plain_sampler(p)
    family, eta = family_of(sampler), ancestral_eta(p, sampler)
    return Plan(
        settings, latent_size(p), p.steps, solver_name(sampler), lambda n, start: family.levels_t(sampler, asked, n, eta, start),
        images=p.batch_size, wrap=wraps(p),
    )  # fmt: skip
