"""Whether the toy draws what it is asked: `python -m lab.judge`, at native size, each prompt in turn."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import torch

from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import Model, choose_device, load_model
from demofusion_lib.standalone.toy import TOY

from .detector import find_objects, shows_one
from .scenes import COLOURS, NATIVE_PX, SHAPES

GUIDANCE = 3.0
BATCH = 12


def draw_native(
    model: Model, prompts: Sequence[str], seeds: Sequence[int], steps: int = 20, guidance: float = GUIDANCE
) -> torch.Tensor:
    """`(count, 3, 256, 256)` in [0, 1]."""
    params = Params.from_names({"enabled": True, "scale": 1})
    order = Order(prompts, seeds, NATIVE_PX, NATIVE_PX, params, steps=steps, guidance=guidance)
    latent = next(iter(Drawing(model, order).phases())).latent
    with torch.no_grad():
        pictures = [model.vae.decode(one[None] / model.vae.config.scaling_factor).sample for one in latent]
    return torch.cat(pictures).float().add(1).div(2).clamp(0, 1).cpu()


def judged(model: Model, images: int, steps: int = 20) -> Iterator[tuple[str, int, bool]]:
    """For each image its prompt, its seed, and whether it shows exactly one object, of the prompted colour."""
    subjects = [(colour, shape) for shape in SHAPES for colour in COLOURS]
    for first in range(0, images, BATCH):
        numbers = range(first, min(first + BATCH, images))
        chosen = [subjects[number % len(subjects)] for number in numbers]
        prompts = [f"a {colour} {shape}" for colour, shape in chosen]
        for picture, number, (colour, _), prompt in zip(
            draw_native(model, prompts, list(numbers), steps), numbers, chosen, prompts
        ):
            yield prompt, number, shows_one(find_objects(picture), colour)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.judge", description=__doc__)
    parser.add_argument("--images", type=int, default=240, help="(%(default)s)")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    keep_freed_memory()
    model = load_model(TOY, choose_device(args.device), torch.float32)
    wrong = [(prompt, seed) for prompt, seed, right in judged(model, args.images) if not right]
    for prompt, seed in wrong:
        print(f"wrong: {prompt!r}, seed {seed}")
    print(f"{args.images - len(wrong)} of {args.images} pictures show exactly one object of the prompted colour")


if __name__ == "__main__":
    main()
