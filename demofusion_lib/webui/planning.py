"""What a run of the host is made of, before it begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..core import Phase
from ..params import Params, named
from ..plan import Levels, Plan
from ..setting import SettingsError
from ..targets import LATENT_PX, heeding_base
from . import starting
from .borrowing import first_is_alone
from .checks import ancestral_eta
from .choices import asking, asking_in_phases, readable
from .families import family_of, is_guided, plain_sampler, solver_name
from .hosts import is_forge
from .options import MAX_SIDE, check_side
from .tiling import wraps


def latent_size(p: Any) -> tuple[int, int]:
    """`(height, width)` of the base image's latent."""
    return p.height // LATENT_PX, p.width // LATENT_PX


def reach(p: Any, settings: Params) -> tuple[tuple[int, int], list[Phase]]:
    """`Plan.climb`, as far as this webui draws. Raises SettingsError."""
    if starting.is_given(p):
        start = starting.start_of(p, settings)
        window_lat, phases = starting.reach(start)
        if start.masked:
            height_lat, width_lat = start.result_lat
            check_side(settings, start.whole_lat, [Phase(1, 1, 1.0, height_lat, width_lat, 1)])
        else:
            check_side(start.settings, start.picture_lat, phases)
        return window_lat, phases
    base_lat, phases = settings.phases(latent_size(p))
    check_side(settings, latent_size(p), phases)
    return base_lat, phases


def draws(p: Any, settings: Params, phases: Sequence[Phase]) -> bool:
    """Whether there is anything to draw: what is small behind a mask may take phase 1 alone."""
    return bool(phases) or (starting.is_given(p) and starting.start_of(p, settings).masked)


def settings_of(args: Sequence[Any], p: Any) -> Params:
    """Of the page's or the API's arguments. Raises one SettingsError of all that is wrong with them and with what they reach
    from the base image or picture of `p`; what can't be read is the preset's there."""
    settings, error = readable(args)
    error = at_its_base(error, args, p)
    try:
        reach(p, settings)
    except SettingsError as mistake:
        raise SettingsError.of_all([error, mistake] if error else [mistake]) from None
    if error:
        raise error
    return settings


def at_its_base(error: SettingsError | None, args: Sequence[Any], p: Any) -> SettingsError | None:
    """What could not be read of `args`, as far as the base image of `p` decides what is allowed."""
    if error is None or starting.is_given(p):
        return error
    try:
        values = named(args)
    except SettingsError:
        return error
    return heeding_base(error, values, latent_size(p), MAX_SIDE.value)


def plan_of(p: Any, settings: Params) -> Plan:
    """Of one batch. Each image counts as a prompt and a negative prompt; `AND`, NGMS and the like come to other rows."""
    solver, levels = sampling_of(asking(p))
    phase_solver, levels_of_phases = sampling_of(asking_in_phases(p, settings))
    of_picture: dict[str, Any] = {}
    drawn_lat = latent_size(p)
    if starting.is_given(p):
        start = starting.start_of(p, settings)
        settings, drawn_lat = start.settings, (start.native_lat, start.native_lat)
        of_picture = {"picture_lat": start.picture_lat, "strength": starting.strength_of(p)}
        if start.masked:
            of_picture["masked_levels"] = levels_behind_mask(p)
    passes = 1 if is_forge() and math.isclose(p.cfg_scale, 1) else 2  # the first host asks for both always
    return Plan(
        settings, drawn_lat, p.steps, solver, levels, images=p.batch_size, wrap=wraps(p),
        passes=passes, alone=int(passes == 2 and first_is_alone()),
        phase_solver=phase_solver, levels_of_phases=levels_of_phases,
        passes_of_phases=2 if is_guided(phase_solver, settings.cfg_in_phases(p.cfg_scale)) else 1, **of_picture,
    )  # fmt: skip


def levels_behind_mask(p: Any) -> list[float]:
    """Of phase 1's evaluations, where the host inpaints."""
    asked = asking(p)
    sampler = plain_sampler(asked)
    return family_of(sampler).inpainting_t(sampler, asked, ancestral_eta(asked, sampler))


def sampling_of(asked: Any) -> tuple[str, Levels]:
    """The solver, and at which timesteps it evaluates, of the sampler that is asked for."""
    sampler = plain_sampler(asked)
    family, eta = family_of(sampler), ancestral_eta(asked, sampler)
    return solver_name(sampler), lambda steps, start: family.levels_t(sampler, asked, steps, eta, start)
