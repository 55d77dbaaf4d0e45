"""How far a job is, from the first step of its first base image to the last tile of its last picture, for the host's bar and
for those who ask the API.

The host reckons `job_no / job_count + sampling_step / sampling_steps / job_count`, where the last two are those of the
sampling under way, and what is left from that and the time since the job began. `job_count` stays the number of pictures:
at 1 the page's Interrupt stops at once, above it it waits for the picture to end. So that the sum is right nevertheless,
`job_no` is a number that knows the rest when it is divided, and that goes on knowing it when the host counts on.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from time import time
from typing import Any

from modules import shared

from ..core import Phase
from ..pace import Pace
from ..plan import Plan
from ..targets import LATENT_PX
from ..work import BASE_ROW, DECODED_PX, ENCODED_PX, ROW, decode_part, parts_of
from . import speeds

AHEAD = 0.005
"""The host's API adds a hundredth to the share, its page does not, and each reckons the rest of the time from what it has:
with half of it taken off, both are as little wrong."""
LATE = 0.05
"""Where a stretch takes longer than was thought and shows nothing, this share of what was thought to be left stays."""


class Job(int):
    """A `job_no` that is as far as the host's job is when the host divides it by the number of pictures."""

    bar: Bar

    def __new__(cls, number: int, bar: Bar) -> Job:
        job = super().__new__(cls, number)
        job.bar = bar
        return job

    def __truediv__(self, count: Any) -> float:
        # the host adds its own share of the sampling under way to this
        return max(0.0, self.bar.share(count) - AHEAD) - host_share() / count

    def __add__(self, other: int) -> Job:
        return Job(int(self) + other, self.bar)


class Bar:
    """Of one job of the host, all its pictures: of a batch count, or of a plot's cells."""

    def __init__(self, pace: Pace):
        self.began = began()
        self.pace = pace
        self.shown = 0.0
        self.in_parts = 0.0
        """Seconds of pictures that are drawn, in all that is reckoned with here."""
        self.beside = 0.0
        """Seconds a picture in what is not, such as saving it; of those that are drawn."""
        self.picture: Progress | None = None

    def begin(self, picture: Progress) -> None:
        """The next picture."""
        before, self.picture = self.picture, picture
        if before is not None and picture.number > 0:
            self.in_parts += before.in_parts
            self.beside = max(0.0, time() - self.began - self.in_parts) / picture.number

    def share(self, count: int) -> float:
        """Of the time that the job will have taken, what is behind us; it never falls."""
        left = self.seconds_left(count)
        if left is not None:
            passed = max(time() - self.began, 0.0)
            self.shown = max(self.shown, min(1.0, passed / (passed + left)) if passed + left > 0 else 0.0)
        return self.shown

    def seconds_left(self, count: int) -> float | None:
        """None where it is too early to say."""
        if self.picture is None:
            return None
        left = self.picture.seconds_left()
        to_come = count - self.picture.number - 1
        if left is None or to_come <= 0:
            return left
        each = self.pace.seconds((part.kind, part.amount) for part in self.picture.planned)
        return None if each is None else left + to_come * (each + self.beside)


