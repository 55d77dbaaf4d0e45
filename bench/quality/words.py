"""Whether a window repeats a subject less that is not told of it: `python -m bench.quality.words`.

Windows alone draw the subject again and again. Here a window's prompt is left without the words that lie elsewhere by the
base image's attention (AccDiffusion's idea), or by the truth: the object that the detector finds in the base image.

The toy's crops were captioned as the whole pictures that they are of, so that its words say nothing of what a window shows.
`told` is the toy trained on: on crops that are captioned by what they show, `a` where the object isn't there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from bench.quality.rows import GUIDANCE, Subject
from demofusion_lib.params import Params
from demofusion_lib.presets import NONE
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import Model, choose_device, load_model
from demofusion_lib.standalone.toy import TOY, TOY_FILE
from demofusion_lib.targets import LATENT_PX
from lab.by_place.places import Gathered
from lab.by_place.words import ByPlace, gathering
from lab.checkpoint import PREFIXES, save_checkpoint
from lab.detector import SATURATION, find_objects
from lab.scenes import NATIVE_PX, draw_scene, render, signed_distance
from lab.text import TextEncoder
from lab.tokens import tokenize
from lab.toy import CONTEXT, new_unet, new_vae
from lab.unet_training import UNetStage, encode_pictures, train_unet

SCALE = 2
ALONE = {"skip_residual": False, "dilated": False}
BARE = "a"
"""What is left of `a red disc` where it is not."""
SHOWN = 0.3
"""Of the object, or of the window, that a window shows for its caption to name it (`places.SHARE`)."""


@dataclass(frozen=True)
class Way:
    """One line. words: none, `attention` or `truth`."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""
    share: float = SHOWN


WAYS = (
    Way("windows alone", ALONE),
    Way("windows alone, bare prompt", {**ALONE, "phase_prompt": BARE}),
    Way("windows alone, words by attention", ALONE, "attention"),
    Way("windows alone, words by attention, .1", ALONE, "attention", 0.1),
    Way("windows alone, words by truth", ALONE, "truth"),
    Way("windows alone, words by truth, .1", ALONE, "truth", 0.1),
    Way("method"),
    Way("method, words by attention", {}, "attention"),
    Way("method, words by truth", {}, "truth"),
    Way("fine", {"preset": "fine", "enlarge": "latent"}),
    Way("fine, words by attention", {"preset": "fine", "enlarge": "latent"}, "attention"),
    Way("fine, words by truth", {"preset": "fine", "enlarge": "latent"}, "truth"),
)


# The toy, told what crops show


def draw_told(generator: torch.Generator) -> tuple[torch.Tensor, str, bool]:
    """A whole scene, or a window of its larger render, and what that shows."""
    scene = draw_scene(generator)
    if float(torch.rand((), generator=generator)) < 0.4:
        return render(scene) * 2 - 1, scene.prompt, True
    slack = NATIVE_PX * (SCALE - 1)
    top, left = (int(torch.randint(slack + 1, (), generator=generator)) for _ in range(2))
    picture = render(scene, SCALE, (top, left), (NATIVE_PX, NATIVE_PX))
    rows, cols = (torch.arange(NATIVE_PX * SCALE) + 0.5,) * 2
    y, x = rows[:, None] / SCALE - scene.centre[0], cols[None] / SCALE - scene.centre[1]
    inside = signed_distance(scene.shape, y, x, scene.radius) < 0
    shown = inside[top : top + NATIVE_PX, left : left + NATIVE_PX].sum()
    named = float(shown) >= SHOWN * min(float(inside.sum()), NATIVE_PX**2)
    return picture * 2 - 1, scene.prompt if named else BARE, False


def train_told(path: Path, pictures: int, steps: int, batch: int, device: torch.device) -> None:
    """Writes the checkpoint."""

    def log(text: str) -> None:
        print(text, flush=True)

    torch.manual_seed(16)
    state = load_file(TOY_FILE)
    nets = {"unet": new_unet(), "vae": new_vae(), "text": TextEncoder(CONTEXT)}
    for name, net in nets.items():
        own = {k.removeprefix(PREFIXES[name]): v.float() for k, v in state.items() if k.startswith(PREFIXES[name])}
        own.pop("embeddings.position_ids", None)
        net.load_state_dict(own)
        net.to(device)
    data = encode_pictures(nets["vae"], 16, pictures, log, device, draw_told)  # type: ignore[arg-type]
    unet, text = train_unet(
        nets["unet"], nets["text"], data, tokenize, torch.Generator().manual_seed(16),  # type: ignore[arg-type]
        stage=UNetStage(steps, batch, 1e-3, high=1.5), log=log, device=device,
    )  # fmt: skip
    save_checkpoint(path, unet.state_dict(), nets["vae"].state_dict(), text.state_dict())


# What is drawn


