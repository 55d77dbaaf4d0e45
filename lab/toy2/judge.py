"""What guidance does to the second toy's ground: `python -m lab.toy2.judge`, at native size."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import Model, choose_device

from ..detector import find_objects, shows_one
from ..ground import judge_ground, summary
from ..judge import BATCH, draw_native
from ..scenes import COLOURS, GROUNDS, SHAPES
from . import load_toy2

GUIDANCES = (1.0, 2.0, 3.0, 5.0)


@dataclass(frozen=True)
class Subject2:
    """What image `number` shows: neighbours differ in the ground, then in the colour."""

    number: int

    @property
    def ground(self) -> str:
        return GROUNDS[self.number % len(GROUNDS)]

    @property
    def colour(self) -> str:
        return list(COLOURS)[self.number // len(GROUNDS) % len(COLOURS)]

    @property
    def shape(self) -> str:
        return SHAPES[self.number // (len(GROUNDS) * len(COLOURS)) % len(SHAPES)]

    @property
    def prompt(self) -> str:
        return f"a {self.colour} {self.shape}, {self.ground}"


def drawn(model: Model, images: int, guidance: float, steps: int = 20) -> Iterator[tuple[Subject2, torch.Tensor]]:
    """Each subject and its native picture `(3, 256, 256)` in [0, 1]; the seed is its number."""
    for first in range(0, images, BATCH):
        subjects = [Subject2(number) for number in range(first, min(first + BATCH, images))]
        prompts, seeds = [s.prompt for s in subjects], [s.number for s in subjects]
        yield from zip(subjects, draw_native(model, prompts, seeds, steps, guidance))


def figures(pairs: Sequence[tuple[Subject2, torch.Tensor]]) -> dict[str, float]:
    """`summary` of the grounds, and the share of pictures with one object of the right colour."""
    found = summary([judge_ground(picture) for _, picture in pairs], [subject.ground for subject, _ in pairs])
    objects = [shows_one(find_objects(picture), subject.colour) for subject, picture in pairs]
    return {**found, "one object": sum(objects) / len(objects)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.toy2.judge", description=__doc__)
    parser.add_argument("--images", type=int, default=32, help="for each guidance (%(default)s)")
    parser.add_argument("--guidance", type=float, nargs="+", default=GUIDANCES, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    keep_freed_memory()
    model = load_toy2(choose_device(args.device))
    for guidance in args.guidance:
        found = figures(list(drawn(model, args.images, guidance, args.steps)))
        print(
            f"guidance {guidance:g}: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()), flush=True
        )


if __name__ == "__main__":
    main()