class Progress:
    """Of one picture, or of one batch of them."""

    def __init__(self, plan: Plan, model: Any = None):
        self.plan, self.model = plan, model
        self.planned = parts_of(plan)
        self.parts = list(self.planned)
        """Those that are done, and those that are still to be."""
        self.at = 0
        self.done = 0.0
        """The share of the part under way."""
        self.under_way = self.ended = False
        self.marked = time()
        self.in_parts = 0.0
        self.evaluations = 0
        self.own = Pace(None, 1)
        """What this picture has shown, for the runs to come."""
        self.own.expect(self.planned)
        self.number = int(shared.state.job_no)
        self.images = plan.images
        self.image, self.tiles_done = 0, 0.0
        self.step_text = ""

    # the host's state

    def begin(self) -> None:
        """The base image comes next."""
        found = shared.state.job_no
        if isinstance(found, Job) and found.bar.began == began():
            self.bar = found.bar
        else:
            known = speeds.known(self.model, self.plan.window_lat, self.plan.params.vae)
            self.bar = Bar(Pace(known, self.plan.window_lat[0] * self.plan.window_lat[1] * LATENT_PX**2))
        self.bar.begin(self)
        self.bar.pace.expect(self.planned)
        shared.state.job_no = Job(self.number, self.bar)
        self._begin(0)
        self._name_phase(1)

    def end(self) -> None:
        """The picture is drawn, or will never be; the host's own count of it is full."""
        self.ended, self.under_way = True, False
        shared.state.textinfo = None
        shared.state.sampling_step = shared.state.sampling_steps
        speeds.learn(self.model, self.plan.window_lat, self.plan.params.vae, self.own.shown())

    # parts, in their order

    @contextlib.contextmanager
    def part(self, kind: str, phase: int) -> Iterator[None]:
        """The next one of this kind that belongs to a phase; it is done when this ends without an error."""
        ahead = range(self.at + 1, len(self.parts))
        found = [i for i in ahead if (self.parts[i].kind, self.parts[i].phase) == (kind, phase)]
        self._begin(found[0] if found else self.at)
        yield
        self.advance(1.0)
        self.under_way = False

    def _begin(self, at: int) -> None:
        self.at, self.done, self.under_way = at, 0.0, True
        self.marked = time()
        self.image, self.tiles_done = 0, 0.0

    def advance(self, share: float) -> None:
        """`share` of the part under way are behind us."""
        part, now, share = self.parts[self.at], time(), min(share, 1.0)
        if not self.under_way or share <= self.done:
            return
        # the first evaluation of a base image loads and warms up what the others find
        first = part.kind == BASE_ROW and self.done == 0 and share < 1
        seconds, amount = (0.0, 0.0) if first else (now - self.marked, (share - self.done) * part.amount)
        for pace in (self.bar.pace, self.own):
            pace.show(part, amount, seconds)
        self.in_parts += now - self.marked
        self.marked, self.done = now, share

    def seconds_left(self) -> float | None:
        """Of this picture."""
        if self.ended:
            return 0.0
        part = self.parts[self.at]
        left = self.bar.pace.seconds([(part.kind, part.amount * (1 - self.done))])
        rest = self.bar.pace.seconds((part.kind, part.amount) for part in self.parts[self.at + 1 :])
        if left is None or rest is None:
            return None
        return max(left - (time() - self.marked), LATE * left) + rest

    # what the parts tell

    def evaluated(self) -> None:
        """The host has evaluated its model once, be it in the base image."""
        part, steps = self.parts[self.at], self.plan.first_steps
        if self.under_way and part.kind == BASE_ROW and part.amount:
            self.evaluations += 1
            rows = self.plan.images * self.plan.passes
            self.advance(min(self.evaluations * rows / part.amount, 1.0 if self.plan.is_exact else 0.95))
            self._name_phase(1, f", step {min(shared.state.sampling_step + 1, steps)} of {steps}")

    def drawing_first(self) -> AbstractContextManager[None]:
        """Phase 1 of a picture behind a mask, which is encoded by now."""
        self._name_phase(1)
        return self.part(BASE_ROW, 1)

    def base_ended(self) -> None:
        self.advance(1.0)
        self.under_way = False

    def skip(self, samplings: int) -> None:
        """So many of them an earlier run has done."""
        done = max(i for i, part in enumerate(self.parts) if part.kind in (BASE_ROW, ROW) and part.phase == samplings)
        self.parts = [self.parts[done], *self.parts[done + 1 :]]
        self.at, self.done, self.under_way = 0, 1.0, False

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        self._name_phase(phase.number)
        with self.part(ROW, phase.number):
            yield

    def step(self, phase: Phase, number: int, steps: int) -> None:
        """Step `number`, the first is 0, of so many."""
        self._name_phase(phase.number, f", step {min(number + 1, steps)} of {steps}")

    def step_ends(self, phase: Phase, steps: int) -> list[float]:
        """How many rows the model is given to the end of each step; of a sampler with more evaluations than steps, on average."""
        levels = self.plan.phase_levels
        if len(levels) == steps:
            return list(itertools.accumulate(float(self.plan.images * self.plan.rows(phase, t)) for t in levels))
        return [self.plan.evaluations(phase) * (number + 1) / steps for number in range(steps)]

    @contextlib.contextmanager
    def between(self, kind: str) -> Iterator[None]:
        """A picture is decoded or encoded for the phase that comes next to begin with."""
        with self.part(kind, next((part.phase for part in self.parts[self.at + 1 :] if part.kind == kind), 0)):
            self._name_vae(0.0)
            yield

    @contextlib.contextmanager
    def kept(self, phase: int) -> Iterator[None]:
        """The pictures of a finished phase are decoded to be shown beside the result; also of one that was skipped."""
        if not any((part.kind, part.phase) == (DECODED_PX, phase) for part in self.parts[self.at + 1 :]):
            self.parts.insert(self.at + 1, decode_part(phase, self._size_of(phase), self.images))
        with self.part(DECODED_PX, phase):
            self._name_vae(0.0)
            yield

    @contextlib.contextmanager
    def delivered(self, phase: int, size_px: tuple[int, int]) -> Iterator[None]:
        """The pictures of `phase` are decoded to be the result, whatever was still to come."""
        self.parts[self.at + 1 :] = [decode_part(phase, size_px, self.images)]
        with self.part(DECODED_PX, phase):
            self._name_vae(0.0)
            yield

    def tile(self, share: float) -> None:
        """How far the VAE is with a picture; of several pictures of a part, one after the other."""
        part = self.parts[self.at]
        if not self.under_way or part.kind not in (DECODED_PX, ENCODED_PX):
            return
        if share < self.tiles_done:
            self.image += 1
        self.tiles_done = share
        pictures = max(1, round(part.amount / decode_part(1, part.size_px).amount))
        self.advance((min(self.image, pictures - 1) + share) / pictures)
        self._name_vae(share)

    @property
    def decodes(self) -> bool:
        """Whether the picture that is decoded now is one of the run's own."""
        return self.under_way and self.parts[self.at].kind == DECODED_PX

    def decode_seconds(self, size_px: tuple[int, int]) -> float | None:
        """What a decode of so many pixels is thought to take."""
        part = decode_part(1, size_px)
        return self.bar.pace.seconds([(part.kind, part.amount)])

    # words

    def _name_phase(self, number: int, step: str = "") -> None:
        size_px = f", {size(self._size_of(number))}" if number > 1 else ""
        shared.state.textinfo = (
            f"DemoFusion phase {number} of {len(self.plan.phases) + 1}{size_px}{step}{self._which()}"
        )

    def _size_of(self, number: int) -> tuple[int, int]:
        """Of phase 1, that of a given picture."""
        kinds = (ROW,) if number > 1 else (BASE_ROW,)
        return next(part.size_px for part in self.planned if part.kind in kinds and part.phase == number)

    def _name_vae(self, share: float) -> None:
        part = self.parts[self.at]
        enlarges = part.kind == ENCODED_PX or any(
            later.kind == ENCODED_PX for later in self.parts[self.at + 1 : self.at + 2]
        )
        codes = "encoding" if part.kind == ENCODED_PX else "decoding"
        does = f"{codes} {size(part.size_px)}"
        if enlarges and part.phase > 1:
            does = f"enlarging to {size(self._size_of(part.phase))}, {codes}"
        shared.state.textinfo = f"DemoFusion: {does}{f', {share:.0%}' if share else ''}{self._which()}"

    def _which(self) -> str:
        count = shared.state.job_count
        what = "picture" if self.plan.images == 1 else "batch"
        return f", {what} {self.number + 1} of {count}" if count > 1 else ""


def size(size_px: Sequence[int]) -> str:
    return f"{size_px[0]}x{size_px[1]}"


def began() -> float:
    return float(shared.state.time_start or 0.0)


def host_share() -> float:
    state = shared.state
    return min(state.sampling_step / state.sampling_steps, 1.0) if state.sampling_steps > 0 else 0.0


def evaluated(params: Any) -> None:
    """The host's callback after every evaluation of its guided model, in every picture, ours or not."""
    job = shared.state.job_no
    if isinstance(job, Job) and job.bar.picture is not None:
        job.bar.picture.evaluated()


def leave(failed: bool = False) -> None:
    """A run of the host ends: nothing of ours stays in its state, unless more of the job's pictures follow."""
    state = shared.state
    if failed or state.job_no >= state.job_count or state.interrupted or state.stopping_generation:
        state.job_no = int(state.job_no)
