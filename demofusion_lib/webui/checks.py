"""What can't be done with the present model and sampler is refused before the first step, with what can."""

from __future__ import annotations

import math
from typing import Any

from modules import sd_samplers, shared

from ..core import SOLVERS, degenerate_step, is_stochastic
from ..params import BY_NAME, Params
from ..plan import LATENT_CHANNELS
from ..setting import SAME, SettingsError, quoted
from .choices import asking_in_phases, check_there
from .families import TimestepFamily, family_of, made, plain_sampler, solver_name
from .parts import is_flow, of_forge
from .schedules import AUTOMATIC

ADDED = ("AlterSampler",)
"""The classes of Forge's family for samplers that it adds, which make schedules of their own whatever solver they run."""
ALLOWED_MODELS = "allowed: SD 1.x, SD 2.x and SDXL checkpoints"
MAX_STEPS = 1000
"""As many as a model has timesteps."""


def check_model(sd_model: Any, given: bool = False) -> None:
    """given: whether it is to draw from a picture. Raises SettingsError."""
    if getattr(sd_model, "is_sd3", False) or getattr(sd_model, "latent_channels", LATENT_CHANNELS) != LATENT_CHANNELS:
        raise SettingsError(f"the model is Stable Diffusion 3, {ALLOWED_MODELS}")
    objects = of_forge(sd_model)
    if objects is not None and not (
        any(getattr(sd_model, name, False) for name in ("is_sd1", "is_sd2", "is_sdxl"))
        and getattr(objects.vae, "latent_channels", LATENT_CHANNELS) == LATENT_CHANNELS
    ):
        raise SettingsError(f"the model is a {type(sd_model).__name__}, {ALLOWED_MODELS}")
    if is_flow(sd_model):
        raise SettingsError(f"the model is a rectified flow, {ALLOWED_MODELS} that predict noise or v")
    told = _told_of_picture(sd_model) if given else ""
    if told:
        raise SettingsError(
            f"the model is {told}, allowed on img2img: checkpoints without conditions of the whole picture"
        )


def _told_of_picture(sd_model: Any) -> str:
    """What a model is called that is told of more of a picture than its mask, which would have to be made for each phase."""
    if getattr(sd_model, "cond_stage_key", None) == "edit":
        return "InstructPix2Pix"
    return "depth2img" if getattr(sd_model, "depth_model", None) is not None else ""


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
    """Raises SettingsError for samplers whose steps we don't know or that aren't there, or which steps and eta do not suit."""
    mistakes = _unknown_names(p, params) or [
        *_mistakes_of_base(p),
        *_mistakes_of_phases(asking_in_phases(p, params), params),
    ]
    if mistakes:
        raise SettingsError.of_all(mistakes)


def _unknown_names(p: Any, params: Params) -> list[SettingsError]:
    """The base image's sampler among them: what it evaluates is counted."""
    mistakes = []
    named = [("the sampler", p.sampler_name, "")]
    if params.phase_sampler != SAME:
        named.append(("phase_sampler", params.phase_sampler, f"{SAME}, "))
    for setting, name, also in named:
        config = sd_samplers.find_sampler_config(name)
        if config is None or not is_known(config, p.sd_model):
            known = [s.name for s in sd_samplers.all_samplers if is_known(s, p.sd_model)]
            told = f"{setting} is {quoted(name)}, allowed: {also}{', '.join(known)}"
            mistakes.append(SettingsError(told, setting if setting in BY_NAME else ""))
    try:
        check_there(BY_NAME["phase_scheduler"], params.phase_scheduler)
    except SettingsError as error:
        mistakes.append(error)
    return mistakes


def _mistakes_of_base(p: Any) -> list[SettingsError]:
    """What the host itself would stop at in the middle; in the phases it is made to do."""
    if p.steps > MAX_STEPS:
        return [SettingsError(f"steps is {p.steps}, allowed for the base image: 1 to {MAX_STEPS}")]
    if solver_name(plain_sampler(p)) != "unipc" or p.steps >= (order := shared.opts.uni_pc_order):
        return []
    return [SettingsError(f"steps is {p.steps}, allowed with UniPC: its order, {order}, or more")]


def _mistakes_of_phases(asked: Any, params: Params) -> list[SettingsError]:
    """asked: the host's processing object as the phases ask."""
    mistakes, name = [], asked.sampler_name
    sampler = plain_sampler(asked)
    solver, eta = solver_name(sampler), ancestral_eta(asked, sampler)
    if degenerate_step(solver, eta):
        mistakes.append(SettingsError(f"eta is {eta:g}, allowed with {name}: 0 to 1"))
    try:
        params.check_steps(asked.steps, solver, name)
    except SettingsError as error:
        mistakes.append(error)
    if params.phase_scheduler not in (SAME, AUTOMATIC) and isinstance(family_of(sampler), TimestepFamily):
        told = f"phase_scheduler is {quoted(params.phase_scheduler)}, allowed with {name}: {SAME}, {AUTOMATIC}"
        mistakes.append(SettingsError(f"{told}, as it has a schedule of its own", "phase_scheduler"))
    return mistakes


def is_known(config: Any, sd_model: Any) -> bool:
    if getattr(sd_model, "is_sdxl", False) and config.options.get("no_sdxl", False):
        return False
    sampler = made(config, sd_model)
    return solver_name(sampler) in SOLVERS and type(sampler).__name__ not in ADDED
