"""The host's noise schedules by name. A host from before 1.9, as Forge Classic is in part, has them as endings of its
samplers' names alone, each of which is a sampler of its own there."""

from __future__ import annotations

from typing import Any

from modules import sd_samplers

try:
    from modules import sd_schedulers
except ImportError:
    sd_schedulers = None

AUTOMATIC = "Automatic"


def schedulers() -> list[Any]:
    return [] if sd_schedulers is None else sd_schedulers.schedulers


def schedule_of(p: Any) -> str:
    return getattr(p, "scheduler", None) or AUTOMATIC


def label_of(schedule: str) -> str:
    """As infotexts have it, of its name or label."""
    return next((found.label for found in schedulers() if schedule in (found.name, found.label)), schedule)


def sampler_and_schedule(sampler: str | None, schedule: str | None) -> tuple[str, str]:
    """What the host makes of the names that it is given."""
    if sd_schedulers is None:
        return (sd_samplers.find_sampler_config(sampler) or sd_samplers.all_samplers[0]).name, AUTOMATIC
    name, label = sd_samplers.get_sampler_and_scheduler(sampler, schedule)
    return name, label
