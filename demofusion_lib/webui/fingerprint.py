"""What the latents of a batch depend on, as one short text: two runs that have the same draw the same bits.

Whatever is not known to leave a latent as it is counts, another extension's settings too. A run with one thing more or
less is drawn anew, which costs time; one that took over another picture's latents would be wrong.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from modules import sd_samplers, shared
from PIL import Image

from ..params import SETTINGS
from ..plan import Plan
from .kept import PHASE_KEY
from .notes import NOTE_KEY, STOPPED_KEY
from .prompts import styled_negative, styled_prompt
from .resuming import NEUTRAL, made_of
from .schedules import AUTOMATIC, label_of, schedule_of
from .xyz import in_plot

KEYS = frozenset((STOPPED_KEY, NOTE_KEY, PHASE_KEY, *(setting.key for setting in SETTINGS)))
"""Of an infotext: ours."""
OF_DECODING = ("VAE Decoder", "VAE Encoder")
"""What the host tells in an infotext only after a batch is sampled, and still before the next one is."""
NEUTRAL_SECTIONS = frozenset((
    "saving-images", "saving-paths", "saving-to-dirs", "upscaling", "face-restoration", "system", "profiler", "API", "training",
    "interrogate", "ui_prompt_editing", "ui_gallery", "ui_alternatives", "ui", "infotext", "postprocessing", "demofusion",
))  # fmt: skip
"""Of the host's Settings page: what is done with a finished picture, and what the page looks like."""
NEUTRAL_OPTIONS = frozenset(("sd_model_checkpoint", "sd_checkpoint_hash"))
"""Told otherwise: of the model that is loaded."""
FLOW = frozenset(("is_api", "batch_index", "txt2img_upscale", "scheduler"))
"""Attributes of a processing object that are none of its fields and leave the picture as it is, or are told otherwise."""
BY_SIZES = ("scale", "target_width", "target_height", "plan", "sdxl_size")
"""Settings that say no more of a phase than its own size and those before it."""
MOST_DEPTH = 16


class Unknown(Exception):
    """A value that can't be told from another one."""


def digest_of(*values: Any) -> str:
    """Raises Unknown."""
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, values)
    return digest.hexdigest()


def _feed(digest: Any, value: Any, depth: int = 0) -> None:
    if depth > MOST_DEPTH:
        raise Unknown(type(value).__name__)
    digest.update(f"\n{type(value).__name__} ".encode())
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        digest.update(repr(value).encode("utf-8", "surrogatepass"))
    elif isinstance(value, Mapping):
        _feed(digest, sorted(((repr(key), item) for key, item in value.items()), key=lambda pair: pair[0]), depth + 1)
    elif isinstance(value, (list, tuple)):
        digest.update(str(len(value)).encode())
        for item in value:
            _feed(digest, item, depth + 1)
    elif isinstance(value, (set, frozenset)):
        _feed(digest, sorted(map(repr, value)), depth + 1)
    elif isinstance(value, Image.Image):
        _feed(digest, [value.mode, value.size, value.tobytes()], depth + 1)
    elif isinstance(value, torch.Tensor):
        _feed(digest, value.detach().float().cpu().numpy(), depth + 1)
    elif isinstance(value, np.ndarray):
        _feed(digest, [str(value.dtype), value.shape, value.tobytes()], depth + 1)
    elif isinstance(value, enum.Enum):  # as ControlNet's units have them
        _feed(digest, value.name, depth + 1)
    elif hasattr(value, "__dict__") and not callable(value):
        _feed(digest, vars(value), depth + 1)
    else:
        raise Unknown(type(value).__name__)


def of_base(p: Any, told: Mapping[str, Any]) -> str:
    """Of the base images of the batch `p.iteration`, before they are sampled. told: what is told of them by then, beside
    ours. Raises Unknown."""
    return digest_of(_told(p), told, _fields(p), _options(), _others(p))


def of_phases(p: Any, plan: Plan) -> str:
    """Of everything that phases depend on beside the base images, their sizes and what was drawn before. Raises Unknown."""
    params = plan.params
    counted = [s for s in SETTINGS if s.name not in NEUTRAL and s.name not in BY_SIZES]
    settings = {s.name: s.to_text(getattr(params, s.name)) for s in counted}
    settings["window_batch"] = str(params.window_batch)  # rounding
    if params.enlarge == "pixels":
        settings["vae"] = params.vae
    prompts = styled_prompt(p, params), styled_negative(p, params)
    return digest_of(settings, prompts, _told(p), _fields(p), _options(), _others(p))


def size_of_phase(p: Any, plan: Plan, number: int) -> tuple[Any, ...]:
    """What a phase is told of sizes. That there are others to come counts only where SDXL is told of them."""
    if number == 1:
        return plan.drawn_lat
    phase = plan.phases[number - 2]
    told = plan.told_px(phase) if p.sd_model.is_sdxl else ()
    return (plan.base_lat, phase.number, phase.scale, phase.height_lat, phase.width_lat, phase.dilation, told)


def _told(p: Any) -> dict[str, str]:
    """What the infotexts tell, in one wording: an automatic schedule is told only once it has been made."""
    told = made_of(p, None, p.iteration)
    schedule = schedule_of(p)
    if schedule == AUTOMATIC:
        config = sd_samplers.find_sampler_config(p.sampler_name)
        schedule = (config.options if config else {}).get("scheduler") or AUTOMATIC
    return {**told, "Schedule type": label_of(schedule), "CFG scale": str(float(p.cfg_scale))}


def _fields(p: Any) -> dict[str, Any]:
    """Of what the host has no infotext for before it samples, and what others have set on the object."""
    refiner = p.refiner_checkpoint_info
    known = {field.name for field in dataclasses.fields(p)} | FLOW
    more = {name: value for name, value in vars(p).items() if name not in known}
    return {
        "refiner": [refiner.name_for_extra, getattr(refiner, "shorthash", ""), p.refiner_switch_at] if refiner else None,
        "tiling": bool(p.tiling),
        "seed resize": [max(p.seed_resize_from_w, 0), max(p.seed_resize_from_h, 0)],
        "networks": not p.disable_extra_networks,
        "schedule": None if p.sampler_noise_scheduler_override is None else "another",
        **{name: value for name, value in more.items() if isinstance(value, (bool, int, float, str))},
    }  # fmt: skip


def _options() -> dict[str, Any]:
    opts = shared.opts
    counted = (name for name, info in opts.data_labels.items() if _section(info) not in NEUTRAL_SECTIONS)
    return {name: getattr(opts, name, None) for name in counted if name not in NEUTRAL_OPTIONS}


def _section(info: Any) -> str:
    return str((getattr(info, "section", None) or ("",))[0])


def _others(p: Any) -> list[Any]:
    """The other scripts' arguments. The host's own that set fields of `p`, the seed's say, are told by those."""
    runner, args = p.scripts, list(p.script_args or ())
    if runner is None:
        return []
    scripts = [script for script in runner.alwayson_scripts if not _is_told(script)]
    chosen = args[0] if args else 0
    if isinstance(chosen, int) and 0 < chosen <= len(runner.selectable_scripts) and not in_plot(p):
        scripts.append(runner.selectable_scripts[chosen - 1])
    return [[str(script.filename), args[script.args_from : script.args_to]] for script in scripts]


def is_ours(script: Any) -> bool:
    return type(script).__module__ == f"{__package__}.script"


def _is_told(script: Any) -> bool:
    return is_ours(script) or os.path.basename(os.path.dirname(str(script.filename))) == "processing_scripts"
