"""What ControlNet's units have in a phase, in either host: their maps, cut as the latent is, lent to them while they are asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F

from ..core import Looking, Phase
from ..plan import Plan
from ..targets import LATENT_PX

BASE_ONLY, PHASES_ONLY = "Low res only", "High res only"
"""The unit's option for Hires. fix, in whose place the phases are."""
LAST_T = 999.0

Lent = list[tuple[Any, str, Any]]


@contextlib.contextmanager
def lending(lent: Lent) -> Iterator[None]:
    """Attributes that hold something else for a while; what each is, by owner and name."""
    missing = object()
    before = [(owner, name, vars(owner).get(name, missing)) for owner, name, _ in lent]
    try:
        for owner, name, value in lent:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in reversed(before):
            if value is missing:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


@dataclass
class Plane:
    """Something that is as large as the picture, at a phase's size: `(1 or images, channels, k * height, k * width)`.

    how: what dilated sub-images get of it (`Looking.cut`). channels_how: the same of channels from the fourth on.
    """

    whole: torch.Tensor
    how: str = "mean"
    mask_how: str = ""
    small: dict[tuple[int, Any, Any], torch.Tensor] = field(default_factory=dict)
    """Of dilated sub-images, which are the same in every step: together they are as large as the plane."""

    def part(self, now: Looking) -> torch.Tensor:
        at = list(now.images) if len(self.whole) > 1 else [0] * len(now.views)
        if now.kind != "dilated":
            return self._cut(now, at)
        keys = [(row, view.rows.start, view.cols.start) for row, view in zip(at, now.views)]
        for key, row, view in zip(keys, at, now.views):
            if key not in self.small:
                self.small[key] = self._cut(replace(now, views=[view]), [row])[0]
        return torch.stack([self.small[key] for key in keys])

    def _cut(self, now: Looking, at: Sequence[int]) -> torch.Tensor:
        if not self.mask_how or self.whole.shape[1] <= 3:
            return now.cut(self.whole, at, self.how)
        parts = (now.cut(self.whole[:, :3], at, self.how), now.cut(self.whole[:, 3:], at, self.mask_how))
        return torch.cat(parts, dim=1)


def sizes_px(plan: Plan, phase: Phase) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """In pixels, `(height, width)` each: of the base image before it is cropped, at the phase's scale; the corner of what is
    left of it; and the phase's size."""
    size = phase.height_lat * LATENT_PX, phase.width_lat * LATENT_PX
    if plan.picture_lat is not None:
        return size, (0, 0), size
    axes = list(zip(plan.first_lat, plan.base_lat, size))
    whole = [round(first * length / base / LATENT_PX) * LATENT_PX for first, base, length in axes]
    corner = [
        min(round((first - base) // 2 * length / base), full - length)
        for (first, base, length), full in zip(axes, whole)
    ]
    return (whole[0], whole[1]), (corner[0], corner[1]), size


def share_at(t: float) -> float:
    """Of the way from noise to picture, which units begin and end by."""
    return min(1.0, max(0.0, 1 - t / LAST_T))


def whole_steps(lite: Any, image: torch.Tensor) -> torch.Tensor:
    """What a ControlLLLite's module is shown, `(n, 3, height, width)`, so that it answers for each token of the UNet's: the UNet
    halves a size and rounds up, the module's convolutions round down."""
    step = 4 * 2 ** getattr(lite, "depth", 1)
    height, width = image.shape[-2:]
    beyond = (0, -width % step, 0, -height % step)
    return F.pad(image, beyond, mode="replicate") if any(beyond) else image


def option_of(unit: Any) -> str:
    """Of Hires. fix. Forge takes its number or its name in the source, too."""
    option = getattr(unit, "hr_option", "")
    if isinstance(option, int):
        return ("Both", BASE_ONLY, PHASES_ONLY)[option]
    return str(getattr(option, "value", option)).rpartition(".")[2].replace("_", " ").capitalize()


def is_tile(unit: Any) -> bool:
    """By the names of its preprocessor and its model, as the extension tells its types by them."""
    return "tile" in f"{unit.module} {getattr(unit, 'model', '')}".lower()
