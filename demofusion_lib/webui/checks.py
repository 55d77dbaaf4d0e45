"""What can't be done with the present model and sampler is refused before the first step, with what can."""

from __future__ import annotations

import math
from typing import Any

from modules import sd_samplers, shared

from ..core import SOLVERS, degenerate_step, is_stochastic
from ..params import Params, SettingsError, quoted
from .families import plain_sampler, solver_name


def check_model(sd_model: Any) -> None:
    if getattr(sd_model, "is_sd3", False) or getattr(sd_model, "latent_channels", 4) != 4:
        raise SettingsError("the model is Stable Diffusion 3, allowed: SD 1.x, SD 2.x and SDXL checkpoints")


def ancestral_eta(p: Any, sampler: Any) -> float:
    """The eta that the host will use, found as its `Sampler.initialize` does."""
    eta = p.eta if p.eta is not None else getattr(shared.opts, sampler.eta_option_field, 0.0)
    return float(eta or 0.0)


SIGMA_OPTIONS = {"s_churn": 0.0, "s_noise": 1.0, "s_tmax": math.inf, "s_tmin": 0.0}
"""Options of the host that a request may give too, with the samplers' own defaults."""


def sigma_option(p: Any, name: str) -> float:
    """What the samplers take: the host's option, unless that is their default; then the request's."""
    option = getattr(shared.opts, name, SIGMA_OPTIONS[name])
    if name == "s_tmax":
        option = option or math.inf
    asked = getattr(p, name, None)
    return float(SIGMA_OPTIONS[name] if asked is None else asked) if option == SIGMA_OPTIONS[name] else float(option)


def sampler_is_stochastic(p: Any, sampler: Any) -> bool:
    return is_stochastic(solver_name(sampler), eta=ancestral_eta(p, sampler), churn=sigma_option(p, "s_churn"))


def check_sampler(p: Any, params: Params) -> None:
    """Raises SettingsError for a sampler whose steps we don't know, or which these steps and eta do not suit."""
    sampler = plain_sampler(p)
    solver = solver_name(sampler)
    steps = params.steps or p.steps
    if solver not in SOLVERS:
        known = [s.name for s in sd_samplers.all_samplers if is_known(s, p.sd_model)]
        raise SettingsError(f"the sampler is {quoted(p.sampler_name)}, allowed: {', '.join(known)}")
    mistakes = []
    if degenerate_step(solver, ancestral_eta(p, sampler)):
        mistakes.append(SettingsError(f"eta is {ancestral_eta(p, sampler):g}, allowed with {p.sampler_name}: 0 to 1"))
    if solver == "unipc" and steps < shared.opts.uni_pc_order:
        order = shared.opts.uni_pc_order
        mistakes.append(SettingsError(f"steps is {steps}, allowed with UniPC: its order, {order}, or more"))
    if mistakes:
        raise SettingsError.of_all(mistakes)


def is_known(config: Any, sd_model: Any) -> bool:
    return solver_name(config.constructor(sd_model)) in SOLVERS
