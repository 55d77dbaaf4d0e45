"""The phases in the host's flow: after the base image is sampled, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .. import setting
from ..core import Phase, WindowBatch
from ..params import Params
from ..targets import LATENT_PX, size_text
from . import given, masks, starting
from .checks import check_model, check_sampler
from .hosts import check_host
from .kept import Kept, saves
from .notes import STOPPED_KEY, tell, write
from .planning import draws, latent_size, plan_of, reach
from .progress import leave
from .prompts import check_regions
from .refusal import SettingsError, refusal
from .room import why_not

ATTRIBUTE = "demofusion_run"
SOFT_KEY = "Soft inpainting enabled"
"""Of the infotext, set by the webui's own extension where it is on."""
REPLACES_HIRES_FIX = "takes the place of Hires. fix, which is left out"


@dataclass
class Run:
    """What one run of the host needs to know: checked settings, or the error that stops it."""

    params: Params | None
    error: SettingsError | None = None
    kept: Kept = field(default_factory=Kept)
    notes: list[str] = field(default_factory=list)
    """What is to be told of every image of the run."""
    owner: int = 0
    outer_sample: Any = None
    """A `sample` that another extension had set on the object before us: it stands for the host's own."""
    batch: WindowBatch | None = None
    """How many windows the model gets at once: found out in the first batch of images."""
    batch_notes: list[str] = field(default_factory=list)
    """Those and what is told of the batch under way alone."""
    served: set[str] = field(default_factory=set)
    """Files of saved phases whose pictures are drawn: to be removed when those are on the disk."""
    sampled: int = -1
    """The last batch that came through here."""
    tabs_size: tuple[int, int] | None = None
    """`(width, height)` that the img2img tab has asked for, while a picture's own stands in its place."""


class _Phased:
    """Mixed into the class of one processing object; a copy of that object carries its own run along.

    A function set on the instance would not do: a shallow copy, as other extensions make for nested generations,
    would then sample the object that it was copied from.
    """

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        run = self.__dict__.get(ATTRIBUTE)
        host_sample = super().sample  # type: ignore[misc]
        if run is None:
            return host_sample(*args, **kwargs)
        if run.owner != id(self):
            run = Run(run.params, run.error)  # of a copy: what it keeps is not the original's
        run.sampled = self.iteration
        host_sample = run.outer_sample or host_sample
        try:
            return sample_in_phases(self, run, lambda **other: host_sample(*args, **{**kwargs, **other}))
        except BaseException:
            detach(self)  # the host does not come to our postprocess
            leave(failed=True)
            raise

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """The host's preparation, which would bring a picture to the size of the result and encode that."""
        run = self.__dict__.get(ATTRIBUTE)
        host_init = super().init  # type: ignore[misc]
        if run is None or not starting.is_given(self):
            return host_init(*args, **kwargs)
        try:
            if run.params is None:  # the picture may be one that the host can't prepare either
                raise run.error or SettingsError("no settings")
            with given.as_picture(self, starting.start_of(self, run.params)):
                return host_init(*args, **kwargs)
        except BaseException:
            detach(self)
            leave(failed=True)
            raise

    def save_samples(self, **kwargs: Any) -> bool:
        """A finished phase is a finished picture, saved as one though the run was stopped.

        Where it can't be, it is shown at least: what the host raises would take it from the page too.
        """
        run = self.__dict__.get(ATTRIBUTE)
        if run is None or run.owner != id(self) or not run.kept.finished:
            return super().save_samples(**kwargs)  # type: ignore[misc]
        why = why_not(self, run.kept.pixels) if saves(self) else ""
        if why:
            self.do_not_save_grid = True
            run.kept.unsaved = True
            tell(self, run.batch_notes, f"what is shown can't be saved ({why})")
        return saves(self) and not why


def run_of(p: Any) -> Run | None:
    """The run of this very object, not of one that it was copied from."""
    run = getattr(p, "__dict__", {}).get(ATTRIBUTE)
    return run if run is not None and run.owner == id(p) else None


def attach(p: Any, run: Run) -> None:
    """Makes `p.sample` go through the phases."""
    detach(p)
    base = type(p)
    run.owner, run.outer_sample = id(p), p.__dict__.pop("sample", None)
    p.__class__ = type(base.__name__, (_Phased, base), {"__module__": base.__module__})
    setattr(p, ATTRIBUTE, run)


def detach(p: Any) -> Run | None:
    """Gives `p` its own class back, and returns the run it had."""
    if isinstance(p, _Phased):
        p.__class__ = type(p).__mro__[2]
    run = p.__dict__.pop(ATTRIBUTE, None)
    if run is not None and run.owner == id(p):
        if run.outer_sample is not None:
            p.sample = run.outer_sample
        if run.tabs_size is not None:
            p.width, p.height = run.tabs_size
    return run


