"""What runs leave in memory, and what a run takes over of it: the host's base images, and phases of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from modules import scripts, shared

from ..core import statistics
from ..plan import LATENT_CHANNELS, Plan
from ..saved import SavedPhase
from .fingerprint import KEYS, OF_DECODING, Unknown, digest_of, is_ours, of_base, of_phases, size_of_phase
from .held import STORE, Held, Origin, most_bytes
from .starting import is_given

ATTRIBUTE = "demofusion_watch"
CHOSEN = "demofusion_chosen"
"""Of a processing object: where the picture comes from that the gallery's button enlarges."""


@dataclass
class Watch:
    """Of one processing object, over all its batches.

    added: names that samplings have put into its infotext, which are there before the next one. key: of the base images
    under way, empty where they are not to be held. before: what the infotext was told when they were begun. model: what draws
    them.
    """

    owner: int
    added: set[str] = field(default_factory=set)
    key: str = ""
    before: dict[str, Any] = field(default_factory=dict)
    model: dict[str, str] = field(default_factory=dict)
    origins: dict[int, Origin] = field(default_factory=dict)
    """Of the batches' first images."""

    @classmethod
    def of(cls, p: Any) -> Watch:
        """Another extension's copy of the object has its own."""
        watch: Watch | None = getattr(p, ATTRIBUTE, None)
        if watch is None or watch.owner != id(p):
            watch = cls(id(p))
            setattr(p, ATTRIBUTE, watch)
        return watch

    def begin(self, p: Any) -> None:
        """The base images of a batch are about to be sampled, and everything that they depend on is set."""
        told = p.extra_generation_params.items()
        self.before = {name: value for name, value in told if name not in KEYS and name not in self.added}
        counted = {n: v for n, v in self.before.items() if n not in OF_DECODING and not callable(v)}
        self.model = model_of(p)
        try:
            self.key = of_base(p, counted) if most_bytes() else ""
        except Unknown:
            self.key = ""

    def told(self, p: Any) -> dict[str, Any]:
        """What samplings have told since then."""
        now = {n: v for n, v in p.extra_generation_params.items() if n not in KEYS and n not in OF_DECODING}
        told = {name: value for name, value in now.items() if self.before.get(name) != value or name in self.added}
        self.added |= set(told)
        return {name: value for name, value in told.items() if isinstance(value, (bool, int, float, str))}


# Base images of runs without phases


def base_begins(p: Any) -> None:
    if not is_given(p) and not getattr(p, "is_hr_pass", False):
        Watch.of(p).begin(p)


def is_foreign(p: Any) -> bool:
    """Whether somebody else draws the base images, or may change them before we see them."""
    runner = p.scripts
    changing = (s for s in (runner.alwayson_scripts if runner else ()) if not is_ours(s))
    return "sample" in vars(p) or any(type(s).post_sample is not scripts.Script.post_sample for s in changing)


def base_ended(p: Any, latent: Any) -> None:
    """latent: what the host's `sample` returned, `(batch, 4, height, width)`; with Hires. fix it may be a picture."""
    watch = Watch.of(p)
    stopped = shared.state.interrupted or shared.state.skipped
    key, told = watch.key, watch.told(p)
    watch.key = ""
    if key and not stopped and not getattr(p, "enable_hr", False) and is_latent(latent) and not is_foreign(p):
        hold(key, SavedPhase(1, latent, *statistics(latent), 0, watch.model), told)
        watch.origins[p.iteration] = Origin(key, 0, len(latent))


def is_latent(latent: Any) -> bool:
    return isinstance(latent, torch.Tensor) and latent.ndim == 4 and latent.shape[1] == LATENT_CHANNELS


def hold(key: str, phase: SavedPhase, told: dict[str, Any]) -> None:
    """A copy in the CPU's memory."""
    copies = (part.detach().to("cpu", copy=True) for part in (phase.latent, phase.mean, phase.deviation))
    held = Held(SavedPhase(phase.number, *copies, phase.window_batch, phase.made_of), told)
    if bool(torch.isfinite(held.phase.latent).all()):
        STORE.put(key, held)


def name_pictures(p: Any, processed: Any, kept: Any = ()) -> None:
    """What the gallery will know the pictures by. kept: those of phases, beside them."""
    watch = Watch.of(p)
    for at, infotext in enumerate(processed.infotexts[processed.index_of_first_image :]):
        _name(watch, *divmod(at, p.batch_size), infotext)
    for picture in kept:
        _name(watch, picture.place.batch, picture.place.image, picture.infotext)


