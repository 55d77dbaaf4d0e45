"""What a run allocates on the device beside the model's weights and its network's work, reckoned from the plan."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from . import vae
from .core import Phase
from .plan import LATENT_CHANNELS, Plan
from .targets import LATENT_PX

HELD = 9
"""Latents of a phase's size that are there at once, as measured: the phase before as it was and enlarged, the noise, the
sampler's own, what the residual and the fusion make of them."""
FUSED = 2
"""For every row that an image takes: what the model is given, and what comes back."""
MORE = {"sde": 48, "heun": 4, "dpm_2": 4, "dpm_adaptive": 4, "unipc": 4}
"""What k-diffusion's samplers hold beside, by a part of their names. The noise of SDE is a tree, whose branches torchsde keeps 45 of."""

SIZES_KEPT = 200


@dataclass(frozen=True)
class Needs:
    """Of a plan with the VAE that it is drawn with, on the model's device. All in bytes.

    coder: the VAE's module; what can't be read of it counts nothing. held, more: latents, of samplers other than k-diffusion's.
    """

    plan: Plan
    coder: Any
    device: torch.device
    held: int = HELD
    more: Mapping[str, int] = field(default_factory=lambda: MORE)

    @property
    def mode(self) -> str:
        return "estimated" if self.plan.params.vae == "estimated" else "exact"

    def size_lat(self, phase: Phase | None) -> tuple[int, int]:
        """`(height, width)` of a phase, None for the base image."""
        return self.plan.first_lat if phase is None else (phase.height_lat, phase.width_lat)

    def latents(self, phase: Phase | None, solver: str = "") -> int:
        """That are there while a phase is sampled. solver: by name, the plan's own unless told."""
        plan, (height, width) = self.plan, self.size_lat(phase)
        solver = solver or (plan.solver if phase is None else plan.phase_solver or plan.solver)
        more = next((latents for name, latents in self.more.items() if name in solver), 0)
        latent = plan.images * LATENT_CHANNELS * height * width * torch.float32.itemsize
        return latent * (self.held + FUSED * (plan.passes if phase is None else plan.phase_passes) + more)

    def enlarging(self, phase: Phase | None) -> int:
        """Of a phase that begins from pixels: the picture before it, decoded and enlarged, and the larger one encoded."""
        plan = self.plan
        if phase is None or plan.params.enlarge != "pixels":
            return 0
        given = plan.picture_lat is not None
        sizes = [plan.first_lat if given else plan.base_lat, *map(self.size_lat, plan.phases)]
        cells, before = (height * width for height, width in (sizes[phase.number - 1], sizes[phase.number - 2]))
        picture = 3 * LATENT_PX**2 * torch.float32.itemsize
        latents = plan.images * LATENT_CHANNELS * (cells + before) * torch.float32.itemsize
        decoded = 0 if given and phase.number == 2 else self.picture(*sizes[phase.number - 2])
        # a cubic is made from a picture of this size and one of that, and clamped where it lies
        return latents + max(decoded, picture * (before + cells), picture * cells + self.encoding(self.size_lat(phase)))

    def given(self, phase: Phase | None) -> int:
        """Of a phase that draws nothing: the given picture, encoded as phase 1, or enlarged."""
        (height, width), (own_height, own_width) = self.size_lat(phase), self.plan.first_lat
        pixel = 3 * LATENT_PX**2 * torch.float32.itemsize
        more = self.encoding((height, width)) if self.plan.strength else pixel * height * width
        return pixel * own_height * own_width + more

    def encoding(self, size_lat: tuple[int, int]) -> int:
        """Of encoding a picture of so many cells, which is there already."""
        size_px = size_lat[0] * LATENT_PX, size_lat[1] * LATENT_PX
        try:
            made = _peak(self.coder, *size_px, self.mode, True)
        except vae.Unreadable:
            return 0
        return made.device_bytes + (made.store_bytes if made.store == "device" else 0)

    def picture(self, height: int, width: int) -> int:
        """Of decoding one picture of so many cells by tiles, layers and picture included where they lie on the device; in
        one piece it is more."""
        try:
            made = _peak(self.coder, height, width, self.mode, False)
        except vae.Unreadable:
            return 0
        picture = 3 * height * width * LATENT_PX**2 * made.dtype.itemsize if self.device.type == "cpu" else 0
        return made.device_bytes + (made.store_bytes if made.store == "device" else 0) + picture


_found: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], vae.Plan]] = weakref.WeakKeyDictionary()


def _peak(coder: Any, height: int, width: int, mode: str, encoder: bool) -> vae.Plan:
    """`vae.peak_bytes`, reckoned once for a size: it is asked for at every key that somebody types."""
    weight = next(coder.parameters(), None) if isinstance(coder, torch.nn.Module) else None
    if weight is None:
        return vae.peak_bytes(coder, height, width, mode=mode, encoder=encoder)
    known = _found.setdefault(coder, {})
    key = height, width, mode, encoder, weight.dtype, weight.device
    if key not in known:
        if len(known) >= SIZES_KEPT:
            known.clear()
        known[key] = vae.peak_bytes(coder, height, width, mode=mode, encoder=encoder)
    return known[key]
