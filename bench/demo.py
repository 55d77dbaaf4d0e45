"""`make demo`: the engine climbs to a large picture that is known exactly, and prints how close it came.

The model is no trained network but the exact denoiser of a distribution of pictures (`bench.model`): procedural
scenes (`bench.scenes`), whole at 64x64 and in every 64x64 crop of their larger renders.

What is exact:
- the denoiser, `E[x0 | x, sigma]`: the mean over every single picture of the distribution, in float32;
- the answer: all sizes of a scene are box averages of one painting. Phase 1 draws one of the scenes, which one is for
  the seed to decide; the larger renders of that scene are what the phases after it should arrive at.

What isn't: the sampler takes finite steps; and after each phase the method brings the picture to phase 1's mean and
deviation, which a larger render hasn't quite. The column `at best` is the exact answer after that: no phase that has
the right statistics can score more. `windows alone` is the same climb without skip residual and dilated sampling.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.analytic import NoiseSchedule
from bench.climbing import SAMPLERS, Drawn, Run, draw_base, enlarge
from bench.model import SceneModel
from bench.scenes import NATIVE, SCALES, SCENES, Scene, matching
from bench.sheet import Tile, save_sheet, to_image
from demofusion_lib.core import Weights, statistics, upsample, with_statistics
from demofusion_lib.params import Params

NOISE_SHIFT = 2.0
WINDOWS_ALONE = Weights(a1=math.inf, a2=math.inf)


def whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.isdecimal() and low <= int(text) <= high:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r}, allowed: whole numbers {low} to {high}")

    return parse


def scenes_of(prompt: str) -> tuple[Scene, ...]:
    scenes = matching(prompt)
    if not scenes:
        names = "; ".join(scene.name for scene in SCENES)
        raise argparse.ArgumentTypeError(f"no scene is called {prompt!r}, allowed: words of one of these: {names}")
    return scenes


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description="DemoFusion on a model known exactly.")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the pictures (%(default)s)")
    parser.add_argument("--scale", type=int, choices=SCALES[1:], default=4, help="times 64x64 (%(default)s)")
    parser.add_argument("--seed", type=whole_number(0, 2**63 - 1), default=1, help="(%(default)s)")
    parser.add_argument(
        "--prompt",
        type=scenes_of,
        default="",
        metavar="WORDS",
        help="draw only scenes of these words: disc, night, ...",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="euler", help="k-diffusion's (%(default)s)")
    parser.add_argument("--steps", type=whole_number(2, 150), default=20, help="of each phase (%(default)s)")
    return parser.parse_args(argv)


@contextmanager
def one_thread_an_operation() -> Iterator[None]:
    """Several windows at once are faster than several threads to a window."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Row:
    """One phase's line of the table. Evaluations and seconds are DemoFusion's; the rest is PSNR in dB."""

    number: int
    size: int
    evaluations: int
    seconds: float
    fused: float
    at_best: float
    bicubic: float
    windows_alone: float

    HEADER = "phase     size  evaluations  seconds  DemoFusion  at best  bicubic  windows alone"

    def __str__(self) -> str:
        work = f"{self.number:>5} {f'{self.size}x{self.size}':>8} {self.evaluations:>12} {self.seconds:>8.1f}"
        return f"{work} {self.fused:>11.1f} {self.at_best:>8.1f} {self.bicubic:>8.1f} {self.windows_alone:>14.1f}"


class Demo:
    """One picture: its base, what the phases should arrive at, and what they do arrive at."""

    def __init__(self, scenes: Sequence[Scene], run: Run, scale: int, threads: int):
        self.run = run
        self.params = Params.from_names({"enabled": True, "preset": "none", "scale": scale})
        self.model = SceneModel(scenes, scale, threads)
        self.base = draw_base(run, self.model.native)
        self.scene = self.model.nearest(self.base.picture)

    def psnr(self, picture: torch.Tensor) -> float:
        return self.model.psnr(picture, self.exact(picture.shape[-1]))

    def exact(self, size: int) -> torch.Tensor:
        return self.model.exact(self.scene, size // NATIVE)

    def at_best(self, size: int) -> torch.Tensor:
        return with_statistics(self.exact(size), *statistics(self.base.picture))

    def bicubic(self, size: int) -> torch.Tensor:
        return upsample(self.base.picture, size, size)

    def climb(self, name: str, weights: Weights) -> list[Drawn]:
        """Every phase after the first, told of as it ends."""
        finished = []
        for drawn in enlarge(self.run, self.model.windows, self.base.picture, self.params, weights):
            score, size = self.psnr(drawn.picture), drawn.size
            print(
                f"{name}, phase {drawn.number}: {size}x{size}, {drawn.evaluations} evaluations, {drawn.seconds:.1f} s, {score:.1f} dB",
                flush=True,
            )
            finished.append(drawn)
        return finished

    def row(self, fused: Drawn, alone: Drawn) -> Row:
        size = fused.size
        pictures = fused.picture, self.at_best(size), self.bicubic(size), alone.picture
        return Row(fused.number, size, fused.evaluations, fused.seconds, *map(self.psnr, pictures))

    def detail(self, picture: torch.Tensor) -> torch.Tensor:
        """A quarter of the picture's side, at the lower right edge of the scene's object."""
        size = picture.shape[-1]
        side = size // 4
        cx, cy = (c + 0.6 * self.scene.radius for c in self.scene.centre)
        left, top = (min(max(round(c / NATIVE * size - side / 2), 0), size - side) for c in (cx, cy))
        return picture[..., top : top + side, left : left + side]

    def sheet(self, fused: Sequence[Drawn], alone: Drawn) -> list[list[Tile]]:
        """Three rows: the phases, the last one beside the other ways to its size, details of these."""
        size = fused[-1].size
        compared = {
            "bicubic": self.bicubic(size),
            "windows alone": alone.picture,
            "DemoFusion": fused[-1].picture,
        }
        scored = [(f"{name}, {self.psnr(picture):.1f} dB", picture) for name, picture in compared.items()]
        scored.append(("exact", self.exact(size)))
        phases = [(f"phase {d.number}, {d.size}x{d.size}", d.picture) for d in (self.base, *fused)]
        rows = phases, scored, [("", self.detail(picture)) for _, picture in scored]
        return [[(caption, self.model.rgb(picture)) for caption, picture in row] for row in rows]

    def save(self, folder: Path, fused: Sequence[Drawn], alone: Drawn) -> None:
        for drawn in (self.base, *fused):
            to_image(self.model.rgb(drawn.picture)).save(folder / f"phase{drawn.number}.png")
        to_image(self.model.rgb(self.exact(fused[-1].size))).save(folder / "exact.png")
        save_sheet(self.sheet(fused, alone), folder / "sheet.png")


def main(argv: Sequence[str] | None = None) -> list[Row]:
    args = parse(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    run = Run(NoiseSchedule(NOISE_SHIFT), args.sampler, args.steps, args.seed)
    with one_thread_an_operation():
        demo = Demo(args.prompt, run, args.scale, os.cpu_count() or 1)
        print(f"phase 1: {NATIVE}x{NATIVE}, {demo.base.seconds:.1f} s: {demo.scene.name}", flush=True)
        fused = demo.climb("DemoFusion", demo.params.weights)
        alone = demo.climb("windows alone", WINDOWS_ALONE)
    demo.save(args.out, fused, alone[-1])
    rows = [demo.row(f, a) for f, a in zip(fused, alone)]
    print("", "PSNR to the exact answer in dB:", Row.HEADER, *rows, "", f"pictures: {args.out}/sheet.png", sep="\n")
    return rows


if __name__ == "__main__":
    main()