def _name(watch: Watch, batch: int, image: int, infotext: str) -> None:
    origin = watch.origins.get(batch)
    if origin is not None and infotext:
        STORE.name(infotext, Origin(origin.key, origin.image + image, origin.images))


def origin_of(p: Any, infotext: str) -> Origin | None:
    """Of a picture whose base image is held, and was drawn by the model that `p` is going to be drawn by."""
    STORE.trim()
    origin = STORE.origin(infotext)
    held = STORE.get(origin.key) if origin else None
    if held is None:
        return None
    return origin if "sd_model_checkpoint" in p.override_settings or held.phase.made_of == model_of(p) else None


def model_of(p: Any) -> dict[str, str]:
    info = p.sd_model.sd_checkpoint_info
    return {"Checkpoint": str(info.name_for_extra)}


# Runs with phases


class Holding:
    """Of one batch: the finished phases that it takes over, and those that it leaves.

    foreign: whether another extension draws the base images, by what nobody knows. A given picture, which nobody draws, is
    held by its user.
    """

    def __init__(self, p: Any, plan: Plan, foreign: bool):
        self.p, self.plan = p, plan
        self.watch = Watch.of(p)
        self.watch.begin(p)
        if foreign or is_given(p):
            self.watch.key = ""
        self.chosen: Origin | None = getattr(p, CHOSEN, None)
        self.origin = self.chosen or Origin(self.watch.key, 0, plan.images)
        self.root = self.chosen.root if self.chosen else self.watch.key
        STORE.trim()
        try:
            self.phases = of_phases(p, plan) if self.watch.key else ""
        except Unknown:
            self.phases = ""

    def key(self, number: int) -> str:
        """What a phase is held under; empty where it is not."""
        if not (self.phases and self.root):
            return ""
        if number == 1:
            return "" if self.chosen else self.root
        sizes = [size_of_phase(self.p, self.plan, n) for n in range(2, number + 1)]
        return digest_of(self.root, self.phases, sizes)

    def take(self) -> list[SavedPhase]:
        """The finished phases up to the last that is held, those of them that are held; none where there are none."""
        found = {number: held for number in range(1, len(self.plan.phases) + 2) if (held := self._held(number))}
        keeps = self.plan.params.keep_phases
        if keeps and self.p.refiner_checkpoint_info is not None and not self.chosen:
            return []  # the refiner's VAE decodes the base image, and it is not loaded
        for number in sorted(found, reverse=True):
            below = [found[n] for n in range(1, number + 1) if n in found]
            if len(below) == number or not keeps:
                self._tell(below[-1])
                return [held.phase for held in below]
        return []

    def _tell(self, last: Held) -> None:
        self.p.extra_generation_params.update(last.told)
        self.watch.added |= set(last.told)
        self.watch.origins[self.p.iteration] = self.origin
        number = last.phase.number
        phases = f"phases 1 to {number} are" if number > 1 else "phase 1 is"
        self.p.comment(f"DemoFusion: {phases} taken over from an earlier run.")

    def _held(self, number: int) -> Held | None:
        if number == 1 and self.chosen:
            return self._chosen_base(self.chosen)
        key = self.key(number)
        held = STORE.get(key) if key else None
        return held if held and self._fits(held.phase) else None

    def _chosen_base(self, chosen: Origin) -> Held | None:
        held = STORE.get(chosen.key)
        if held is None:
            return None
        at = slice(chosen.image, chosen.image + 1)
        whole = held.phase
        phase = SavedPhase(1, whole.latent[at], whole.mean[at], whole.deviation[at], whole.window_batch, {})
        return Held(phase, held.told) if self._fits(phase) else None

    def _fits(self, phase: SavedPhase) -> bool:
        sizes = [self.plan.first_lat, *((each.height_lat, each.width_lat) for each in self.plan.phases)]
        return phase.latent.shape == (self.plan.images, LATENT_CHANNELS, *sizes[phase.number - 1])

    def hold(self, number: int, latent: torch.Tensor, anchor: Any, window_batch: int | None) -> None:
        """A finished phase."""
        told, key = self.watch.told(self.p), self.key(number)
        if key and STORE.get(key) is None:
            anchor = anchor or statistics(latent)
            hold(key, SavedPhase(number, latent, *anchor, window_batch or 0, self.watch.model), told)
        if self.origin.key:
            self.watch.origins[self.p.iteration] = self.origin
