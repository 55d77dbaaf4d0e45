"""What a request will cost, before it is made: the one room that is asked by the page while somebody types, and by the API.

Nothing is loaded, drawn or waited for. Every figure is the plan's (`plan`), what it takes is `needs` and `vae`; what is
wrong is found by the checks that a run goes through.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from modules import shared

from ..core import Phase
from ..params import Params, by_label
from ..setting import SettingsError
from ..targets import LATENT_PX, size_text
from ..work import work_of
from .checkpoints import Checkpoint, checkpoint
from .checks import check_model, check_sampler
from .choices import readable
from .families import NotLoaded
from .planning import at_its_base, draws, latent_size, plan_of, reach
from .processing import REPLACES_HIRES_FIX, remarks, why_nothing
from .prompts import check_regions
from .schedules import AUTOMATIC, sampler_and_schedule
from .seen import Picture
from .speeds import known
from .starting import start_of

BASE = ""
"""Stands for a setting's name where a mistake is about the base image, or the picture."""
NO_PICTURE = "no picture yet"
FAR = 1.4
"""How many times larger or smaller than its native size a model draws without falling apart, by the side of a square."""


@dataclass
class Forecast:
    """sizes: `(width, height)` in pixels of each phase, the base image's as it is drawn first, or the given picture's.

    evaluations: rows that the model is given in the whole request; None where that can't be known yet. times_base: over
    those of its base images. seconds: None before this machine has drawn anything.
    memory_bytes: on the device at the most, beside what the network takes for the windows that it gets at once, which is
    never more than there is: None where the model is not loaded. fits: whether the picture can be decoded, None: unknown.
    far: whether the base image is far from the size that the model was trained on.
    mistakes: by setting, in the page's words; under "" what is wrong with the base image. error: the same for the API.
    """

    sizes: list[tuple[int, int]] = field(default_factory=list)
    images: int = 1
    phases: list[dict[str, Any]] = field(default_factory=list)
    evaluations: int | None = None
    exact: bool = True
    times_base: float | None = None
    seconds: float | None = None
    memory_bytes: int | None = None
    memory_plan: str = ""
    fits: bool | None = None
    unit: str = "the base image"
    cropped: str = ""
    nothing: str = ""
    warnings: list[str] = field(default_factory=list)
    mistakes: dict[str, str] = field(default_factory=dict)
    error: SettingsError | None = None
    far: bool = False
    family: str = ""
    checkpoint: str = ""
    enabled: bool = False

    def line(self) -> str:
        """For the page; empty where nothing can be said, a setting is not what it can be say."""
        if self.error is not None or self.nothing:
            return self.nothing if self.error is None else ""
        if not self.sizes:
            return ""
        if self.evaluations == 0:  # without a phase in between
            return " -> ".join(f"{width}x{height}" for width, height in (self.sizes[0], self.sizes[-1]))
        phases = "1 phase" if len(self.sizes) == 1 else f"{len(self.sizes)} phases"
        parts = [" -> ".join(f"{width}x{height}" for width, height in self.sizes), phases]
        if self.evaluations is not None and self.times_base is not None:
            of_all = f" for {self.images} images" if self.images > 1 else ""
            times = times_text(self.times_base, self.unit)
            parts.append(f"{count_text(self.evaluations, self.exact)}{of_all}, {times}")
        if self.seconds is not None:
            parts.append(f"about {duration_text(self.seconds)} on this machine")
        if self.memory_bytes is not None:
            parts.append(bytes_text(self.memory_bytes))
        return " · ".join(parts)

    def report(self) -> dict[str, Any]:
        """For the API."""
        return {
            "enabled": self.enabled,
            "line": self.line(),
            "phases": self.phases,
            "images": self.images,
            "evaluations": self.evaluations,
            "exact": self.exact,
            "times_base": None if self.times_base is None else round(self.times_base, 3),
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "memory_bytes": self.memory_bytes,
            "decoding": self.memory_plan,
            "fits": self.fits,
            "nothing": self.nothing,
            "warnings": self.warnings,
            "checkpoint": self.checkpoint,
            "family": self.family,
        }


