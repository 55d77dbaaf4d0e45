"""Pictures of finished phases: those that are kept beside the result, and the names that files of them bear."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from modules import images, shared
from modules.processing import create_infotext
from PIL import Image

from .masks import pasted
from .notes import tell

PHASE_KEY = "DemoFusion phase"
"""Of the infotext of a phase's own picture: which it is, of how many."""
IN_INFOTEXT = re.compile(rf"(?:^|, ){PHASE_KEY}: (\d+) of \d+(?:,|$)")
PER_PICTURE = ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds")
"""Of what the host hands to its page: what it looks up there by a picture's number."""


@dataclass(frozen=True)
class Place:
    """Which phase, of which image: the number of the batch, and of the image within it."""

    phase: int
    batch: int
    image: int


@dataclass
class KeptImage:
    place: Place
    image: Image.Image
    infotext: str
    file: str | None


@dataclass
class Kept:
    """Of one run. `shown` is the phase that the batch under way ends with, where that is not the last one."""

    images: list[KeptImage] = field(default_factory=list)
    shown: int | None = None
    finished: bool = False
    """Whether what the batch under way shows are finished phases, which are saved however the run ended."""
    pixels: int = 0
    """Of all those."""
    unsaved: bool = False
    """Whether there was no room for them, so that what they were drawn from is still needed."""
    awaited: Place | None = None
    """The picture that the host is about to save."""
    files: dict[Place, str] = field(default_factory=dict)

    def begin_batch(self) -> None:
        self.shown, self.finished, self.awaited, self.pixels = None, False, None, 0


def suffix(phase: int) -> str:
    return f"-demofusion-phase-{phase}"


def saves(p: Any) -> bool:
    """Whether finished pictures are saved: the host's own rule for a run that nobody stopped."""
    return bool(shared.opts.samples_save and not p.do_not_save_samples)


def to_image(decoded: torch.Tensor) -> Image.Image:
    """From the VAE's `(3, height, width)` in [-1, 1], with the host's rounding."""
    pixels = torch.clamp((decoded.float() + 1.0) / 2.0, min=0.0, max=1.0)
    return Image.fromarray((255.0 * np.moveaxis(pixels.cpu().numpy(), 0, 2)).astype(np.uint8))


def keep_images(p: Any, run: Any, phase_number: int, last: int, decoded: Sequence[torch.Tensor]) -> None:
    """Saves the decoded pictures of a finished phase beside the result."""
    batch = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
    prompts = p.all_prompts[batch]  # with what they name of extra networks, which `p.prompts` is without
    for i, tensor in enumerate(decoded):
        image, place = pasted(p, to_image(tensor), i), Place(phase_number, p.iteration, i)
        text = infotext(p, prompts, i, f"{phase_number} of {last}")
        if shared.opts.enable_pnginfo:
            image.info["parameters"] = text
        file = None
        if saves(p):
            try:
                file = save(p, place, image, prompts[i], text)
            except OSError as error:  # a full disk ends no run: the picture is shown still
                tell(
                    p,
                    run.batch_notes,
                    f"the picture of phase {phase_number} can't be saved ({error.strerror or error})",
                )
        run.kept.images.append(KeptImage(place, image, text, file))


def infotext(p: Any, prompts: Sequence[str], index: int, phase: str) -> str:
    """Of the picture of a phase, which no later one has."""
    p.extra_generation_params[PHASE_KEY] = phase
    try:
        return create_infotext(
            p, prompts, p.seeds, p.subseeds, index=index, all_negative_prompts=p.negative_prompts
        )  # fmt: skip
    finally:
        del p.extra_generation_params[PHASE_KEY]


def save(p: Any, place: Place, image: Image.Image, prompt: str, text: str) -> str:
    """The file that was written."""
    before = vars(p).get("batch_index")
    p.batch_index = i = place.image  # patterns of file names ask for it
    try:
        file, _ = images.save_image(
            image, p.outpath_samples, "", p.seeds[i], prompt, shared.opts.samples_format,
            info=text, p=p, suffix=suffix(place.phase),
        )  # fmt: skip
    finally:
        if before is None:
            del p.batch_index
        else:
            p.batch_index = before
    return written(file)


