"""The samplers and schedulers that the host has, and which of them the phases are drawn with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from modules import sd_samplers, sd_schedulers

from ..params import SAME, Params, Setting, SettingsError, quoted

AUTOMATIC = "Automatic"


def scheduler_names() -> list[str]:
    return [scheduler.label for scheduler in sd_schedulers.schedulers]


def sampler_names() -> list[str]:
    return [config.name for config in sd_samplers.all_samplers]


THERE: dict[str, Callable[[], list[str]]] = {"phase_sampler": sampler_names, "phase_scheduler": scheduler_names}
OFFERED: dict[str, Callable[[], list[str]]] = {
    "phase_sampler": lambda: list(sd_samplers.visible_sampler_names()),
    "phase_scheduler": scheduler_names,
}


def offered(setting: Setting) -> list[str]:
    """What a setting that names something of the host can be, as a page shows it: what the user has hidden is left out."""
    return [SAME, *OFFERED[setting.name]()]


def check_there(setting: Setting, name: str) -> None:
    """Raises SettingsError for the name of nothing that the host has."""
    there = [SAME, *THERE[setting.name]()]
    if name not in there:
        raise SettingsError(f"{setting.name} is {quoted(name)}, allowed: {', '.join(there)}", setting.name)


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
