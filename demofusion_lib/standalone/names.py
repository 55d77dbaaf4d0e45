"""What can be named on the command line, known without torch: a mistake, or `--help`, is answered before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..params import Params
from ..setting import SAME, quoted
from .errors import UserError

DTYPES = ("float32", "float16", "bfloat16")
AUTO = "auto"
HINTS = ("smooth", "lines", "labels")
"""As `hints` has them, which needs torch."""
V_PREDICTION = "v_prediction"
PREDICTIONS = ("epsilon", V_PREDICTION, "sample")
AUTOMATIC = "Automatic"
SCHEDULERS = (AUTOMATIC, "Uniform", "Karras", "Exponential", "Polyexponential")
ETA = 1.0


@dataclass(frozen=True)
class Sampler:
    """`solver` is the core's name for it; `scheduler` what Automatic means."""

    name: str
    solver: str
    scheduler: str = "Uniform"

    @property
    def is_timestep(self) -> bool:
        """Whether it steps in the variance-preserving scale on a schedule of its own."""
        return self.solver in ("ddim", "unipc")

    @property
    def stochastic(self) -> bool:
        from ..core import is_stochastic

        return is_stochastic(self.solver, eta=0.0 if self.is_timestep else ETA)


SAMPLERS = {
    sampler.name: sampler
    for sampler in (
        Sampler("DPM++ 2M", "sample_dpmpp_2m", "Karras"),
        Sampler("DPM++ SDE", "sample_dpmpp_sde", "Karras"),
        Sampler("DPM++ 2M SDE", "sample_dpmpp_2m_sde", "Exponential"),
        Sampler("DPM++ 3M SDE", "sample_dpmpp_3m_sde", "Exponential"),
        Sampler("DPM++ 2S a", "sample_dpmpp_2s_ancestral", "Karras"),
        Sampler("Euler a", "sample_euler_ancestral"),
        Sampler("Euler", "sample_euler"),
        Sampler("LMS", "sample_lms"),
        Sampler("Heun", "sample_heun"),
        Sampler("DPM2", "sample_dpm_2", "Karras"),
        Sampler("DPM2 a", "sample_dpm_2_ancestral", "Karras"),
        Sampler("DPM fast", "sample_dpm_fast"),
        Sampler("DPM adaptive", "sample_dpm_adaptive"),
        Sampler("DDIM", "ddim"),
        Sampler("UniPC", "unipc"),
    )
}


def find_sampler(name: str, scheduler: str = AUTOMATIC) -> tuple[Sampler, str]:
    """Also by the old names with the scheduler behind: `DPM++ 2M Karras`. Raises UserError for an unknown one."""
    return _found(*_split(name, scheduler))


def find_phase_sampler(params: Params, name: str, scheduler: str = AUTOMATIC) -> tuple[Sampler, str]:
    """The phases', beside those of the base image, by old names too. Raises UserError for an unknown one."""
    params = with_todays_names(params)
    name, scheduler = params.in_phases(*_split(name, scheduler))
    is_base = params.phase_scheduler == SAME
    if is_base and name in SAMPLERS and SAMPLERS[name].is_timestep:
        scheduler = AUTOMATIC  # what the base image's is says nothing to one that has its own
    return _found(name, scheduler, "phase_", (SAME,))


def with_todays_names(params: Params) -> Params:
    """The phases' sampler and scheduler as two, where the old name of both was given."""
    sampler, scheduler = _split(params.phase_sampler, params.phase_scheduler)
    return replace(params, phase_sampler=sampler, phase_scheduler=scheduler)


def is_sampler(name: str) -> bool:
    return _split(name, AUTOMATIC)[0] in SAMPLERS


def _split(name: str, scheduler: str) -> tuple[str, str]:
    for ending in SCHEDULERS[2:]:
        if name.endswith(f" {ending}") and scheduler in (AUTOMATIC, SAME, ending):
            return name.removesuffix(f" {ending}"), ending
    return name, scheduler


def _found(name: str, scheduler: str, of: str = "", also: tuple[str, ...] = ()) -> tuple[Sampler, str]:
    """of, also: what stands before the settings' names, and what is allowed beside the samplers and schedulers."""
    if name not in SAMPLERS:
        raise UserError(f"{of}sampler is {quoted(name)}, allowed: {', '.join((*also, *SAMPLERS))}")
    sampler = SAMPLERS[name]
    if scheduler not in SCHEDULERS:
        raise UserError(f"{of}scheduler is {quoted(scheduler)}, allowed: {', '.join((*also, *SCHEDULERS))}")
    if sampler.is_timestep and scheduler not in (AUTOMATIC, "Uniform"):
        allowed = ", ".join((*also, AUTOMATIC))
        raise UserError(f"{of}scheduler is {quoted(scheduler)}, allowed with {name}: {allowed}")
    return sampler, sampler.scheduler if scheduler == AUTOMATIC else scheduler
