"""How far a run is: one bar over all that the planning room says it takes, rows of the network and pictures of the VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..plan import Plan
from ..targets import LATENT_PX
from ..work import BASE_ROW, DECODED_PX, ROW, Part, default_speeds, parts_of

DRAWS = (BASE_ROW, ROW)


class Road:
    """Moves a bar of tqdm's kind. Its unit is a row of the network; a picture's coding counts as rows that take as long.

    done: the number of the phase that a run goes on from, 0 for none; its picture, where it is wanted, is still decoded. decodes:
    whether pictures are shown.

    Every part ends where the plan says. A run that takes more or fewer rows than that, as DPM adaptive does, changes the total,
    and what has not been done is never shown as done.
    """

    def __init__(self, plan: Plan, bar: Any, *, done: int = 0, decodes: bool = True):
        self.bar = bar
        self.parts = _weighed(plan, [part for part in parts_of(plan) if _is_to_come(plan, part, done, decodes)])
        self.total = sum(rows for _, rows in self.parts)
        self.place = self.walked = self.before = 0.0
        self._show()

    def rows(self, count: int) -> None:
        """The network has evaluated so many."""
        self._reach(draws=True)
        self._step_to(self.walked + count)

    def coded(self, done: int, total: int) -> None:
        """Of a picture that is decoded or encoded, so many tiles are done."""
        self._reach(draws=False)
        if self.parts:
            self._step_to(max(self.walked, self.parts[0][1] * done / max(total, 1)))
            if done >= total:
                self._end_part()
        self._show()

    def end(self) -> None:
        """All of it is done."""
        while self.parts:
            self._end_part()
        self._show()

    def _reach(self, *, draws: bool) -> None:
        """Ends the parts before the next one of this kind: a VAE of the host's own tells of no tiles, a solver may take
        fewer rows. One of which all is done is not the next, unless there is no other."""
        is_full = self.parts and self.walked >= self.parts[0][1]
        coming = self.parts[1:] if is_full else self.parts
        if any(is_drawn == draws for is_drawn, _ in coming):
            if is_full:
                self._end_part()
            while self.parts[0][0] != draws:
                self._end_part()

    def _step_to(self, walked: float) -> None:
        self.walked = walked
        beyond = walked - (self.parts[0][1] if self.parts else 0)
        if beyond > 0:
            self.total += beyond
            if self.parts:
                self.parts[0] = self.parts[0][0], walked
            else:
                self.before, self.walked = self.before + walked, 0.0
        self._show()

    def _end_part(self) -> None:
        is_drawn, rows = self.parts.pop(0)
        if is_drawn:  # what was not drawn was not needed
            self.total -= rows - self.walked
            rows = self.walked
        self.before, self.walked = self.before + rows, 0.0

    def _show(self) -> None:
        self.bar.total = round(self.total)
        self.bar.update(round(self.before + self.walked) - self.bar.n)


def _is_to_come(plan: Plan, part: Part, done: int, decodes: bool) -> bool:
    """Of the phase that is done nothing but its picture is left."""
    if part.kind != DECODED_PX:
        return part.phase > done
    return part.phase >= done and (decodes or not _is_shown(plan, part))


def _is_shown(plan: Plan, part: Part) -> bool:
    """Whether a picture is decoded for the user, not for the next phase, of which it is a part then."""
    sizes = {phase.number: (phase.width_lat * LATENT_PX, phase.height_lat * LATENT_PX) for phase in plan.phases}
    return part.kind == DECODED_PX and (part.phase == 1 or part.size_px == sizes[part.phase])


def _weighed(plan: Plan, parts: Sequence[Part]) -> list[tuple[bool, float]]:
    """Whether the network draws it, and how many rows it is worth; of a batch's pictures that are shown, each."""
    height, width = plan.window_lat
    speeds = default_speeds(1.0, height * width * LATENT_PX**2)
    weighed = []
    for part in parts:
        images = plan.images if _is_shown(plan, part) else 1
        weighed += [(part.kind in DRAWS, part.amount * speeds.of(part.kind) / images)] * images if part.amount else []
    return weighed
