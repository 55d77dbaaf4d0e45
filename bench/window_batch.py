"""What the window batch is worth: the time of a phase's evaluations at every batch, and at the one that is found.

    python -m bench.window_batch [--model toy] [--scale 3] [--repeats 5]

All in one run, the batches in turn in every repeat: a busy machine disturbs them alike. A column is the median over the
repeats of a batch's time over that of the batch 16 in the same repeat. `auto` is the core's own search, begun anew in
every repeat, so that its first small chunks, by which it measures, are in its time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch

from demofusion_lib.core import Phase, PhaseFusion, Weights, WindowBatch, WindowGrid, plan_phases, step_generator
from demofusion_lib.standalone.guidance import Guided, SigmaForm, SizeTold
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import choose_device, choose_dtype, load_model
from demofusion_lib.standalone.prompts import encode, encode_negative

BATCHES = (1, 2, 4, 8, 16, 32, 64)
REFERENCE = 16
T, SIGMA = 600.0, 2.0  # both paths have weight there
GIBIBYTE = 2**30


class Bench:
    """A model, and an evaluation of one phase of it under guidance."""

    def __init__(self, model: str, scale: float, dtype: str):
        device = choose_device()
        self.model = load_model(model, device, choose_dtype(dtype, device))
        self.side = self.model.native_px // 8
        self.phase: Phase = plan_phases((self.side,) * 2, (round(self.side * scale),) * 2, "direct")[0]
        self.cond = encode(self.model, ["a red disc"])
        self.uncond = encode_negative(self.model, [""])
        shape = 1, 4, self.phase.height_lat, self.phase.width_lat
        self.x = torch.randn(shape, generator=step_generator(1, 2, 0)).mul(SIGMA).to(device)

    @property
    def grid(self) -> WindowGrid:
        return WindowGrid(self.phase.height_lat, self.phase.width_lat, (self.side,) * 2)

    @property
    def patches(self) -> int:
        """Of an evaluation."""
        return 2 * (len(self.grid) + self.phase.dilation**2)

    def evaluate(self, batch: WindowBatch, count: int) -> float:
        """Seconds of so many evaluations."""
        fusion = PhaseFusion(self.phase, self.grid, Weights(), batch=batch)
        engine: Any = SimpleNamespace(fusion=fusion)
        told = SizeTold((8 * self.side,) * 2, (8 * self.side,) * 2)
        guided = Guided(self.model, self.cond, self.uncond, 3.0, told, engine=engine)
        begun = perf_counter()
        for step in range(count):
            fusion.begin_step([step_generator(1, 2, step)])
            answer = guided(self.x, T, SigmaForm(SIGMA, self.model.prediction))
            float(answer.sum())  # waits for the device
        return perf_counter() - begun


def timed(
    bench: Bench, sizes: dict[str, Callable[[], WindowBatch]], repeats: int, count: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in sizes}
    bench.evaluate(WindowBatch(REFERENCE), 1)
    for _ in range(repeats):
        for name, batch in sizes.items():
            seconds[name].append(bench.evaluate(batch(), count))
    return seconds


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Of each batch's time to the reference's in the same repeat, the median of them."""
    reference = seconds[str(REFERENCE)]
    return {name: statistics.median(t / r for t, r in zip(times, reference)) for name, times in seconds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.window_batch", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toy", help="as the command line takes it (%(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (%(default)s)")
    parser.add_argument("--scale", type=float, default=3.0, help="of the one phase (%(default)s)")
    parser.add_argument("--evaluations", type=int, default=5, help="of a turn (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each batch (%(default)s)")
    parser.add_argument("--free", type=float, default=8.0, help="GiB of free memory to search within (%(default)s)")
    args = parser.parse_args(argv)
    keep_freed_memory()
    bench = Bench(args.model, args.scale, args.dtype)

    def automatic() -> WindowBatch:
        return WindowBatch(free_bytes=lambda: int(args.free * GIBIBYTE))

    found = automatic()
    bench.evaluate(found, 1)
    sizes: dict[str, Callable[[], WindowBatch]] = {str(size): lambda size=size: WindowBatch(size) for size in BATCHES}
    seconds = timed(bench, {**sizes, "auto": automatic}, args.repeats, args.evaluations)
    reached = ratios(seconds)
    best = min(reached[str(size)] for size in BATCHES)
    patches = bench.patches
    print(f"{args.model}, {patches} patches of {8 * bench.side} px an evaluation, automatic: {found.size}")
    print("batch   time  over the best   milliseconds a patch")
    for name, ratio in reached.items():
        each = 1000 * min(seconds[name]) / patches / args.evaluations
        print(f"{name:>5}  {ratio:5.3f}          {ratio / best:5.3f}   {each:8.2f}")


if __name__ == "__main__":
    main()