def written(file: str) -> str:
    """The file that the host has just written when it says `file`: where that one is kept, it numbers the next."""
    if shared.opts.save_images_replace_action == "Replace":
        return file
    root, extension = os.path.splitext(file)
    names = itertools.chain([file], (f"{root}-{n}{extension}" for n in itertools.count(1)))
    there = list(itertools.takewhile(os.path.exists, names))
    return max(there, key=lambda name: os.stat(name).st_mtime_ns, default=file)


def end_with(p: Any, kept: Kept, phase: int, last: int, decoded: Sequence[torch.Tensor]) -> None:
    """The batch under way shows the pictures of `phase`, `decoded`. Those kept of it would show it twice.

    Their files are taken over by what the host saves, which its own and other extensions' last touches have gone through.
    """
    pixels = [picture[0].numel() for picture in decoded]
    for i, overlay in enumerate((getattr(p, "overlay_images", None) or [])[: len(pixels)]):
        pixels[i] = overlay.width * overlay.height
    kept.finished, kept.pixels = True, sum(pixels)
    if phase == last:
        return
    kept.shown = phase
    twice = [k for k in kept.images if (k.place.phase, k.place.batch) == (phase, p.iteration)]
    kept.files = {k.place: k.file for k in twice if k.file is not None}
    kept.images = [k for k in kept.images if k not in twice]


def await_file(p: Any, kept: Kept) -> None:
    """The host is about to save the image `p.batch_index`, if it saves at all."""
    if kept.shown is not None and saves(p):
        kept.awaited = Place(kept.shown, p.iteration, p.batch_index)


def name_file(kept: Kept, params: Any) -> None:
    """Before the host writes a file (`ImageSaveParams`): a phase that is shown for the last one bears its number."""
    place, kept.awaited = kept.awaited, None
    if place is None:
        return
    root, extension = os.path.splitext(params.filename)
    file = kept.files.get(place)
    if file is None or os.path.splitext(file)[1] != extension:
        params.filename = f"{root}{suffix(place.phase)}{extension}"
        return
    params.filename = file
    if shared.opts.save_images_replace_action != "Replace" and os.path.exists(file):
        os.remove(file)  # the host would write a second file beside it


def name_chosen_file(params: Any) -> None:
    """Before the page's Save and Zip write a file (`ImageSaveParams`): a phase's bears its number there too."""
    found = IN_INFOTEXT.search(str((params.pnginfo or {}).get("parameters", "")).rpartition("\n")[2])
    root, extension = os.path.splitext(params.filename)
    if found and not root.endswith(suffix(int(found[1]))):
        params.filename = f"{root}{suffix(int(found[1]))}{extension}"


def show_kept(p: Any, processed: Any, kept: Kept) -> None:
    """Puts the kept images into the API's answer, behind the results, or into the gallery, each behind its picture."""
    if getattr(p, "is_api", False):
        processed.images.extend(k.image for k in kept.images)
        processed.infotexts.extend(k.infotext for k in kept.images)
        return
    for name in PER_PICTURE:
        setattr(processed, name, list(getattr(processed, name, None) or []))  # the host's own is not ours to lengthen
    by_picture = itertools.groupby(sorted(kept.images, key=lambda k: _order(p, k)), lambda k: _order(p, k)[0])
    for picture, group in reversed([(picture, list(group)) for picture, group in by_picture]):
        place, at = picture + 1, processed.index_of_first_image + picture + 1
        processed.images[at:at] = [k.image for k in group]
        processed.infotexts[at:at] = [k.infotext for k in group]
        for name in PER_PICTURE:
            values = getattr(processed, name)
            values[place:place] = values[picture:place] * len(group)


def _order(p: Any, kept: KeptImage) -> tuple[int, int]:
    """The number of its picture among all of the run, and the phase."""
    return kept.place.batch * p.batch_size + kept.place.image, kept.place.phase