def take_size(p: Any, run: Run) -> None:
    """Of a given picture, where it isn't the tab's own that is drawn: an infotext's size times the scale is the result's, as
    of a base image."""
    assert run.params is not None
    if starting.is_given(p) and not (start := starting.start_of(p, run.params)).by_tab:
        run.tabs_size = p.width, p.height
        p.width, p.height = start.whole_px


def sample_in_phases(p: Any, run: Run, host_sample: Any) -> Any:
    """The host's base image, then the phases. Latents of the base at scale 1, else decoded images."""
    if run.params is None:
        raise run.error or SettingsError("no settings")
    try:  # again: since our `process` another extension's may have set another size or sampler
        base_lat, phases = checked(p, run.params)
    except setting.SettingsError as error:
        raise refusal(error) from None
    p.extra_generation_params.pop(STOPPED_KEY, None)
    remove_served(p, run)  # the batch before is on the disk
    run.kept.begin_batch()
    run.batch_notes = notes = list(run.notes)  # what this batch comes to is not told of the next
    write(p, notes)
    if not draws(p, run.params, phases):
        return host_sample()
    from .climbing import Climb  # with the first picture, not with the webui: half of all that there is to load

    try:
        run_of_batch = Climb(p, run, notes)
    except setting.SettingsError as error:
        raise refusal(error) from None
    for text in remarks(p, run.params, base_lat):
        tell(p, notes, text)
    for text in given.told_of_pictures(p) if starting.is_given(p) else ():
        tell(p, notes, text)
    return run_of_batch.sample(host_sample)


def remove_served(p: Any, run: Run) -> None:
    """Files that pictures were drawn from which are saved now."""
    if run.served and not run.kept.unsaved:
        from .resuming import remove

        remove(p, run.served)
        run.served = set()


def checked(p: Any, settings: Params) -> tuple[tuple[int, int], list[Phase]]:
    """The base latent's size and the phases. Raises SettingsError of all that the model and the sampler can't do."""
    check_host(p.sd_model)
    check_model(p.sd_model, starting.is_given(p))
    mistakes = []
    checks = (lambda: check_sampler(p, settings), lambda: check_regions(settings), lambda: reach(p, settings))
    for check in checks:
        try:
            planned = check()
        except setting.SettingsError as error:
            mistakes.append(error)
    if mistakes:
        raise setting.SettingsError.of_all(mistakes)
    assert planned is not None
    return planned


def remarks(p: Any, settings: Params, base_lat: tuple[int, int]) -> Iterator[str]:
    """What is going to be otherwise than the settings might be read."""
    if starting.is_given(p):
        start = starting.start_of(p, settings)
        if getattr(p, given.THROUGH_VAE, False):
            yield "the picture itself goes through the VAE in place of phase 1, as no latent of it is held"
        yield from given.notes(start, plan_of(p, settings))
        scale = settings if start.masked else start.settings
        if scale.rounding(start.whole_lat):
            yield scale.rounding(start.whole_lat)
        yield from remarks_of_settings(p, start.masked)
        return
    drawn = latent_size(p)
    if (p.height, p.width) != (drawn[0] * LATENT_PX, drawn[1] * LATENT_PX):
        yield f"the webui draws {size_text(*drawn)} for a base image of {p.width}x{p.height} px"
    if base_lat != drawn:
        yield f"the base image is cropped from {size_text(*drawn)} to {size_text(*base_lat)}, the target's shape"
    rounding = settings.rounding(drawn)
    if rounding:
        yield rounding
    if p.refiner_checkpoint_info is not None:
        yield "the refiner draws in the base image only; the phases run on the base model"


def remarks_of_settings(p: Any, masked: bool) -> Iterator[str]:
    """Of the host's, on img2img. masked: whether the host itself draws phase 1."""
    if masked:
        if SOFT_KEY in p.extra_generation_params:
            yield "Soft inpainting blends in every phase; the result is pasted by the mask itself"
        if p.refiner_checkpoint_info is not None:
            yield "the refiner draws in phase 1 only; the other phases run on the base model"
        return
    if p.refiner_checkpoint_info is not None:
        yield "the refiner takes no part: it draws in base images, and a picture is given in place of one"
    if getattr(p, "initial_noise_multiplier", None) not in (None, 1):
        yield "the noise multiplier for img2img takes no part in the phases"


def why_nothing(p: Any, settings: Params) -> str:
    """Of settings that leave the base image as it is; empty at scale 1, which asks for that. Of a picture always something."""
    if starting.is_given(p):
        return given.why_nothing(starting.start_of(p, settings), masks.is_cropped(p))
    if settings.target_width or settings.target_height:
        return "the target is the base image's own size: nothing was enlarged"
    return settings.rounding(latent_size(p))
