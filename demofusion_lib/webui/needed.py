"""The memory that a run takes, and whether its picture can be decoded in what is free."""

from __future__ import annotations

import os
import tempfile
import threading
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from modules import devices, shared

from .. import vae
from ..needs import Needs
from ..plan import Plan
from .parts import vae_of

SECONDS_KNOWN = 2.0
"""For so long what was free is taken to be free."""
MOST_LAT = 2100 * 2100
"""Cells of a picture (16800 px square), above which its decode's memory is not reckoned: that takes seconds."""


@dataclass
class Needed:
    """bytes: on the device at the most, weights included. decoding: how the last picture will be decoded. fits: None where
    nobody knows."""

    bytes: int
    fits: bool | None = None
    decoding: str = ""
    warnings: list[str] = field(default_factory=list)


class Free:
    """What is free where the host draws, as it was when nothing was drawn last: what a run holds it gives back."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.memory: vae.Memory | None = None
        self.asked = -SECONDS_KNOWN

    def __call__(self) -> vae.Memory:
        with self.lock:
            busy = bool(shared.state.job)
            if self.memory is None or (not busy and monotonic() - self.asked > SECONDS_KNOWN):
                self.memory, self.asked = vae.Memory.find(devices.device, folder()), monotonic()
            return self.memory


free = Free()


def folder() -> str:
    """Where a run would lay layers as files (`decoding.folder_of`)."""
    wanted = shared.opts.outdir_samples or shared.opts.outdir_txt2img_samples
    return wanted if os.path.isdir(wanted or "") else tempfile.gettempdir()


def needed(plan: Plan, model: Any) -> Needed | None:
    """model: the host's, which is loaded. None for a picture that is too large to be reckoned while somebody waits."""
    coder, last = vae_of(model), plan.phases[-1] if plan.phases else None
    if last is not None and last.height_lat * last.width_lat > MOST_LAT:
        return None
    needs = Needs(plan, coder, devices.device)
    sampled = max(needs.latents(phase) for phase in (None, *plan.phases))
    made = max([sampled, needs.picture(*needs.size_lat(last)), *(needs.enlarging(phase) for phase in plan.phases)])
    told = Needed(made + weights(model))
    if plan.params.vae == "host" or not plan.phases:
        return told
    try:
        chosen = vae.chosen(coder, *needs.size_lat(last), mode=plan.params.vae, memory=free(), images=plan.images)
    except vae.Unreadable:
        return told
    told.fits, told.decoding = chosen is not None, str(chosen or "")
    if chosen is None:
        told.warnings.append("the picture can't be decoded in the memory that is free")
    elif chosen.mode == "estimated" and plan.params.vae != "estimated":
        told.warnings.append("too little memory is free to decode it exactly: statistics will be estimated")
    return told


def weights(model: Any) -> int:
    """Of the model, where all of it stays on the device."""
    if getattr(model, "lowvram", False):
        model = vae_of(model)
    return sum(part.numel() * part.element_size() for part in model.parameters()) if hasattr(model, "parameters") else 0
