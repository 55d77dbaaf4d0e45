"""Draws every preset with the toy on one thread of a CPU, and writes what it took as Markdown.

    python -m bench.presets [--out bench/results/toy.md] [--scales 2 3 4 8] [--rounds 2]

All figures are ratios within this run: presets are drawn in turn, in several rounds, and the least disturbed counts. It is
the thread's own time that is taken, which other work on the machine does not stop, though it slows it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time

import torch

from bench.live_bytes import counted
from bench.presets import report
from bench.presets.burning import BurningUNet
from bench.presets.counting import SCALES, exponents, plan_of
from bench.presets.decoding import MOST_LAT, bytes_of, decoded, timed
from bench.presets.watching import Watched, order, pixels, watch
from demofusion_lib.presets import NONE, PRESETS
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import Model, load_model
from demofusion_lib.standalone.toy import TOY

NAMES = tuple(name for name in PRESETS if name != NONE)
DEAR = "paper"
"""Drawn at twice the size alone: every larger one takes minutes."""
ONCE = 5.0
"""From this scale on a preset is drawn once, if it is one of the cheap ones."""
CHEAP = ("fast", "draft")
ROW_SECONDS = 0.02
BURNT_PX = (256, 1024)
BURNT_STEPS = 5
NO_VAE = {"enlarge": "latent"}
"""Where the VAE is not what is looked at."""


def is_drawn(preset: str, scale: float) -> bool:
    return scale <= 2 if preset == DEAR else scale < ONCE or preset in CHEAP


class Bench:
    """The toy, and what has been drawn with it."""

    def __init__(self, scales: Sequence[float], rounds: int, steps: int = 20):
        torch.set_num_threads(1)
        self.model: Model = load_model(TOY, torch.device("cpu"), torch.float32)
        self.scales, self.rounds, self.steps = scales, rounds, steps
        self.runs: dict[tuple[str, float], list[Watched]] = {}

    def draw(self) -> None:
        watch(self.model, order("draft", 1.5, self.model.native_px, steps=2), process_time)  # warms up
        for number in range(self.rounds):
            for scale in self.scales:
                for preset in NAMES:
                    if is_drawn(preset, scale) and (number == 0 or scale < ONCE):
                        self._draw(preset, scale)

    def _draw(self, preset: str, scale: float) -> None:
        wanted = order(preset, scale, self.model.native_px, steps=self.steps)
        self.runs.setdefault((preset, scale), []).append(watch(self.model, wanted, process_time))
        print(f"{preset} {scale:g}x: {self.runs[preset, scale][-1].overhead:.3f}", flush=True)

    @property
    def base(self) -> float:
        """The base image's seconds in the UNet, its least disturbed."""
        return min(run.base.inside for runs in self.runs.values() for run in runs)

    def units(self) -> Iterator[str]:
        foretold = {(p, s): plan_of(self.model, p, s).units for s in self.scales for p in NAMES}
        yield from report.units(self.runs, foretold, self.base)

    def burnt(self, seconds: float = ROW_SECONDS, sides_px: Sequence[int] = BURNT_PX) -> Iterator[str]:
        runs: dict[int, list[Watched]] = {}
        for side in sides_px:
            model = replace(self.model, unet=BurningUNet(seconds, side // 8))
            for preset in NAMES:
                for scale in self.scales:
                    if scale < ONCE and is_drawn(preset, scale):
                        wanted = order(preset, scale, side, steps=BURNT_STEPS, **NO_VAE)
                        runs.setdefault(side, []).append(watch(model, wanted, process_time))
        yield from report.overheads(runs)

    def growth(self) -> Iterator[str]:
        rows = {}
        for preset in NAMES:
            told = [plan_of(self.model, preset, scale).units for scale in SCALES]
            rows[preset] = told, *exponents(self.model, preset)
        yield from report.growth(SCALES, rows)

    def decodes(self, scale: float) -> Iterator[str]:
        latent = next(runs[0].latent for (_, at), runs in self.runs.items() if at == scale)
        made = decoded(self.model, latent, process_time, self.rounds, memory=False)
        yield from report.decodes(self.runs, scale, made, self.base)
        if made.undivided:
            yield f"The exact tiles take {made.exact / made.undivided:.2f} times as long as the undivided decode."
        for (preset, at), runs in self.runs.items():
            if at > scale and at >= ONCE:
                seconds = timed(self.model, runs[0].latent, "exact", process_time)
                drawing = report.in_bases(runs, self.base) + report.between(runs, self.base)
                share = report.share(drawing, seconds, self.base)
                yield f"At {at:g}x the exact decode is {share} of `{preset}`'s whole time."
        yield ""

    def memory(self, scale: float) -> Iterator[str]:
        rows = []
        for preset in NAMES:
            at = scale if is_drawn(preset, scale) else 2.0
            with counted() as live:
                run = watch(self.model, order(preset, at, self.model.native_px, steps=2, **NO_VAE), process_time)
            rows.append((f"`{preset}`, phases", f"{pixels(run.latent)} px", live.peak))
        last = next(runs[0].latent for (_, at), runs in self.runs.items() if at == scale)
        tiles, layers = bytes_of(self.model, last, "exact")
        rows.append(("exact decode, tiles", f"{pixels(last)} px", tiles))
        rows.append(("exact decode, layers, which may lie in a file", f"{pixels(last)} px", layers))
        if max(last.shape[-2:]) <= MOST_LAT:
            rows.append(("undivided decode", f"{pixels(last)} px", bytes_of(self.model, last, "host")[0]))
        yield from report.memory(rows)


def written(bench: Bench) -> Iterator[str]:
    bench.draw()
    print("drawn; now the UNet that burns, the decodes and the memory", flush=True)
    middle = max((s for s in bench.scales if s < ONCE), default=bench.scales[0])
    yield "# Presets, with the toy on a CPU"
    yield ""
    yield (
        f"One thread of a CPU, torch {torch.__version__}, the toy (native "
        f"{bench.model.native_px} px, a base image of {bench.steps} Euler steps, guidance 3, window batch 16), "
        f"{bench.rounds} rounds in turn; the least disturbed counts, of ratios the median. `make bench` draws it anew. A unit "
        f"is one base image: its rows, or its {bench.base:.2f} s in the UNet; times are in base images."
    )
    yield ""
    yield "## Units and time"
    yield ""
    yield from bench.units()
    yield "`phases / UNet` is the phases' time, VAE apart, over what of it passes inside the UNet. A shape is a call's rows."
    yield ""
    yield "## Beside a UNet of 20 ms a row"
    yield ""
    yield "It does nothing else, so that what is over 1 is all that a phase does beside its calls."
    yield ""
    yield from bench.burnt()
    yield "## How the cost grows"
    yield ""
    yield "Units by the plan. The exponent is that of the cost in the picture's area: least squares over the twelve scales."
    yield ""
    yield from bench.growth()
    yield f"## The decode's share at {middle:g}x"
    yield ""
    yield from bench.decodes(middle)
    yield "## Live memory"
    yield ""
    yield "The most that was alive at once beside the weights, counted tensor by tensor."
    yield ""
    yield from bench.memory(middle)


def counted_alone(bench: Bench) -> Iterator[str]:
    """What needs no drawing."""
    yield "# Presets, counted"
    yield ""
    yield "Units by the plan, the base image's among them. Nothing was drawn or timed for this; `make bench` does that."
    yield ""
    yield from bench.growth()
    yield "The exponent is that of the cost in the picture's area: least squares over the twelve scales."


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.presets", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("bench/results/toy.md"), help="(%(default)s)")
    parser.add_argument("--scales", type=float, nargs="+", default=[2.0, 3.0, 4.0, 8.0], help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="drawings of each, but at 5x and more (%(default)s)")
    parser.add_argument("--counted", action="store_true", help="only what needs no drawing")
    args = parser.parse_args(argv)
    keep_freed_memory()
    bench = Bench(args.scales, args.rounds)
    lines = list(counted_alone(bench) if args.counted else written(bench))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
