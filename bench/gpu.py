"""What the presets take on a GPU: an SDXL-shaped UNet and VAE of random weights, in half precision.

    python -m bench.gpu [--parts presets batches cards ways] [--sizes 2048 4096 8192] [--cards 8 12 24] [--out FILE] [--tiny]

Parts: the presets' seconds, peak memory, time beside the UNet and decode; batch sizes; smaller cards; ways to run the UNet
(eager, channels last, compiled). Every line is written as soon as it is measured. `--tiny` runs all of it on a CPU with a
network of next to nothing: whether it works.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch

from bench.presets.report import distinct, sizes, table
from bench.presets.watching import Clock, Watched, order, watch
from demofusion_lib.core import is_out_of_memory
from demofusion_lib.standalone.configs import Parts, published
from demofusion_lib.standalone.decoding import Way, decode
from demofusion_lib.standalone.models import Model

GB = 1e9
STEPS = 20
BATCHES = (1, 2, 4, 8, 16, 32)
CARDS_GB = (8, 12, 16, 24)
OTHERS_GB = 1.0
"""What a card of its own has not for the model and the pictures: the driver's context, a desktop."""
WATCHED_PX = 4096
"""Up to which the UNet's own time is taken, for which a picture is drawn a second time."""
PARTS = ("presets", "batches", "cards", "ways")
PRESETS = ("draft", "fast", "fine", "paper")
MOST = {"paper": 2.0, "fine": 4.0}
"""The largest scale that the dear ones are drawn at."""
TINY: Parts = {
    "unet": {
        "sample_size": 8, "block_out_channels": [32, 64, 64], "attention_head_dim": [1, 2, 2], "cross_attention_dim": 40,
        "transformer_layers_per_block": [1, 1, 2], "layers_per_block": 1, "projection_class_embeddings_input_dim": 1560,
    },
    "vae": {"sample_size": 64, "block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
    "text": {"widths": [16, 24]},
}  # fmt: skip


class Words:
    """Stands for a tokenizer: every prompt is one token."""

    bos_token_id, eos_token_id, pad_token_id = 0, 1, 1

    def __call__(self, prompt: str, **_: Any) -> Any:
        return SimpleNamespace(input_ids=[len(prompt)])


@dataclass(frozen=True)
class Encoder:
    """Stands for a text encoder: noise of its shape."""

    width: int
    device: torch.device
    dtype: torch.dtype

    def __call__(self, tokens: torch.Tensor, **_: Any) -> Any:
        hidden = torch.randn(*tokens.shape, self.width, device=self.device, dtype=self.dtype)

        class Output(tuple):  # type: ignore[type-arg]
            hidden_states = (hidden, hidden)

        return Output((hidden[:, 0],))


def random_model(device: torch.device, dtype: torch.dtype, *, tiny: bool) -> Model:
    """SDXL's parts by their published configs, or such of next to no size."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    parts, small = published("sdxl"), TINY if tiny else {}
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            unet = UNet2DConditionModel.from_config({**parts["unet"], **small.get("unet", {})})
            vae = AutoencoderKL.from_config({**parts["vae"], **small.get("vae", {})})
    finally:
        torch.set_default_dtype(before)
    encoders = [Encoder(width, device, dtype) for width in small.get("text", {}).get("widths", [768, 1280])]
    text = tuple((Words(), encoder) for encoder in encoders)
    levels = DDIMScheduler.from_config(parts["scheduler"]).alphas_cumprod.double()
    return Model("random", unet.to(dtype).eval(), vae.to(dtype).eval(), text, levels, "epsilon", True, True)


def waiting(device: torch.device) -> Clock:
    """Looks at the time when the device has done all that it was told to."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return perf_counter()

    return now


def standing() -> float:
    """A clock that disturbs nothing."""
    return 0.0


@contextmanager
def filled(device: torch.device, left_gb: float) -> Iterator[None]:
    """Takes the device's memory but for `left_gb`, what this process has of it already counted in."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    taken = free + torch.cuda.memory_reserved(device) - int(left_gb * GB)
    filler = torch.empty(max(taken, 0), dtype=torch.uint8, device=device)
    try:
        yield
    finally:
        del filler
        torch.cuda.empty_cache()


class Bench:
    """One model on one device. sizes_px: the sides of the pictures."""

    def __init__(self, model: Model, sizes_px: Sequence[int], *, steps: int = STEPS, backend: str = "inductor"):
        self.model, self.sizes_px, self.steps, self.backend = model, sizes_px, steps, backend
        self.device = model.unet.device
        self.clock = waiting(self.device)

    def peak(self) -> int:
        """Bytes that were allocated at once, since this was last asked."""
        if self.device.type != "cuda":
            return 0
        most = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return most

    def draw(self, preset: str, side_px: int, *, model: Model | None = None, batch: int = 16) -> Watched:
        """Without a look at the UNet's time, for which the device would be waited for at every call."""
        model = model or self.model
        wanted = order(preset, side_px / model.native_px, model.native_px, steps=self.steps, batch=batch)
        return watch(model, wanted, self.clock, standing)

    def inside(self, preset: str, side_px: int) -> float:
        """Seconds of the phases inside the UNet."""
        model = self.model
        wanted = order(preset, side_px / model.native_px, model.native_px, steps=self.steps)
        return watch(model, wanted, self.clock).inside

    def presets(self) -> Iterator[str]:
        head = "preset", "size", "units", "base, s", "phases, s", "VAE between them, s", "phases / UNet"
        yield from table(
            (*head, "shapes a phase (rows)", "peak GB", "exact decode, s", "its share", "its peak GB"),
            (
                self._tried(preset, f"{side} px", lambda p=preset, s=side: self._row(p, s))
                for side in self.sizes_px
                for preset in PRESETS
                if side / self.model.native_px <= MOST.get(preset, 8.0)
            ),
        )

    def _row(self, preset: str, side: int) -> list[str]:
        self.peak()
        run = self.draw(preset, side)
        drawn = self.peak()
        overhead = f"{run.seconds / self.inside(preset, side):.3f}" if side <= WATCHED_PX else ""
        shapes = ", ".join(f"{distinct(part)} ({sizes(part)})" for part in run.phases)
        whole = run.base.seconds + run.seconds + run.in_vae
        head = [
            preset, f"{side} px", f"{run.counted:.2f}", f"{run.base.seconds:.2f}", f"{run.seconds:.2f}",
            f"{run.in_vae:.2f}", overhead, shapes, f"{drawn / GB:.1f}",
        ]  # fmt: skip
        self.peak()
        try:
            seconds = self._decode(run.latent)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return [*head, "out of memory", "", ""]
        return [*head, f"{seconds:.2f}", f"{seconds / (whole + seconds):.0%}", f"{self.peak() / GB:.1f}"]

    @torch.no_grad()
    def _decode(self, latent: torch.Tensor) -> float:
        begun = self.clock()
        decode(self.model, latent, Way("exact"))
        return self.clock() - begun

    def _tried(self, preset: str, name: str, row: Callable[[], list[str]]) -> list[str]:
        try:
            return row()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return [preset, name, "out of memory"]

    def batches(self) -> Iterator[str]:
        """Of `fast` at the smallest size: the rows of a call are at most the batch."""
        head = "window batch", "rows a call", "ms a row in the phases", "over a row of the base image", "peak GB"
        yield from table(head, map(self._batch, BATCHES))

    def _batch(self, batch: int) -> list[str]:
        self.peak()
        run = self.draw("fast", self.sizes_px[0], batch=batch)
        count = sum(part.counted for part in run.phases)
        shapes, row = ", ".join(sizes(part) for part in run.phases), run.seconds / count
        over = row / (run.base.seconds / run.base.counted)
        return [str(batch), shapes, f"{1000 * row:.1f}", f"{over:.2f}", f"{self.peak() / GB:.1f}"]

    def cards(self, sizes_gb: Sequence[float]) -> Iterator[str]:
        """What the presets take where the device is filled up until it has no more left than a smaller card has."""
        yield (
            f"The card's memory is filled up, but for what a smaller one has less {OTHERS_GB:g} GB for its driver and desktop. "
            "The window batch is chosen by itself; UNet and VAE stay on the card; there are no text encoders."
        )
        yield ""
        head = "card", "preset", "size", "base and phases, s", "peak GB", "exact decode, s", "its peak GB"
        yield from table(head, self._on_cards(sizes_gb))

    def _on_cards(self, sizes_gb: Sequence[float]) -> Iterator[list[str]]:
        for size in sizes_gb:
            for side in self.sizes_px[:2]:
                for preset in ("fast", "fine"):
                    with filled(self.device, size - OTHERS_GB):
                        yield [f"{size:g} GB", preset, f"{side} px", *self._whole(preset, side)]

    def _whole(self, preset: str, side: int) -> list[str]:
        """Seconds and peak of the drawing, and of the decode."""
        self.peak()
        try:
            run = self.draw(preset, side, batch=0)
            drawn = [f"{run.base.seconds + run.seconds + run.in_vae:.2f}", f"{self.peak() / GB:.1f}"]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return ["out of memory", "", "", ""]
        try:
            return [*drawn, f"{self._decode(run.latent):.2f}", f"{self.peak() / GB:.1f}"]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return [*drawn, "out of memory", ""]

    def ways(self, compiles: bool) -> Iterator[str]:
        """Of `fast`, the weights as they are, with channels last, and compiled: first and later runs of all in turn. At the
        smallest size: larger ones have other shapes, and each is compiled for a minute."""
        models = {"eager": self.model}
        for side in self.sizes_px[:1]:
            rows = []
            first = {"eager": self.draw("fast", side).seconds}
            eager = [self.draw("fast", side).seconds]
            self.model.unet.to(memory_format=torch.channels_last)
            first["channels last"] = self.draw("fast", side).seconds
            last = [self.draw("fast", side).seconds for _ in range(2)]
            self.model.unet.to(memory_format=torch.contiguous_format)
            eager.append(self.draw("fast", side).seconds)
            later = {"eager": min(eager), "channels last": min(last)}
            if compiles:
                if "compiled" not in models:
                    compiled = torch.compile(self.model.unet, dynamic=False, backend=self.backend)
                    models["compiled"] = replace(self.model, unet=compiled)
                runs = [self.draw("fast", side, model=models["compiled"]).seconds for _ in range(3)]
                first["compiled"], later["compiled"] = runs[0], min(runs[1:])
            for way, seconds in later.items():
                rows.append([way, f"{first[way]:.2f}", f"{seconds:.2f}", f"{seconds / later['eager']:.3f}"])
            yield f"`fast`, {side} px:"
            yield ""
            yield from table(("UNet", "first run, s", "later runs, s", "over eager"), rows)


def headed(title: str, lines: Iterator[str]) -> Iterator[str]:
    yield from (f"## {title}", "")
    yield from lines


def report(bench: Bench, name: str, wanted: Sequence[str], compiles: bool, cards: Sequence[float]) -> Iterator[str]:
    precision = str(bench.model.dtype).removeprefix("torch.")
    yield f"# Presets on {name}"
    yield ""
    yield (
        f"An SDXL-shaped UNet and VAE of random weights in {precision}, torch {torch.__version__}, native "
        f"{bench.model.native_px} px, a base image of {bench.steps} Euler steps, guidance 3. `make bench-gpu` draws it anew."
    )
    yield ""
    bench.draw("draft", bench.sizes_px[0])  # warms up
    if "presets" in wanted:
        yield from headed("Seconds, window batch 16", bench.presets())
    if "batches" in wanted:
        yield from headed("Batch sizes", bench.batches())
    if "cards" in wanted and bench.device.type == "cuda":
        yield from headed("Smaller cards", bench.cards(cards))
    if "ways" in wanted:
        yield from headed("Eager, channels last, compiled", bench.ways(compiles))


def file_name(card: str) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}.md"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--sizes", type=int, nargs="+", help="sides in pixels (twice, 4 and 8 times the native 1024)")
    parser.add_argument("--cards", type=float, nargs="*", default=CARDS_GB, help="smaller cards, in GB")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with a network of next to nothing")
    parser.add_argument("--out", type=Path, help="(bench/results/CARD.md)")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("bench.gpu needs a CUDA device, and torch sees none (--tiny tries it on a CPU)")
    device = torch.device("cpu" if args.tiny else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = True  # as both hosts have it
    card = "a CPU, tiny" if args.tiny else torch.cuda.get_device_name(device)
    out = args.out or Path("out/bench-gpu-tiny.md" if args.tiny else f"bench/results/{file_name(card)}")
    model = random_model(device, torch.float32 if args.tiny else torch.float16, tiny=args.tiny)
    sides = args.sizes or [model.native_px * scale for scale in (2, 4, 8)]
    bench = Bench(model, sides, steps=2 if args.tiny else STEPS, backend="eager" if args.tiny else "inductor")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        for line in report(bench, card, args.parts, not args.no_compile, args.cards):
            print(line, file=file, flush=True)
            print(line, flush=True)


if __name__ == "__main__":
    main()
