"""The samplers and schedulers that the host has, and which of them the phases are drawn with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from modules import sd_samplers, sd_schedulers

from ..params import SAME, Params, Setting

AUTOMATIC = "Automatic"


def scheduler_names() -> list[str]:
    return [scheduler.label for scheduler in sd_schedulers.schedulers]


OFFERED: dict[str, Callable[[], list[str]]] = {
    "phase_sampler": lambda: list(sd_samplers.visible_sampler_names()),
    "phase_scheduler": scheduler_names,
}


def offered(setting: Setting) -> list[str]:
    """What a setting that names something of the host can be, as a page shows it: what the user has hidden is left out."""
    return [SAME, *OFFERED[setting.name]()]


def asking(p: Any) -> Any:
    """A copy of `p` to ask for a schedule, which tells of itself in the infotext when it is made."""
    asked = copy.copy(p)
    asked.extra_generation_params = {}
    return asked


def asking_in_phases(p: Any, params: Params) -> Any:
    """The same, as the phases ask."""
    asked = asking(p)
    asked.sampler_name, asked.scheduler = names_in_phases(p, params)
    return asked


def names_in_phases(p: Any, params: Params) -> tuple[str, str]:
    """Of the phases' sampler and scheduler, where `p` has those of the base image."""
    return params.in_phases(p.sampler_name, p.scheduler or AUTOMATIC)
