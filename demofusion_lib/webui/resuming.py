"""Finished phases in a file, and going on from them.

The file lies in `demofusion` beside the pictures, under a name that its run alone has. It is there while the run is, and
stays where the run was stopped, failed or was killed.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import torch
from modules import devices, shared
from modules.infotext_utils import parse_generation_parameters
from modules.processing import create_infotext

from .. import saved
from ..core import statistics
from ..params import SETTINGS
from ..plan import Plan
from ..saved import SavedPhase
from ..setting import SettingsError, quoted
from . import given, masks, starting
from .checks import SIGMA_OPTIONS, sigma_option
from .options import SAVED_DIR

FOLDER = "demofusion"
LAST = "last"
NEUTRAL = ("enabled", "window_batch", "keep_phases", "vae", "save_phases", "resume", "preset")
"""Settings that leave every latent as it is, but for rounding; what a preset sets is compared by itself."""
OPTIONS = (
    "always_discard_next_to_last_sigma", "batch_cond_uncond", "beta_dist_alpha", "beta_dist_beta", "comma_padding_backtrack",
    "CLIP_stop_at_last_layers", "emphasis", "eta_ancestral", "eta_ddim", "eta_noise_seed_delta", "hypertile_enable_unet",
    "hypertile_max_depth_unet", "hypertile_max_tile_unet", "hypertile_swap_size_unet", "pad_cond_uncond", "randn_source",
    "rho", "s_min_uncond_all", "sd_hypernetwork", "sd_noise_schedule", "sdxl_crop_left", "sdxl_crop_top",
    "sgm_noise_multiplier", "sigma_max", "sigma_min", "skip_early_cond", "token_merging_ratio", "uni_pc_lower_order_final",
    "uni_pc_order", "uni_pc_skip_type", "uni_pc_variant", "upcast_attn", "use_old_karras_scheduler_sigmas",
    "use_old_scheduling",
)  # fmt: skip
"""The host's settings that a picture depends on, though not every infotext tells of them."""


def folder(p: Any) -> str:
    return SAVED_DIR.value or os.path.join(p.outpath_samples or "", FOLDER)


def place_told() -> str:
    """For a message, which tells nobody of the host's folders."""
    return "the folder of saved phases" if SAVED_DIR.value else f"the folder {FOLDER!r} beside the pictures"


def made_of(p: Any, params: Any, iteration: int = 0) -> dict[str, str]:
    """What the pictures of one batch depend on, by the names that the user knows: their infotexts and more.

    params: None for what the base images depend on alone.
    """
    batch = slice(iteration * p.batch_size, (iteration + 1) * p.batch_size)
    prompts, negatives = p.all_prompts[batch], p.all_negative_prompts[batch]
    asked = copy.copy(p)
    asked.extra_generation_params = {}  # other names are there before a sampling than after it
    parts: dict[str, str] = {}
    for i in range(len(prompts)):
        text = create_infotext(
            asked, prompts, p.all_seeds[batch], p.all_subseeds[batch], index=i, all_negative_prompts=negatives
        )
        told = {name: str(value) for name, value in parse_generation_parameters(text, []).items()}
        told |= {"Prompt": prompts[i], "Negative prompt": negatives[i]}
        parts |= {f"{name} of image {i + 1}": value for name, value in told.items()} if i else told
    parts.pop("Version", None)
    parts |= {side: parts.pop(f"Size-{i}") for i, side in ((1, "Width"), (2, "Height")) if f"Size-{i}" in parts}
    parts["Batch size"] = str(p.batch_size)
    parts["Checkpoint"] = f"{p.sd_model.sd_checkpoint_info.name_for_extra} {p.sd_model_hash}"
    parts["precision"] = str(devices.dtype_unet)
    if params is not None:
        parts |= {f"DemoFusion {s.name}": s.to_text(getattr(params, s.name)) for s in SETTINGS if s.name not in NEUTRAL}
    parts |= {name: str(getattr(shared.opts, name, None)) for name in OPTIONS}
    if starting.is_given(p):  # the infotext tells it from the host's preparation on
        parts |= {
            "Denoising strength": str(starting.strength_of(p)),
            "picture": given.digest(p),
            "resize mode": str(p.resize_mode),
        }
        if starting.is_masked(p):
            parts |= masks.made_of(p)
    return (
        parts
        | {"eta": str(p.eta), "s_min_uncond": str(p.s_min_uncond)}
        | {name: str(sigma_option(p, name)) for name in SIGMA_OPTIONS}
    )


def name_of(parts: Mapping[str, str]) -> str:
    digest = hashlib.blake2b(json.dumps(sorted(parts.items())).encode(), digest_size=4).hexdigest()
    return f"{parts.get('Seed', 'seed')}-{digest}.safetensors"


def find(p: Any, name: str) -> str:
    """The path of a file that `resume` names; `last` is the newest. Raises SettingsError for one that lies elsewhere."""
    if name == LAST:
        return _newest(folder(p))
    if PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
        raise SettingsError(
            f"resume is {quoted(name)}, allowed: {LAST}, or the name of a file in {place_told()}", "resume"
        )
    return os.path.join(folder(p), name)


def _newest(place: str) -> str:
    try:
        files = [entry for entry in os.scandir(place) if entry.name.endswith(".safetensors") and entry.is_file()]
    except OSError:
        files = []
    if not files:
        raise SettingsError(f"resume is {LAST!r}, and no run has left a file in {place_told()}", "resume")
    return max(files, key=lambda entry: entry.stat().st_mtime_ns).path


