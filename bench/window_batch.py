"""What the window batch is worth: the time of a phase's evaluations at every batch, and at the one that is found.

    python -m bench.window_batch [--model toy] [--scale 3] [--repeats 10]

All in one run, one evaluation of each batch in turn in every repeat, and each batch's least disturbed one counts: other
work on the machine only ever adds. On a CPU it is one thread's own time that is taken. `auto` is what the core's own
search comes to over a phase of 20 evaluations, its first one, in which it measures on small chunks, included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from types import SimpleNamespace
from typing import Any

import torch

from demofusion_lib.core import (
    Evaluation,
    Guidance,
    Phase,
    PhaseFusion,
    Weights,
    WindowBatch,
    WindowGrid,
    plan_phases,
    step_generator,
)
from demofusion_lib.standalone.guidance import Guided, SigmaForm, SizeTold
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import choose_device, choose_dtype, load_model
from demofusion_lib.standalone.prompts import encode, encode_negative
from demofusion_lib.standalone.samplers import Schedule

BATCHES = (1, 2, 4, 8, 16, 32, 64)
EVALUATIONS = 20
T, SIGMA = 600.0, 2.0  # both paths have weight there
GIBIBYTE = 2**30


class Bench:
    """A model, and an evaluation of one phase of it under guidance."""

    def __init__(self, model: str, scale: float, dtype: str):
        device = choose_device()
        torch.set_num_threads(1)
        self.model = load_model(model, device, choose_dtype(dtype, device))
        self.schedule = Schedule(self.model.alphas_cumprod)
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

    def evaluate(self, batch: WindowBatch) -> float:
        """Seconds of one evaluation."""
        fusion = PhaseFusion(self.phase, self.grid, Weights(), batch=batch)
        fusion.begin_step([step_generator(1, 2, 0)])
        engine: Any = SimpleNamespace(
            evaluation=lambda owners, shares, t: Evaluation(fusion, Guidance(), owners, shares, t)
        )
        told = SizeTold((8 * self.side,) * 2, (8 * self.side,) * 2)
        guided = Guided(self.model, self.cond, self.uncond, 3.0, told, engine=engine)
        clock = process_time if self.x.device.type == "cpu" else perf_counter
        begun = clock()
        answer = guided(self.x, T, SigmaForm(SIGMA, self.model.prediction), self.schedule.shrunk)
        float(answer.sum())  # waits for the device
        return clock() - begun


def timed(bench: Bench, search: Callable[[], WindowBatch], repeats: int) -> tuple[dict[str, float], int | None]:
    """The least seconds of an evaluation by batch, of the search's over a phase as `auto`; and the size it found."""
    bench.evaluate(WindowBatch(BATCHES[-1]))
    turns: list[dict[str, float]] = []
    for _ in range(repeats):
        seconds = {str(size): bench.evaluate(WindowBatch(size)) for size in BATCHES}
        found = search()
        seconds["first"] = bench.evaluate(found)
        seconds["later"] = bench.evaluate(found)
        turns.append(seconds)
    least = {name: min(turn[name] for turn in turns) for name in turns[0]}
    least["auto"] = (least["first"] + (EVALUATIONS - 1) * least["later"]) / EVALUATIONS
    return least, found.size


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.window_batch", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="toy", help="as the command line takes it (%(default)s)")
    parser.add_argument("--dtype", default="auto", help="auto, float32, float16 or bfloat16 (%(default)s)")
    parser.add_argument("--scale", type=float, default=3.0, help="of the one phase (%(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="evaluations of each batch (%(default)s)")
    parser.add_argument("--free", type=float, default=8.0, help="GiB of free memory to search within (%(default)s)")
    args = parser.parse_args(argv)
    keep_freed_memory()
    bench = Bench(args.model, args.scale, args.dtype)
    seconds, found = timed(bench, lambda: WindowBatch(free_bytes=lambda: int(args.free * GIBIBYTE)), args.repeats)
    best = min(seconds[str(size)] for size in BATCHES)
    print(f"{args.model}, {bench.patches} patches of {8 * bench.side} px an evaluation, found: {found}")
    print("batch  milliseconds a patch  over the best")
    for name, least in seconds.items():
        print(f"{name:>5}  {1000 * least / bench.patches:20.2f}  {least / best:13.3f}")


if __name__ == "__main__":
    main()
