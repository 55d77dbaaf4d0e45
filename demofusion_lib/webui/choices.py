"""The samplers and schedulers that the host has, and which of them the phases are drawn with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modules import sd_samplers

from ..params import Params
from ..setting import SAME, Setting, SettingsError, quoted
from .schedules import AUTOMATIC, schedule_of, schedulers

SAMPLER, SCHEDULER = "phase_sampler", "phase_scheduler"


def scheduler_names() -> list[str]:
    return [scheduler.label for scheduler in schedulers()] or [AUTOMATIC]


def sampler_names() -> list[str]:
    return [config.name for config in sd_samplers.all_samplers]


THERE: dict[str, Callable[[], list[str]]] = {SAMPLER: sampler_names, SCHEDULER: scheduler_names}
OFFERED: dict[str, Callable[[], list[str]]] = {
    SAMPLER: lambda: list(sd_samplers.visible_sampler_names()),
    SCHEDULER: lambda: scheduler_names() if schedulers() else [],
}


def offered(setting: Setting) -> list[str]:
    """What a setting that names something of the host can be, as a page shows it: what the user has hidden is left out."""
    return [SAME, *OFFERED[setting.name]()]


def check_there(setting: Setting, name: str) -> None:
    """Raises SettingsError for the name of nothing that the host has, by an old name neither."""
    there = [SAME, *THERE[setting.name]()]
    if name not in there and not (setting.name == SAMPLER and in_two(name)):
        raise SettingsError(f"{setting.name} is {quoted(name)}, allowed: {', '.join(there)}", setting.name)


# Before 1.9 the host had schedulers as endings of samplers' names, `DPM++ 2M Karras`, and takes those still


def in_two(name: str) -> tuple[str, str] | None:
    """The sampler and the scheduler of such a name; None for any other."""
    if sd_samplers.find_sampler_config(name) is not None:
        return None
    for scheduler in schedulers():
        for ending in (scheduler.label, scheduler.name, *(scheduler.aliases or ())):
            sampler = name.removesuffix(f" {ending}")
            if sampler != name and sd_samplers.find_sampler_config(sampler) is not None:
                return sampler, scheduler.label
    return None


def todays_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a name of both sets of the settings: its scheduler counts before one by itself, as in the host. Where the host has
    names of both alone, two are one."""
    if not schedulers():
        both = f"{values[SAMPLER]} {values[SCHEDULER]}"
        return {} if sd_samplers.find_sampler_config(both) is None else {SAMPLER: both, SCHEDULER: SAME}
    found = in_two(values[SAMPLER])
    return dict(zip((SAMPLER, SCHEDULER), found)) if found else {}


def with_todays_names(params: Params) -> Params:
    return replace(params, **todays_names(vars(params)))


def readable(args: Sequence[Any]) -> tuple[Params, SettingsError | None]:
    """`Params.readable`, of this host's names."""
    params, error = Params.readable(args)
    return with_todays_names(params), error


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
    return params.in_phases(p.sampler_name, schedule_of(p))