def forecast(
    args: Sequence[Any] | Mapping[str, Any],
    *,
    width: int = 512,
    height: int = 512,
    steps: int = 20,
    batch_size: int = 1,
    n_iter: int = 1,
    sampler: str | None = None,
    scheduler: str | None = None,
    cfg_scale: float = 7.0,
    eta: float | None = None,
    tiling: bool | None = None,
    enable_hr: bool = False,
    refiner: str | None = None,
    wanted_checkpoint: str = "",
    picture: Picture | None = None,
    **others: Any,
) -> Forecast:
    """args: as the page's or the API's always-on arguments. The rest: the host's own fields. Raises nothing for what a user
    can type; a field that is no number is a mistake of the base image's.

    picture: in img2img. others: more of the fields that a run has (`s_churn`, say).
    """
    args = [args] if isinstance(args, Mapping) else args
    settings, error = readable(args)
    found = checkpoint(wanted_checkpoint)
    told = Forecast(family=found.family.name if found.family else "", checkpoint=found.name, enabled=settings.enabled)
    errors = [error] if error else []
    numbers = {"width": width, "height": height, "steps": steps, "batch_size": batch_size, "n_iter": n_iter}
    bad = [SettingsError(f"{name} is {value!r:.80}, allowed: whole numbers, 1 or more")
           for name, value in numbers.items() if not is_count(value)]  # fmt: skip
    if picture is not None:
        bad += picture.mistakes()
    if bad:
        return refused(told, [*errors, *bad])
    told.images = int(batch_size) * int(n_iter)
    name, schedule = sampler_and_schedule(sampler, scheduler)
    p = SimpleNamespace(
        **{"s_churn": None, "s_noise": None, "s_tmin": None, "s_tmax": None, **others},
        **{key: int(value) for key, value in numbers.items()},
        sampler_name=name, scheduler=without_model(schedule, found), cfg_scale=cfg_scale, eta=eta,
        tiling=shared.opts.tiling if tiling is None else tiling, is_hr_pass=False, hr_scheduler=None,
        sampler_noise_scheduler_override=None, extra_generation_params={}, sd_model=found.stand_in, iteration=0,
        refiner_checkpoint_info=refiner if refiner not in (None, "", "None") else None,
        override_settings={"sd_model_checkpoint": wanted_checkpoint}, **(picture.fields() if picture is not None else {}),
    )  # fmt: skip
    if error:
        errors = [at_its_base(error, args, p) or error]
    of_sampler = mistakes_of_sampler(p, settings, found)
    if picture is not None and not picture.sizes_px:
        told.nothing = picture.of_folder(settings, p.width, p.height) if picture.folder else NO_PICTURE
        return refused(told, errors, of_sampler)
    try:
        base_lat, phases = reach(p, settings)
    except SettingsError as mistake:
        return refused(told, [*errors, mistake])
    drawn = draws(p, settings, phases)
    climbed = [pixels((f.height_lat, f.width_lat)) for f in phases]
    if picture is None:
        told.sizes = [pixels(latent_size(p)), *climbed]
        told.warnings += warnings_of(p, settings, base_lat, found, enable_hr, bool(phases))
        told.far = bool(far_from_native(p, found))
        if base_lat != latent_size(p):
            told.cropped = f"cropped to {size_text(*base_lat)}"
    else:
        start = start_of(p, settings)
        told.sizes, told.unit = (
            [start.picture_px, *climbed],
            f"an image of {size_text(start.native_lat, start.native_lat)}",
        )
        if start.area is not None:
            told.warnings.append(f"the result is {size_text(*start.result_lat)}")
        if drawn and not of_sampler:
            with contextlib.suppress(NotLoaded):
                told.warnings += [*remarks(p, settings, base_lat), *picture.remarks(others.get("inpaint_full_res"))]
    if not drawn:
        told.nothing = why_nothing(p, settings) or scale_one(p)
    if not errors and not of_sampler:
        count(told, p, settings, found, phases)
    of_file = mistakes_of_resume(settings, "txt2img" if picture is None else "img2img") if phases else []
    return refused(told, errors, [*of_sampler, *of_file])


def mistakes_of_resume(settings: Params, tab: str) -> list[SettingsError]:
    if not settings.resume:
        return []
    from .resuming import check_there

    options = (f"outdir_{tab}_samples", "outdir_samples")
    try:
        check_there(settings.resume, [getattr(shared.opts, name, None) or "" for name in options])
    except SettingsError as error:
        return [error]
    return []


