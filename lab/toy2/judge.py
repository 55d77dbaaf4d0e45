"""How a drawn latent's fine texture stands: whose it is, and how strong."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .exact import KINDS, NATIVE_LAT, RIGHT, SPREAD, drawn_texture


@dataclass(frozen=True)
class Subject2:
    """What image `number` shows: neighbours differ."""

    number: int

    @property
    def kind(self) -> str:
        return KINDS[self.number % len(KINDS)]

    @property
    def prompt(self) -> str:
        return f"a plain, {self.kind}"

    def true(self, scale: int, strength: float, shared: bool = False) -> torch.Tensor:
        """Texture as the word has it, `(2, height, width)`: what a perfect model without guidance would draw."""
        woven = RIGHT if self.kind == KINDS[0] else 1 - RIGHT
        generator = torch.Generator().manual_seed(1_000_003 + self.number)
        return drawn_texture((scale * NATIVE_LAT, scale * NATIVE_LAT), strength, woven, generator, shared)


@dataclass(frozen=True)
class Texture:
    """right: share of the word's texture in the power of both that is finer than the base's cells, of all at scale 1.
    contrast_db: that power against a true texture's. coarse: the share in what is no finer; nan at scale 1."""

    right: float
    contrast_db: float
    coarse: float


def judge_texture(texture: torch.Tensor, scale: int, strength: float, kind: str) -> Texture:
    """Of a latent's two channels of texture `(2, height, width)`, `scale` times as large as its base."""
    blocks = F.avg_pool2d(texture[None], scale)[0] if scale > 1 else torch.zeros(2, 1, 1)
    fine = texture - F.interpolate(blocks[None], size=texture.shape[-2:])[0]
    power, rest = fine.square().mean((1, 2)), blocks.square().mean((1, 2))
    true = strength**2 * (1 + 2 * SPREAD**2) * (1 - 1 / scale**2 if scale > 1 else 1)
    contrast_db = 10 * math.log10(max(float(power.sum()) / true, 1e-9))
    return Texture(share(power, kind), contrast_db, share(rest, kind))


def share(power: torch.Tensor, kind: str) -> float:
    """Of one texture's power in both, `power (2)`; nan where there is none."""
    total = float(power.sum())
    return float(power[KINDS.index(kind)]) / total if total else math.nan
