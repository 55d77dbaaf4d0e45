"""How a picture is worked on: exact or estimated, and where its layers lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .costs import Machine, exact_bytes, part_bytes
from .errors import NoRoom
from .estimated import Part
from .memory import Memory
from .planes import nbytes
from .program import Attend, Program, Shape, Step, Sweep

GIB = 1 << 30
DEVICE_SHARE, HOST_SHARE, DISK_SHARE = 0.8, 0.5, 0.9
"""What is taken of what is free. Memory is free in pieces, and what the host's picture takes comes on top."""


@dataclass(frozen=True)
class Plan:
    """What a decode or encode does; `str` of it is a line for the user.

    mode: `exact` or `estimated`. store: `device`, `host` or `file`.
    device_bytes: live tensors on the device beside the store, the weights, what was given and the answer.
    store_bytes: the layers in the store. part: the first and behind the last of the steps that are estimated.
    """

    mode: str
    store: str
    dtype: torch.dtype
    device_bytes: int
    store_bytes: int
    part: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        where = {"device": "on the device", "host": "in host memory", "file": "in a file"}[self.store]
        kind = "exact" if self.mode == "exact" else "statistics estimated from a sample of the picture"
        return f"VAE by tiles, {kind}, {self.store_bytes / GIB:.2f} GiB of layers {where}"


@dataclass(frozen=True)
class Job:
    """One picture's way through a program. dtype: of the answer. values: of a tile."""

    program: Program
    height: int
    width: int
    dtype: torch.dtype
    values: int

    @property
    def shapes(self) -> list[Shape]:
        return self.program.shapes(self.height, self.width)

    def machine(self, store: str) -> Machine:
        copies = store == "file" or (store == "host" and self.program.device.type == "cuda")
        return Machine(self.program.device, self.dtype, copies, store == "file")

    def exact(self, store: str) -> Plan:
        steps, shapes = self.program.steps, self.shapes
        device, held = exact_bytes(
            steps, shapes, self.values, self.machine(store), shrinks=store == "file", begins=True, ends=True
        )
        return Plan("exact", store, self.dtype, device, held)

    def estimated(self, store: str, first: int, last: int) -> Plan:
        """Steps `first` to `last` are estimated; those before or behind them are exact."""
        steps, shapes, machine = self.program.steps, self.shapes, self.machine(store)
        part = Part.of([_sweep(step) for step in steps[first:last]], shapes[first], None, readied=False)
        device, held = part_bytes(part, self.values, machine), 0
        for start, stop in ((0, first), (last, len(steps))):
            if stop > start:
                need, planes = exact_bytes(
                    steps[start:stop], shapes[start : stop + 1], self.values, machine, shrinks=store == "file",
                    begins=start == 0, ends=stop == len(steps),
                )  # fmt: skip
                device, held = max(device, need), max(held, planes)
        return Plan("estimated", store, self.dtype, device, held, (first, last))

    def parts(self) -> list[tuple[int, int]]:
        """What may be estimated, the least of the picture first: the steps at the picture's end, attention left out."""
        steps = self.program.steps
        whole = [number for number, step in enumerate(steps) if _starts_at_x(step)]
        attention = [number for number, step in enumerate(steps) if isinstance(step, Attend)]
        if self.program.is_decoder:
            least = max([*attention, -1]) + 1
            first_up = next(number for number in whole if number >= least and _sweep(steps[number]).up > 1)
            return [(number, len(steps)) for number in reversed(whole) if number >= first_up]
        most = min([*attention, len(steps)])
        last_down = max(number for number in whole if number < most and _sweep(steps[number]).conv.stride > 1)
        return [(0, number) for number in whole if 0 < number <= last_down + 1]


def _starts_at_x(step: Step) -> bool:
    return isinstance(step, Attend) or step.source == "x"


def _sweep(step: Step) -> Sweep:
    assert isinstance(step, Sweep)
    return step


def plans(job: Job, mode: str, memory: Memory, answer: int) -> Iterator[Plan]:
    """What fits, the best first: what comes later is for where memory turns out to be short. answer: its bytes."""
    stores = [store for store in ("device", "host", "file") if store != "host" or job.program.device.type == "cuda"]
    if mode != "estimated":
        yield from (plan for plan in map(job.exact, stores) if fits(plan, job, memory, answer))
    if mode != "exact":
        yield from _estimated(job, mode, stores, memory, answer)


def no_room(job: Job, mode: str, memory: Memory) -> NoRoom:
    """Why there is no plan."""
    need = job.exact("device").store_bytes if mode == "exact" else job.estimated("device", *job.parts()[-1]).store_bytes
    free = ", ".join(f"{name} {getattr(memory, name) / GIB:.1f}" for name in ("device", "host", "disk"))
    return NoRoom(f"the VAE's layers take {need / GIB:.1f} GiB, free are {free} GiB")


def _estimated(job: Job, mode: str, stores: list[str], memory: Memory, answer: int) -> Iterator[Plan]:
    """Chosen for its own sake it is the same everywhere; as a way out, as little as fits."""
    parts = job.parts()
    for store in stores:
        for first, last in parts[-1:] if mode == "estimated" else parts:
            plan = job.estimated(store, first, last)
            if fits(plan, job, memory, answer):
                yield plan
                break


def fits(plan: Plan, job: Job, memory: Memory, answer: int) -> bool:
    if plan.store == "file":
        return bool(memory.folder) and plan.store_bytes <= memory.disk * DISK_SHARE
    if job.program.device.type != "cuda":
        return plan.device_bytes + plan.store_bytes + answer <= memory.host * HOST_SHARE
    stored = plan.store_bytes if plan.store == "device" else 0
    kept = answer + (0 if stored else plan.store_bytes)
    return plan.device_bytes + stored <= memory.device * DEVICE_SHARE and kept <= memory.host * HOST_SHARE


def answer_bytes(job: Job, batch: int) -> int:
    return batch * nbytes(job.shapes[-1], job.dtype)
