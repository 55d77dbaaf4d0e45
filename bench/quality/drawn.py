"""The pictures of one row and one size, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.quality.otherwise import Redrawer, Redrawn, hires, tiles, tiles_grid
from bench.quality.rows import UNIT, Case, Row, Subject
from bench.quality.seams import Lines, lines_of
from demofusion_lib import vae
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.models import Model
from demofusion_lib.targets import LATENT_PX
from lab.scenes import render

TRUTH, REFERENCE = 1, 2
"""Salts: the row `truth` is one set of true scenes, measured against another."""
UNDIVIDED_PX = 1024 * 1024
"""Larger pictures pass the autoencoder by exact tiles: undivided, one of 2048 px takes 20 GB."""


@dataclass(frozen=True)
class Pictures:
    """A few pictures `(count, 3, height, width)` in [0, 1], their bases, and what one of them took.

    lines: where windows that drew them begin and end, or those of the default settings. units: in native pictures at 20
    steps, an evaluation of more area counting for more. seconds: of sampling, the autoencoder's left out.
    """

    finals: torch.Tensor
    bases: torch.Tensor
    lines: Lines
    evaluations: float
    units: float
    seconds: float


class Studio:
    """Draws with one model. True pictures pass through its autoencoder too: what that loses is no fault of the method."""

    def __init__(self, model: Model):
        self.model = model
        self.window_batch = 16 if model.device.type == "cpu" else 64  # the most the setting allows

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pictures = [self._decode(one[None]) for one in latents / self.model.vae.config.scaling_factor]
        return torch.cat(pictures).float().add(1).div(2).clamp(0, 1).cpu()

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        if latent.shape[-2] * latent.shape[-1] * LATENT_PX**2 > UNDIVIDED_PX:
            return vae.decode(self.model.vae, latent, mode="exact")
        picture: torch.Tensor = self.model.vae.decode(latent, return_dict=False)[0]
        return picture

    @torch.no_grad()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        scaled = pictures.to(self.model.device) * 2 - 1
        return torch.cat([self._encode(one[None]) for one in scaled]) * self.model.vae.config.scaling_factor

    def _encode(self, picture: torch.Tensor) -> torch.Tensor:
        if picture.shape[-2] * picture.shape[-1] > UNDIVIDED_PX:
            return vae.encode(self.model.vae, picture, mode="exact").chunk(2, 1)[0].to(self.model.device)
        mean: torch.Tensor = self.model.vae.encode(picture).latent_dist.mean
        return mean

    def through_autoencoder(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.decode(self.encode(one[None])) for one in pictures])

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
        drawing = Drawing(self.model, order)
        grids = {phase.number: drawing.plan.grid(phase) for phase in drawing.plan.phases}
        for phase in drawing.phases():
            evaluations, seconds = evaluations + phase.evaluations, seconds + phase.seconds
            if bases is None:
                bases = self.decode(phase.latent)
            case = by_size.get((phase.size_px[1], phase.size_px[0]))
            if case is not None:
                rows, lines = evaluations / count, lines_of(grids[phase.number])
                yield case, Pictures(self.decode(phase.latent), bases, lines, rows, rows / UNIT, seconds / count)

    def still(self, row: Row, case: Case, subjects: Sequence[Subject]) -> Pictures:
        """Rows without phases."""
        lines = self.default_lines(case, subjects)
        if row.kind == "truth":
            return Pictures(self.true(case, subjects, case.scale), self.true(case, subjects, 1), lines, 0, 0, 0)
        if row.kind == "direct":
            return self.direct(row, case, subjects)
        drawn, count = self.base(row.order(case, subjects)), len(subjects)
        bases, rows, units, seconds = (
            self.decode(drawn.latent),
            drawn.evaluations / count,
            drawn.evaluations / count,
            0.0,
        )
        if row.kind == "bicubic":
            finals = F.interpolate(bases, size=case.size_px, mode="bicubic").clamp(0, 1)
        else:
            redrawn = self.redrawn(row, case, subjects, drawn.latent)
            finals, seconds = self.decode(redrawn.latent), redrawn.seconds
            rows, units = rows + redrawn.rows, units + redrawn.native_rows
            if row.kind == "tiles":
                lines = lines_of(tiles_grid(in_cells(case.size_px), in_cells(case.base_px)))
        return Pictures(finals, bases, lines, rows, units / UNIT, (drawn.seconds + seconds) / count)

    def direct(self, row: Row, case: Case, subjects: Sequence[Subject]) -> Pictures:
        drawn, count = self.base(row.order(case, subjects)), len(subjects)
        bases = self.decode(self.base(BASE.order(case, subjects)).latent)
        rows, lines = drawn.evaluations / count, self.default_lines(case, subjects)
        return Pictures(
            self.decode(drawn.latent), bases, lines, rows, rows * case.scale**2 / UNIT, drawn.seconds / count
        )

    def redrawn(self, row: Row, case: Case, subjects: Sequence[Subject], base: torch.Tensor) -> Redrawn:
        redraw, size = Redrawer(self.model, row.order(case, subjects)), in_cells(case.size_px)
        if row.kind == "hires":
            return hires(redraw, base, size, row.strength, row.phase_steps)
        return tiles(redraw, base, size, self.decode, self.encode)

    def default_lines(self, case: Case, subjects: Sequence[Subject]) -> Lines:
        plan = Drawing(self.model, Row("method").order(case, subjects)).plan
        return lines_of(plan.grid(plan.phases[-1]))

    def base(self, order: Order) -> Finished:
        return next(iter(Drawing(self.model, order).phases()))


def in_cells(size_px: tuple[int, int]) -> tuple[int, int]:
    return size_px[0] // LATENT_PX, size_px[1] // LATENT_PX


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
