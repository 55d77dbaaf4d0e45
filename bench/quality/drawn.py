"""The pictures of one row and one size, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
import torch.nn.functional as F

from bench.quality.rows import Case, Row, Subject
from demofusion_lib.standalone.drawing import Drawing
from demofusion_lib.standalone.models import Model
from lab.scenes import render

TRUTH, REFERENCE = 1, 2
"""Salts: the row `truth` is one set of true scenes, measured against another."""


@dataclass(frozen=True)
class Pictures:
    """A few pictures `(count, 3, height, width)` in [0, 1], their bases, and what one of them took."""

    finals: torch.Tensor
    bases: torch.Tensor
    evaluations: float
    seconds: float


class Studio:
    """Draws with one model. True pictures pass through its autoencoder too: what that loses is no fault of the method."""

    def __init__(self, model: Model):
        self.model = model

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        scaled = latents / self.model.vae.config.scaling_factor
        pictures = [self.model.vae.decode(one[None], return_dict=False)[0] for one in scaled]
        return torch.cat(pictures).float().add(1).div(2).clamp(0, 1).cpu()

    @torch.no_grad()
    def through_autoencoder(self, pictures: torch.Tensor) -> torch.Tensor:
        scaled = pictures.to(self.model.device) * 2 - 1
        latents = torch.cat([self.model.vae.encode(one[None]).latent_dist.mean for one in scaled])
        return self.decode(latents * self.model.vae.config.scaling_factor)

    def true(self, case: Case, subjects: Sequence[Subject], scale: int, salt: int = TRUTH) -> torch.Tensor:
        """True pictures at `scale` times the base size of `case`, `(count, 3, height, width)` in [0, 1]."""
        scenes = [subject.scene(case.base_px, salt) for subject in subjects]
        return self.through_autoencoder(torch.stack([render(scene, scale) for scene in scenes]))

    def draw(self, row: Row, case: Case, subjects: Sequence[Subject]) -> Pictures:
        if row.kind == "truth":
            return Pictures(self.true(case, subjects, case.scale), self.true(case, subjects, 1), 0, 0)
        begun = perf_counter()
        order = row.order(case, subjects)
        phases = []
        for phase in Drawing(self.model, order).phases():
            phases.append(phase)
            if row.kind == "bicubic":
                break
        seconds = perf_counter() - begun
        finals, bases = self.decode(phases[-1].latent), self.decode(phases[0].latent)
        if row.kind == "bicubic":
            finals = F.interpolate(bases, size=case.size_px, mode="bicubic").clamp(0, 1)
        if row.kind == "direct":
            bases = self.decode(next(iter(Drawing(self.model, BASE.order(case, subjects)).phases())).latent)
        evaluations = sum(phase.evaluations for phase in phases)
        return Pictures(finals, bases, evaluations / len(subjects), seconds / len(subjects))


BASE = Row("base")


def batches(begin: int, images: int, batch: int) -> Iterator[list[Subject]]:
    for first in range(begin, images, batch):
        yield [Subject(number) for number in range(first, min(first + batch, images))]
