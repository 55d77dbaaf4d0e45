"""How far a picture is, over its base image and all phases, for the host's bar and for those who ask the API.

The host reckons `job_no / job_count + sampling_step / sampling_steps / job_count`, where the last two are those of the
sampling under way. `job_count` stays the number of pictures: at 1 the page's Interrupt stops at once, above it it waits
for the picture to end. So that the sum is right nevertheless, `job_no` is a number that knows the rest when it is divided.
"""

from __future__ import annotations

from typing import Any

from modules import shared

from ..core import Phase
from ..params import LATENT_PX
from ..plan import Plan


class Progress:
    """Of one picture, or of one batch of them. `costs` are patches of an image in each sampling, the base image's first."""

    def __init__(self, plan: Plan):
        rows = plan.images * plan.passes
        self.costs = [n / rows for n in (plan.base_evaluations, *map(plan.evaluations, plan.phases))]
        self.sampling = 0
        self.done = 0.0
        """The share of the sampling under way; the base image's is the host's own count of steps."""
        self.job_no = int(shared.state.job_no)

    def begin(self) -> None:
        shared.state.job_no = Job(self.job_no, self)
        self._name("")

    def skip(self, samplings: int) -> None:
        """So many of them an earlier run has done."""
        self.sampling, self.done = samplings, 0.0

    def enter(self, phase: Phase) -> None:
        self.sampling, self.done = phase.number - 1, 0.0
        self._name(f", {phase.width_lat * LATENT_PX}x{phase.height_lat * LATENT_PX}")

    def _name(self, size: str) -> None:
        shared.state.textinfo = f"DemoFusion phase {self.sampling + 1} of {len(self.costs)}{size}"

    def in_step(self, phase: Phase, steps: int) -> float:
        """Windows and sub-images of an image in one of the phase's `steps`, on average."""
        return self.costs[phase.number - 1] / steps

    def advance(self, share: float) -> None:
        """`share` of the phase's steps are behind us."""
        self.done = max(self.done, min(share, 1.0))

    def enlarging(self, share: float) -> None:
        """How far the decode or the encode of a picture between phases is."""
        shared.state.textinfo = f"DemoFusion: enlarging the picture, {share:.0%}"

    def decoding(self) -> None:
        self.sampling, self.done = len(self.costs), 0.0
        self.decoded(0.0)

    def decoded(self, share: float) -> None:
        """How far the decode of a picture is: the last one's, or one's that is kept between phases."""
        if self.sampling == len(self.costs):
            shared.state.textinfo = f"DemoFusion: decoding{f', {share:.0%}' if share else ''}"

    def end(self) -> None:
        """The picture is drawn; until the host goes on to the next, its own count says so."""
        shared.state.job_no, shared.state.textinfo = self.job_no, None
        shared.state.sampling_step = shared.state.sampling_steps

    @property
    def share(self) -> float:
        if self.sampling == 0:
            return self.costs[0] * host_share() / sum(self.costs)
        current = self.costs[self.sampling] if self.sampling < len(self.costs) else 0.0
        return (sum(self.costs[: self.sampling]) + current * self.done) / sum(self.costs)


class Job(int):
    """A `job_no` that is as far as its picture is when the host divides it by the number of pictures."""

    progress: Progress

    def __new__(cls, number: int, progress: Progress) -> Job:
        job = super().__new__(cls, number)
        job.progress = progress
        return job

    def __truediv__(self, count: Any) -> float:
        # the host adds its own share of the sampling under way to this
        return (int(self) + self.progress.share - host_share()) / count


def host_share() -> float:
    state = shared.state
    return min(state.sampling_step / state.sampling_steps, 1.0) if state.sampling_steps > 0 else 0.0
