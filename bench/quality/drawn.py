"""The pictures of one row and one size, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.quality.rows import Case, Row, Subject
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
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
        self.window_batch = 16 if model.device.type == "cpu" else 64  # the most the setting allows

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

    def draw(self, row: Row, cases: Sequence[Case], subjects: Sequence[Subject]) -> Iterator[tuple[Case, Pictures]]:
        """The same subjects at each size. A climb that passes through another size is drawn once for both."""
        waiting = sorted(cases, key=lambda case: -case.scale)
        while waiting:
            largest = row.order(waiting[0], subjects, self.window_batch)
            served = [case for case in waiting if row.kind == "drawn" and passes(largest, row.order(case, subjects))]
            if served:
                yield from self.climb(largest, served)
            else:
                served = waiting[:1]
                yield served[0], self.still(row, served[0], subjects)
            waiting = [case for case in waiting if case not in served]

    def climb(self, order: Order, cases: Sequence[Case]) -> Iterator[tuple[Case, Pictures]]:
        """Phases of one drawing, decoded where they have the size of one of `cases`."""
        by_size = {case.size_px: case for case in cases}
        evaluations, seconds, count, bases = 0, 0.0, len(order.prompts), None
        for phase in Drawing(self.model, order).phases():
            evaluations, seconds = evaluations + phase.evaluations, seconds + phase.seconds
            if bases is None:
                bases = self.decode(phase.latent)
            case = by_size.get((phase.size_px[1], phase.size_px[0]))
            if case is not None:
                yield case, Pictures(self.decode(phase.latent), bases, evaluations / count, seconds / count)

    def still(self, row: Row, case: Case, subjects: Sequence[Subject]) -> Pictures:
        """Rows without phases."""
        if row.kind == "truth":
            return Pictures(self.true(case, subjects, case.scale), self.true(case, subjects, 1), 0, 0)
        drawn = self.base(row.order(case, subjects))
        finals = self.decode(drawn.latent)
        if row.kind == "bicubic":
            bases, finals = finals, F.interpolate(finals, size=case.size_px, mode="bicubic").clamp(0, 1)
        else:
            bases = self.decode(self.base(BASE.order(case, subjects)).latent)
        return Pictures(finals, bases, drawn.evaluations / len(subjects), drawn.seconds / len(subjects))

    def base(self, order: Order) -> Finished:
        return next(iter(Drawing(self.model, order).phases()))


def passes(climb: Order, order: Order) -> bool:
    """Whether `climb` draws what `order` asks for on its way: a phase hangs on those before it alone."""
    sizes, wanted = (
        [(p.height_lat, p.width_lat) for p in one.params.phases(one.base_lat)[1]] for one in (climb, order)
    )
    return sizes[: len(wanted)] == wanted


BASE = Row("base")


def batches(counts: Mapping[Case, int], images: int, batch: int) -> Iterator[tuple[list[Case], list[Subject]]]:
    """What to draw until each case has `images`, given how many it has: the cases that lack the most, then with the next."""
    counts = dict(counts)
    while (first := min(counts.values())) < images:
        last = min(first + batch, images, *(count for count in counts.values() if count > first))
        due = [case for case, count in counts.items() if count == first]
        yield due, [Subject(number) for number in range(first, last)]
        counts |= dict.fromkeys(due, last)
