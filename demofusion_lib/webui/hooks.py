"""What the host's hooks do: a request is read, and handed over to the phases. Loaded with the first picture, not with the webui."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..params import SETTINGS, Params
from ..setting import SettingsError
from . import takeover
from .formats import make_savable, name_by_size
from .given import drop_blank_mask
from .hosts import check_host
from .kept import PHASE_KEY, await_file, name_chosen_file, name_file, show_kept
from .notes import NOTE_KEY, tell
from .others import extension_of, in_pieces, laid_beneath
from .pasting import take_unread
from .planning import draws, plan_of, reach, settings_of
from .processing import (
    REPLACES_HIRES_FIX,
    STOPPED_KEY,
    Run,
    attach,
    checked,
    detach,
    remove_served,
    run_of,
    take_size,
    why_nothing,
)
from .progress import leave
from .prompts import to_infotext
from .refusal import refusal, refuse
from .starting import is_given
from .xyz import axes_of, in_cell, in_plot

ENABLED = SETTINGS[0].name
KEYS = (STOPPED_KEY, NOTE_KEY, PHASE_KEY, *(setting.key for setting in SETTINGS))


def before_process(p: Any, *args: Any) -> None:
    """The host logs what is raised here and goes on, so that an error is kept for `p.sample` to raise."""
    detach(p)
    drop_keys(p)
    axes = axes_of(p)
    if not axes.get(ENABLED, axes or not switched_off(args)):
        return
    try:
        prepare(p, in_cell(args, axes) if axes else settings_of(args, p))
        tell_unread(p)
    except Exception as error:
        stop(p, error)


def process(p: Any, *args: Any) -> None:
    """The model and the sampler are known now, and nothing is drawn yet."""
    run = run_of(p)
    if run is None or run.params is None:
        return
    try:
        _, phases = checked(p, run.params)
        if run.params.resume and draws(p, run.params, phases):
            from .resuming import resumed

            resumed(p, plan_of(p, run.params))
    except Exception as error:
        stop(p, error)


def process_before_every_sampling(p: Any, *args: Any, **kwargs: Any) -> None:
    """Of a picture without phases: what it is drawn from is known now."""
    if run_of(p) is None:
        takeover.base_begins(p)


def post_sample(p: Any, ps: Any, *args: Any) -> None:
    run = run_of(p)
    if run is None:
        takeover.base_ended(p, ps.samples)
    elif run.sampled != p.iteration:
        left_out(p)


def postprocess_image_after_composite(p: Any, pp: Any, *args: Any) -> None:
    """The last hook before the host saves an image."""
    run = run_of(p)
    if run is not None:
        await_file(p, run.kept)


def postprocess(p: Any, processed: Any, *args: Any) -> None:
    run = detach(p)
    if run is not None:
        takeover.name_pictures(p, processed, run.kept.images)
        show_kept(p, processed, run.kept)
        remove_served(p, run)
        make_savable(processed.images)
        leave()
    else:
        takeover.name_pictures(p, processed)


def before_image_saved(save: Any) -> None:
    """The host's callback with `ImageSaveParams`, for every file that it writes."""
    run = run_of(save.p)
    if run is None:
        name_chosen_file(save)
        return
    name_file(run.kept, save)
    name_by_size(save)


def switched_off(args: Sequence[Any]) -> bool:
    """Then the others' values, which the page may not even show, say nothing."""
    first = args[0] if args else False
    return (first.get(ENABLED, False) if isinstance(first, Mapping) else first) is False


def drop_keys(p: Any) -> None:
    for key in KEYS:
        p.extra_generation_params.pop(key, None)


def stop(p: Any, error: Exception) -> None:
    told = refusal(error)
    drop_keys(p)
    attach(p, Run(None, told))
    refuse(p, told, raised=in_plot(p))


def prepare(p: Any, settings: Params) -> None:
    """Attaches the run, if there is anything to draw."""
    if not settings.enabled:
        return
    check_host()
    if yields_to_gallery_button(p):
        return
    run = Run(settings)
    if is_given(p) and in_pieces(p):
        tell(p, run.notes, f"left out, as the script {in_pieces(p)} draws the picture in pieces")
        return
    if not draws(p, settings, reach(p, settings)[1]):
        nothing = why_nothing(p, settings)
        if nothing:
            tell(p, run.notes, nothing)
        return
    beneath = laid_beneath(p)
    if beneath:
        why = "it lays its picture beneath all that the model is given, and would so beneath every window"
        raise SettingsError(f"{beneath} is on, allowed: the one or the other, as {why}")
    replace_hires_fix(p, run)
    blank = drop_blank_mask(p) if is_given(p) else ""
    if blank:
        tell(p, run.notes, blank)
    take_size(p, run)
    p.extra_generation_params.update(to_infotext(p, settings))
    attach(p, run)


def tell_unread(p: Any) -> None:
    """Of the infotext in a request to the API."""
    text, run = take_unread(), run_of(p)
    if text:
        tell(p, [] if run is None else run.notes, text)


def yields_to_gallery_button(p: Any) -> bool:
    """The gallery's upscale button asks for Hires. fix of one finished image, which leaves nothing to draw for us."""
    if not getattr(p, "txt2img_upscale", False):
        return False
    p.comment("DemoFusion: left out, the gallery's button asks for Hires. fix.")
    return True


def replace_hires_fix(p: Any, run: Run) -> None:
    if getattr(p, "enable_hr", False):
        p.enable_hr = False
        tell(p, run.notes, REPLACES_HIRES_FIX)


def left_out(p: Any) -> None:
    """Something else has drawn the picture: an extension that put its own `sample` in the place of all others."""
    detach(p)
    drop_keys(p)
    name = extension_of(vars(p).get("sample"))
    tell(p, [], f"left out, as {name} draws the picture by itself; turn off the one or the other")