def check_there(name: str, outpaths: Sequence[str]) -> None:
    """outpaths: the host's folders for pictures, by the page and by the API. Raises SettingsError, in a run's words, where
    none of them has the file that `resume` names."""
    mistakes = []
    for outpath in outpaths:
        try:
            path = find(SimpleNamespace(outpath_samples=outpath), name)
            if os.path.exists(path):
                return
            saved.read(path)
        except saved.ResumeError as error:
            mistakes.append(_told_of(error, path))
        except SettingsError as error:
            mistakes.append(error)
    raise mistakes[0]


def _told_of(error: saved.ResumeError, path: str) -> SettingsError:
    """Where the webui's folders lie is nobody's business who asks its API."""
    told = str(error).removeprefix("DemoFusion: ").replace(quoted(path), quoted(os.path.basename(path)), 1)
    return SettingsError(told, "resume")


def resumed(p: Any, plan: Plan) -> tuple[str, SavedPhase] | None:
    """The file to go on from and what it holds, of the batch that is about to be drawn; None for one drawn anew.

    A run of several batches has a file for each that was begun. Raises SettingsError for a file that can't be read, or
    that was made with other settings than all of the batches.
    """
    if not plan.params.resume:
        return None
    batches = range(max(p.n_iter, 1))
    parts = [made_of(p, plan.params, iteration) for iteration in batches]
    now = getattr(p, "iteration", 0)
    if plan.params.resume == LAST and os.path.exists(own := os.path.join(folder(p), name_of(parts[now]))):
        return own, _checked(own, plan, [parts[now]])
    path = find(p, plan.params.resume)
    found = _checked(path, plan, parts)
    return None if saved.differences(_known(found), parts[now]) else (path, found)


def _checked(path: str, plan: Plan, parts: list[dict[str, str]]) -> SavedPhase:
    """Of one of these batches. Raises SettingsError."""
    try:
        found = saved.read(path)
        differing = [saved.differences(_known(found), each) for each in parts]
        if all(differing):
            saved.check_made_of(path, _told(min(differing, key=len)))
    except saved.ResumeError as error:
        raise _told_of(error, path) from None
    sizes = [plan.first_lat, *((phase.height_lat, phase.width_lat) for phase in plan.phases)]
    fits = found.number <= len(sizes) and found.latent.shape == (plan.images, 4, *sizes[found.number - 1])
    if not fits:
        raise SettingsError(f"resume is {quoted(os.path.basename(path))}, which was made with another size")
    return found


def _known(found: SavedPhase) -> dict[str, str]:
    """Settings that a file doesn't know have come later, and leave a picture as it was where nobody sets them."""
    defaults = {f"DemoFusion {s.name}": s.to_text(s.default) for s in SETTINGS if s.name not in NEUTRAL}
    return {**defaults, **found.made_of}


def _told(names: list[str]) -> list[str]:
    """With another batch size everything of the images that one lacks differs."""
    return [name for name in names if " of image " not in name] if "Batch size" in names else names


def _number_in(path: str) -> int:
    """The phase that a file holds, 0 where there is none that can be gone on from."""
    try:
        return saved.read(path).number if path else 0
    except saved.ResumeError:
        return 0


def remove(p: Any, paths: set[str]) -> None:
    """Files that are needed no more, and the folder, if they were all."""
    for path in paths:
        saved.remove(path)
    if paths and not SAVED_DIR.value:
        with contextlib.suppress(OSError):
            os.rmdir(folder(p))


class Saving:
    """Of one batch: what is saved of it, and the file it goes on from.

    anchor: phase 1's mean and deviation, which every phase is brought back to; known once there is a base image.
    """

    def __init__(self, p: Any, plan: Plan, tell: Callable[[str], None]):
        self.p, self.plan, self.tell = p, plan, tell
        self.on = plan.params.save_phases
        self.parts = made_of(p, plan.params, p.iteration) if self.on else {}
        self.path = os.path.join(folder(p), name_of(self.parts)) if self.on else ""
        self.files: set[str] = set()
        self.there = _number_in(self.path)
        self.anchor: tuple[torch.Tensor, torch.Tensor] | None = None

    def begin(self, base: torch.Tensor) -> None:
        """base: what phase 1 ended with, cropped to the target's shape."""
        self.anchor = statistics(base)

    def go_on(self, path: str, found: SavedPhase) -> torch.Tensor:
        """The latent to go on from, where the host wants it. path: empty for one that lay in memory."""
        device = devices.device
        self.anchor = found.mean.to(device), found.deviation.to(device)
        if path:
            self.files.add(path)
        return found.latent.to(device)

    def save(self, number: int, latent: torch.Tensor, window_batch: int | None) -> None:
        """A finished phase takes the place of the one before. A full disk ends no run: it is told, once."""
        if not self.on or self.anchor is None:
            return
        if number <= self.there:  # of an earlier run, which came farther
            self.files.add(self.path)
            return
        try:
            saved.write(self.path, SavedPhase(number, latent, *self.anchor, window_batch or 0, self.parts))
        except (OSError, ValueError) as error:
            self.on = False
            why = getattr(error, "strerror", None) or str(error)
            self.tell(f"the latent of phase {number} can't be saved ({why}), nor are those after it")
        else:
            self.files.add(self.path)

    def kept(self) -> str:
        """What to tell where a run did not end well; empty where nothing was saved."""
        names = sorted(os.path.basename(path) for path in self.files if os.path.exists(path))
        return f"resume {names[-1]} goes on from there" if names else ""