class Lab:
    def __init__(self, model: Model, images: int, batch: int, steps: int):
        self.model, self.steps = model, steps
        self.batches = [range(first, min(first + batch, images)) for first in range(0, images, batch)]

    def order(self, way: Way, numbers: Sequence[int]) -> Order:
        params = Params.from_names(
            {"enabled": True, "preset": NONE, "scale": SCALE, "window_batch": 64, **way.settings}
        )
        prompts = [Subject(number).prompt for number in numbers]
        return Order(
            prompts, list(numbers), NATIVE_PX, NATIVE_PX, params, steps=self.steps, guidance=GUIDANCE,
        )  # fmt: skip

    def judged(self, way: Way) -> dict[str, Any]:
        begun, counts, right, texts = perf_counter(), [], [], set[str]()
        for numbers in self.batches:
            drawing = self.drawing(way, numbers)
            *_, last = drawing.phases()
            for number, picture in zip(numbers, self.pictures(last.latent)):
                found = find_objects(picture)
                counts.append(len(found))
                right.append(sum(one.colour == Subject(number).colour for one in found))
            texts |= drawing.texts if isinstance(drawing, ByPlace) else set()
        one = [count == good == 1 for count, good in zip(counts, right)]
        return {
            "name": way.name, "objects": counts, "right": right, "mean": sum(counts) / len(counts),
            "one": sum(one) / len(one), "texts": sorted(texts), "seconds": round(perf_counter() - begun, 1),
        }  # fmt: skip

    def drawing(self, way: Way, numbers: Sequence[int]) -> Drawing:
        order = self.order(way, numbers)
        if not way.words:
            return Drawing(self.model, order)
        drawing = ByPlace(self.model, order, way.share)
        if way.words == "truth":
            drawing.look = self.truths
        return drawing

    def truths(self, base: Finished) -> list[torch.Tensor]:
        return [self.truth(picture) for picture in self.pictures(base.latent)]

    @torch.no_grad()
    def pictures(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        for latent in latents:
            picture = self.model.vae.decode(latent[None] / self.model.vae.config.scaling_factor, return_dict=False)[0]
            yield picture[0].float().add(1).div(2).clamp(0, 1).cpu()

    @staticmethod
    def truth(picture: torch.Tensor) -> torch.Tensor:
        """Where `a`, the colour and the shape are, in cells."""
        coloured = (picture.amax(0) - picture.amin(0)).gt(SATURATION).float()
        there = F.avg_pool2d(coloured[None, None], LATENT_PX)[0, 0] > 0.5
        everywhere = torch.ones_like(there)
        return torch.stack([everywhere, there, there] if bool(there.any()) else [everywhere] * 3)

    def attention(self) -> list[dict[str, float]]:
        """How much more of each token's attention lies on the base's object than elsewhere: of `a`, the colour, the shape, and
        of the filling behind them."""
        params = Params.from_names({"enabled": True, "preset": NONE, "scale": 1})
        told = []
        for number in self.batches[0]:
            prompts, size = [Subject(number).prompt], NATIVE_PX // LATENT_PX
            order = Order(prompts, [number], NATIVE_PX, NATIVE_PX, params, steps=self.steps, guidance=GUIDANCE)
            gathered = Gathered((size, size))
            with gathering(self.model.unet, 1, gathered):
                base = next(iter(Drawing(self.model, order).phases()))
            there = self.truth(next(self.pictures(base.latent)))[1].float()
            maps = gathered.maps()[0, 1:6]
            on, off = (maps * there).sum((1, 2)) / there.sum(), (maps * (1 - there)).sum((1, 2)) / (1 - there).sum()
            names = ("a", "colour", "shape", "end", "filling")
            told.append({name: round(float(a / b), 3) for name, a, b in zip(names, on, off)})
        return told


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.words", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/words"), help="(%(default)s)")
    parser.add_argument("--images", type=int, default=24, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=12, help="(%(default)s)")
    parser.add_argument("--sampling-steps", type=int, default=20, help="(%(default)s)")
    parser.add_argument("--pictures", type=int, default=4000, help="for the told toy's training (%(default)s)")
    parser.add_argument("--steps", type=int, default=2500, help="of it, 0 to leave that toy out (%(default)s)")
    parser.add_argument("--train-batch", type=int, default=48, help="(%(default)s)")
    parser.add_argument("--told-alone", action="store_true", help="leave out the toy as it is")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    device, results = choose_device(args.device), {}
    models = {} if args.told_alone else {"toy": TOY_FILE}
    if args.steps:
        told = args.out / "told.safetensors"
        begun = perf_counter()
        train_told(told, args.pictures, args.steps, args.train_batch, device)
        print(f"told: trained in {perf_counter() - begun:.0f} s", flush=True)
        models["told"] = told
    for name, source in models.items():
        model = load_told(source, device)
        lab = Lab(model, args.images, args.batch, args.sampling_steps)
        results[name] = {"attention": lab.attention(), "ways": []}
        print(name, results[name]["attention"][:3], flush=True)
        for way in WAYS:
            judged = lab.judged(way)
            results[name]["ways"].append(judged)
            print(
                f"{name}: {way.name}: {judged['mean']:.2f} objects, one {judged['one']:.2f}, {judged['seconds']} s",
                flush=True,
            )
            (args.out / "words.json").write_text(json.dumps(results, indent=1), encoding="utf-8")


def load_told(path: Path, device: torch.device) -> Model:
    """The toy's pipeline with other weights."""
    with patch("demofusion_lib.standalone.loading.TOY_FILE", path):
        return load_model(TOY, device, torch.float32)


if __name__ == "__main__":
    main()
