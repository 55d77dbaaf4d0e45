"""What sharing a picture out over several processes is worth, and what goes between them: docs/ranks.md.

    python -m bench.ranks [--ranks 1 2 3 4 6 8] [--milliseconds 50] [--size 4096] [--steps 6]

A phase of SDXL's sizes whose model is a stub that sleeps for each window: sleeping needs no core, so that eight processes
run on two. Everything else is what a run does: windows and sub-images are cut, answers go round by gloo and are summed up.
Efficiency is what the model alone would take one process over what all of them take together; with a core each: what the
slowest of them sleeps and reckons; on paper: if nothing but the model took any time. The global path's Gaussian is left
out: a card has it done in a tenth of a millisecond, a core in as long as a window sleeps.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from demofusion_lib.core import (
    ALONE,
    Layout,
    PhaseFusion,
    Share,
    View,
    Weights,
    WindowGrid,
    plan_phases,
    step_generator,
)
from demofusion_lib.core.sharing import assigned, split
from demofusion_lib.ranks import Ranks

SLEPT = [0.0]
NATIVE_LAT, CELL_PX, WARM = 128, 8, 2
"""SDXL's; and steps that are not timed, in which speeds are measured."""


class Case(NamedTuple):
    """What a step evaluates. overlap: of windows. dilated: whether there are sub-images. rows: prompt and negative prompt."""

    name: str
    overlap: float
    dilated: bool
    window_batch: int
    rows: int = 2


CASES = (
    Case("the method", 0.5, True, 1),
    Case("the method", 0.5, True, 2),
    Case("preset fine", 0.25, False, 1),
)


class Found(NamedTuple):
    """Of a step. seconds: here. own: were there a core for each rank: of the slowest, what it slept and what it reckoned."""

    seconds: float
    own: float
    calls: float
    megabytes: float


def phase_fusion(case: Case, size_px: int, share: Share) -> PhaseFusion:
    side = size_px // CELL_PX
    phase = plan_phases((NATIVE_LAT,) * 2, (side, side), "direct")[0]
    grid = WindowGrid(side, side, (NATIVE_LAT, NATIVE_LAT), case.overlap)
    weights = Weights() if case.dilated else Weights(a2=1e9)  # no weight of the global path
    return PhaseFusion(phase, grid, weights, blur=0, batch=case.window_batch, share=share)


def step(fusion: PhaseFusion, x: torch.Tensor, number: int, seconds: float) -> torch.Tensor:
    def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], layout: Layout) -> torch.Tensor:
        sleep(seconds * len(rows))
        SLEPT[0] += seconds * len(rows)
        return patches

    fusion.begin_step([step_generator(1, 2, number)])
    return fusion(x, [0] * len(x), 600.0, 1.0, predict)


def measured(case: Case, size_px: int, seconds: float, steps: int, ranks: Ranks | None) -> Found:
    fusion = phase_fusion(case, size_px, ranks or ALONE)
    x = torch.randn(1, 4, size_px // CELL_PX, size_px // CELL_PX, generator=step_generator(1, 2, 0))
    x = x.expand(case.rows, -1, -1, -1)
    for number in range(WARM):
        step(fusion, x, number, seconds)
    wire = ranks.wire if ranks else None
    calls, moved = (wire.calls, wire.received + wire.shared) if wire else (0, 0)
    begun, busy = perf_counter(), []
    for number in range(steps):
        SLEPT[0], reckoned = 0.0, process_time()
        step(fusion, x, number, seconds)
        busy.append(SLEPT[0] + process_time() - reckoned)
    took = (perf_counter() - begun) / steps
    if ranks is None or wire is None:
        return Found(took, sum(busy) / steps, 0, 0)
    counted = (wire.calls - calls) / steps, (wire.received + wire.shared - moved) / steps / 1e6
    every = ranks.lists(torch.tensor([busy], dtype=torch.float64))
    return Found(took, float(every.max(0).values.mean()), *counted)


def rank(number: int, count: int, file: str, given: argparse.Namespace, pipe: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(file, count), rank=number, world_size=count)
    ranks = Ranks()
    ranks.use(torch.device("cpu"))
    found = [measured(case, given.size, given.milliseconds / 1000, given.steps, ranks) for case in CASES]
    if number == 0:
        pipe.send(found)
    ranks.end()
    os._exit(0)


def together(count: int, given: argparse.Namespace) -> list[Found]:
    """What the first of so many processes measures, of each case."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "store")
        processes = [context.Process(target=rank, args=(number, count, file, given, theirs)) for number in range(count)]
        for process in processes:
            process.start()
        theirs.close()
        found: list[Found] = ours.recv()
        for process in processes:
            process.join()
    return found


def on_paper(counts: Sequence[int], batch: int, ranks: int) -> float:
    """The rows of all over those that the busiest rank would have."""
    calls = [part for count in counts for part in split(count, batch)]
    loads = [0] * ranks
    for call, owner in zip(calls, assigned(calls, [1.0] * ranks)):
        loads[owner] += call
    return sum(calls) / ranks / max(loads)


def patches(case: Case, size_px: int) -> list[int]:
    """Rows of a step: those of windows, and those of sub-images."""
    fusion = phase_fusion(case, size_px, ALONE)
    local = len(fusion.grid.layout([step_generator(1, 2, 0)]).views[0])
    return [case.rows * local, *([case.rows * fusion.phase.dilation**2] if case.dilated else [])]


def table(given: argparse.Namespace) -> list[str]:
    lines = [
        "| a step of | window batch | rows | ranks | seconds here | efficiency | with a core each | on paper | calls | MB in |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = {count: together(count, given) for count in given.ranks}
    for number, case in enumerate(CASES):
        counts = patches(case, given.size)
        alone = sum(counts) * given.milliseconds / 1000
        for count, cases in found.items():
            one = cases[number]
            lines.append(
                f"| {case.name} | {case.window_batch} | {sum(counts)} | {count} | {one.seconds:.2f} | "
                f"{alone / count / one.seconds:.2f} | {alone / count / one.own:.2f} | {on_paper(counts, case.window_batch, count):.2f} | "
                f"{one.calls:g} | {one.megabytes:.1f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--milliseconds", type=float, default=50.0, help="for each window")
    parser.add_argument("--size", type=int, default=4096, help="pixels along a side")
    parser.add_argument("--steps", type=int, default=6)
    print("\n".join(table(parser.parse_args())))


if __name__ == "__main__":
    main()