def is_count(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and value == value and value // 1 == value >= 1
    )


def refused(told: Forecast, errors: Sequence[SettingsError], later: Sequence[SettingsError] = ()) -> Forecast:
    """later: what a run tells when the rest is right."""
    if errors or later:
        told.error = SettingsError.of_all(errors or later)
        told.mistakes = by_label(SettingsError.of_all([*errors, *later]))
    return told


def pixels(size_lat: tuple[int, int]) -> tuple[int, int]:
    """`(width, height)` of a latent's `(height, width)`."""
    return size_lat[1] * LATENT_PX, size_lat[0] * LATENT_PX


def without_model(scheduler: str, found: Checkpoint) -> str:
    """Align Your Steps asks for the loaded model; before there is one, any other schedule of as many steps stands for it."""
    return scheduler if found.model is not None or not scheduler.startswith("Align") else AUTOMATIC


def scale_one(p: Any) -> str:
    return f"scale 1: nothing will be done, the image stays {size_text(*latent_size(p))}"


def warnings_of(
    p: Any, settings: Params, base_lat: tuple[int, int], found: Checkpoint, enable_hr: bool, changes: bool
) -> list[str]:
    """changes: whether there is a phase to draw."""
    told = list(remarks(p, settings, base_lat))
    if enable_hr and changes:
        told.append(REPLACES_HIRES_FIX)
    far = far_from_native(p, found)
    return [*told, far] if far else told


def far_from_native(p: Any, found: Checkpoint) -> str:
    native, drawn = found.family.native if found.family else 0, (p.width * p.height) ** 0.5
    if not found.family or not native or native / FAR <= drawn <= native * FAR:
        return ""
    what = "objects may repeat" if drawn > native else "it draws badly"
    return (
        f"the base image of {p.width}x{p.height} px is far from {native}x{native} px, at which {found.family.name} was "
        f"trained: {what}"
    )


def mistakes_of_sampler(p: Any, settings: Params, found: Checkpoint) -> list[SettingsError]:
    """Those that a run would be refused for."""
    try:
        if found.model is not None:
            check_model(found.model)
        check_sampler(p, settings)
        check_regions(settings)
    except SettingsError as error:
        return [error]
    except NotLoaded:
        pass
    return []


def count(told: Forecast, p: Any, settings: Params, found: Checkpoint, phases: list[Phase]) -> None:
    try:
        plan = plan_of(p, settings)
        report = plan.report()
    except NotLoaded:
        return
    told.phases, told.exact, told.times_base = report["phases"], report["exact"], plan.units
    told.evaluations = plan.total_evaluations * p.n_iter
    if found.model is not None and told.evaluations:
        speeds = known(found.model, plan.window_lat, plan.params.vae)
        told.seconds = None if speeds is None else work_of(plan).seconds(speeds) * p.n_iter
        from .needed import needed  # with the first forecast, not with the webui

        needs = needed(plan, found.model)
        if needs is not None:
            told.memory_bytes, told.fits, told.memory_plan = needs.bytes, needs.fits, needs.decoding
            told.warnings += needs.warnings


# Words


def rounded(value: float, digits: int = 2) -> int:
    """As a person would: to so many digits."""
    return round(float(f"{value:.{digits}g}"))


def count_text(evaluations: int, exact: bool) -> str:
    return f"{evaluations:,} evaluations" if exact else f"about {rounded(evaluations):,} evaluations"


def times_text(times: float, unit: str) -> str:
    return f"{times:,.0f}x {unit}" if times >= 9.95 else f"{times:.1f}x {unit}".replace(".0x", "x")


def duration_text(seconds: float) -> str:
    if seconds < 9.5:
        return f"{max(1, round(seconds))} s"
    if seconds < 57.5:
        return f"{round(seconds / 5) * 5} s"
    minutes = round(seconds / 60) if seconds < 3570 else round(seconds / 300) * 5
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours >= 10 or not rest:
        return f"{round(minutes / 60)} h"
    return f"{hours} h {rest} min"


def bytes_text(size: int) -> str:
    giga = size / 1e9
    return (
        f"{giga:.0f} GB" if giga >= 9.95 else f"{giga:.1f} GB" if giga >= 0.95 else f"{max(1, rounded(size / 1e6))} MB"
    )
