"""diffusers' schedulers by the samplers that draw alike: those that the phases of a borrowed pipeline take."""

from __future__ import annotations

from typing import Any

from .names import AUTOMATIC, SAMPLERS

ALIKE = {
    "EulerDiscreteScheduler": "Euler",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "HeunDiscreteScheduler": "Heun",
    "LMSDiscreteScheduler": "LMS",
    "KDPM2DiscreteScheduler": "DPM2",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSinglestepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "DEISMultistepScheduler": "DPM++ 2M",
    "DDIMScheduler": "DDIM",
    "PNDMScheduler": "DDIM",
    "DDPMScheduler": "Euler a",
    "UniPCMultistepScheduler": "UniPC",
    "LCMScheduler": "Euler",
    "TCDScheduler": "Euler",
}
"""By the class's name. PNDM's and DEIS's own steps, and those of few-step models, have no sampler here: DDIM, DPM++ 2M and
Euler go the same way through the same noise levels."""
SPACINGS = {"use_karras_sigmas": "Karras", "use_exponential_sigmas": "Exponential"}


def sampler_of(scheduler: Any) -> tuple[str, str] | None:
    """The sampler's and its noise schedule's names; None for a scheduler that none is like."""
    config, name = scheduler.config, ALIKE.get(type(scheduler).__name__)
    if name is None:
        return None
    if name == "DPM++ 2M" and str(config.get("algorithm_type", "")).startswith("sde-"):
        name = "DPM++ 3M SDE" if config.get("solver_order") == 3 else "DPM++ 2M SDE"
    if SAMPLERS[name].is_timestep:
        return name, AUTOMATIC
    return name, next((spacing for flag, spacing in SPACINGS.items() if config.get(flag)), "Uniform")
