"""The tiled VAE measured: `--compare` against other ways to decode (docs/vae.md), `--memory` by size (docs/memory.md)."""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from diffusers import AutoencoderKL

from bench.live_bytes import counted
from demofusion_lib.standalone.configs import published
from demofusion_lib.standalone.loading import load_pipeline
from demofusion_lib.standalone.sources import Source
from demofusion_lib.vae import Memory, Plan, attention, decode, encode, estimated, exact, layers, planes, statistics
from lab.scenes import draw_scene, render

MB, GB = 1e6, 1e9
ROOMY = Memory(1 << 40, 1 << 40)
SIZES_PX = (1024, 2048, 4096, 8192)
REAL_PX = 1024  # beyond it the arithmetic is left out
TILES = 8  # then of every sweep, all of one size and one after the other


def sd_vae() -> Any:
    """SD 1's as published, 128-256-512-512 channels, with random weights."""
    torch.manual_seed(0)
    return AutoencoderKL.from_config(published("sd1")["vae"]).eval().requires_grad_(False)


# -- comparison


@dataclass
class Row:
    name: str
    psnr: float
    seam: float
    seconds: float
    peak: int

    def __str__(self) -> str:
        psnr = "same" if math.isinf(self.psnr) else f"{self.psnr:.1f}"
        return f"| {self.name} | {psnr} | {self.seam:.3f} | {self.seconds:.1f} | {self.peak / MB:,.0f} |"


def compare(which: str) -> None:
    if which != "sd":
        compare_toy()
    if which != "toy":
        real = sd_vae()
        for side in (512, 768):
            table(f"SD 1's VAE, random weights, {side} px", real, smooth_noise(side // 8))


def compare_toy() -> None:
    toy = load_pipeline(Source("toy"), torch.device("cpu"), torch.float32).vae
    toy.to(memory_format=torch.contiguous_format)  # in the other order torch's own group norms lose digits on a CPU
    generator = torch.Generator().manual_seed(3)
    for scale in (3, 4):
        image = render(draw_scene(generator), scale)[None] * 2 - 1
        latent = encode(toy, image, memory=ROOMY)[:, :4]
        table(f"toy, {256 * scale} px, a scene of the laboratory", toy, latent)


def smooth_noise(side: int) -> torch.Tensor:
    """A latent that varies from place to place, as pictures' do: noise of four cells and of one."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, 4, side // 4, side // 4, generator=generator)
    fine = torch.randn(1, 4, side, side, generator=generator)
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear") + 0.5 * fine


def table(title: str, vae: Any, latent: torch.Tensor) -> None:
    print(
        f"\n{title}\n\n| decode | PSNR dB | seam | seconds | peak MB |\n|---|---|---|---|---|",
        flush=True,
    )
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "undivided": lambda: vae.decode(latent).sample,
        "exact": lambda: decode(vae, latent, mode="exact", memory=ROOMY),
        "estimated": lambda: decode(vae, latent, mode="estimated", memory=ROOMY),
        "estimated, tile_lat 24": lambda: decode(vae, latent, mode="estimated", tile_lat=24, memory=ROOMY),
        "diffusers, enable_tiling": lambda: tiled(vae, latent),
    }
    truth: torch.Tensor | None = None
    for name, way in ways.items():
        with torch.no_grad(), counted() as counter:
            begun = perf_counter()
            made = way()
            seconds = perf_counter() - begun
        truth = made if truth is None else truth
        peak = counter.peak + counter.store_peak
        print(Row(name, psnr(made, truth), seam(made, truth, borders(name, vae, latent)), seconds, peak), flush=True)


def tiled(vae: Any, latent: torch.Tensor) -> torch.Tensor:
    vae.enable_tiling()
    try:
        return vae.decode(latent).sample
    finally:
        vae.disable_tiling()


def psnr(made: torch.Tensor, truth: torch.Tensor) -> float:
    error = float((made.double() - truth.double()).square().mean())
    return math.inf if error == 0 else 10 * math.log10(4 / error)


def borders(name: str, vae: Any, latent: torch.Tensor) -> list[int]:
    """Rows that begin a tile: of diffusers those where it cuts what it has blended; ours as bands, or every 128 px."""
    height = latent.shape[2] * 8
    if name.startswith("diffusers"):
        step = vae.tile_sample_min_size - int(vae.tile_sample_min_size * vae.tile_overlap_factor)
        return list(range(step, height, step)) or [height // 2]
    if "24" in name and name.startswith("estimated"):
        from demofusion_lib.vae.coding import _job
        from demofusion_lib.vae.reading import read_decoder

        job = _job(read_decoder(vae), tuple(latent.shape[2:]), 24, None)
        first, last = job.parts()[-1]
        part = estimated.Part.of(job.program.steps[first:last], job.shapes[first], None, readied=False)  # type: ignore[arg-type]
        return sorted({tile.top for tile in estimated.part_tiles(part, job.values)} - {0}) or [height // 2]
    return list(range(128, height, 128))


def seam(made: torch.Tensor, truth: torch.Tensor, rows: list[int]) -> float:
    """Steps over borders against those elsewhere, each as a share of the undivided picture's: 1 is no seam."""
    made_steps, true_steps = steps(made), steps(truth)
    at = torch.zeros_like(true_steps, dtype=torch.bool)
    at[torch.tensor(rows) - 1] = True
    ratios = [float(made_steps[rows].sum() / true_steps[rows].sum()) for rows in (at, ~at)]
    return ratios[0] / ratios[1]


def steps(picture: torch.Tensor) -> torch.Tensor:
    """The mean step from each row to the next."""
    return (picture[..., 1:, :] - picture[..., :-1, :]).abs().mean((0, 1, 3))


# -- memory


def memory() -> None:
    print(
        "| picture | tiles, live MB | layers in the file, GB | process peak MB | undivided, live MB | its process peak MB |"
    )
    print("|---|---|---|---|---|---|", flush=True)
    for side in SIZES_PX:
        ours = apart(side, "ours")
        line = f"| {side} px | {ours['live'] / MB:,.0f} | {ours['store'] / GB:.1f} | {ours['process'] / MB:,.0f} |"
        if side <= REAL_PX:
            whole = apart(side, "undivided")
            line += f" {whole['live'] / MB:,.0f} | {whole['process'] / MB:,.0f} |"
        else:
            line += " - | - |"
        print(line, flush=True)


def apart(side: int, way: str) -> dict[str, int]:
    """In a process of its own, whose peak is then this run's."""
    command = [sys.executable, "-m", "bench.vae", "--one", way, "--side", str(side)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


def one(side: int, way: str) -> None:
    vae, latent = sd_vae(), smooth_noise(side // 8)
    plans: list[Plan] = []
    with torch.no_grad(), counted() as counter:
        if way == "undivided":
            vae.decode(latent)
        else:
            with tempfile.TemporaryDirectory() as folder, left_out() if side > REAL_PX else counted_for_real():
                decode(vae, latent, memory=Memory(0, 0, 1 << 50, folder), told=plans.append)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"live": counter.peak, "store": counter.store_peak, "process": peak}))


@contextmanager
def counted_for_real() -> Iterator[None]:
    yield


class Touched:
    """Tensors of the shapes asked for. Of each shape the first few in every sweep have their pages touched, so that the
    process holds what a real sweep's tiles hold; to touch all of them would take hours at 8192 px."""

    FEW = 4

    def __init__(self) -> None:
        self.seen: dict[tuple[int, ...], int] = {}

    def __call__(self, *shape: int) -> torch.Tensor:
        self.seen[shape] = self.seen.get(shape, 0) + 1
        made = torch.empty(shape)
        return made.fill_(0.5) if self.seen[shape] <= self.FEW else made

    def anew(self, made: Any) -> Any:
        self.seen.clear()
        return made


def first(tiles: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    return lambda *given: tiles(*given)[:TILES]


@contextmanager
def left_out() -> Iterator[None]:
    """Everything but the arithmetic, the reading and the writing: tensors of the same shapes, and empty files.

    Of each sweep the first tiles alone: they are of one size, and what they take is free before the next.
    """
    touched = Touched()

    def conv2d(given: torch.Tensor, weight: torch.Tensor, bias: Any, stride: int) -> torch.Tensor:
        height, width = ((side - weight.shape[2]) // stride + 1 for side in given.shape[2:])
        return touched(1, height, width, weight.shape[0]).permute(0, 3, 1, 2)

    def linear(given: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return touched(*given.shape[:-1], weight.shape[0])

    def window(source: Any, tile: Any, conv: Any, up: int, affine: Any) -> torch.Tensor:
        """With what is read for it, and what is normalised at a time."""
        (top, bottom), (left, right) = (
            layers.input_range(conv, *ends) for ends in ((tile.top, tile.bottom), (tile.left, tile.right))
        )
        read = touched(-(-(bottom - top) // up), source.shape.width, source.shape.channels)
        made = touched(bottom - top, right - left, source.shape.channels)
        if affine is not None:
            block = statistics.block_rows(made)
            touched(min(block, made.shape[0]), *made.shape[1:])
        del read
        return made

    def read(self: Any, tile: Any) -> torch.Tensor:
        return touched(tile.height, self.shape.width, self.shape.channels)[:, tile.left : tile.right]

    def write(self: Any, tile: Any, values: torch.Tensor) -> None:
        pass

    def add(self: Any, tile: torch.Tensor) -> None:
        if not self.counts:
            self.counts.append(1)
            self.means.append(torch.zeros(tile.shape[-1]))
            self.squares.append(torch.ones(tile.shape[-1]))
        touched(min(statistics.block_rows(tile), tile.shape[0]), *tile.shape[1:])

    def score(self: Any, step: Any, both: torch.Tensor) -> None:
        touched(step.heads, self.queries.shape[1], both.shape[0] * both.shape[1])
        self.weight.fill_(1)

    class Left:
        pass

    Left.conv2d, Left.linear = staticmethod(conv2d), staticmethod(linear)  # type: ignore[attr-defined]
    begun, pairs = exact.readied_step, exact.key_value
    changes = [
        (layers, "F", Left), (layers, "tile_input", window), (exact, "tile_input", window),
        (exact, "readied_step", lambda *given: touched.anew(begun(*given))),
        (exact, "key_value", lambda step: touched.anew(pairs(step))),
        *((exact, name, first(getattr(exact, name))) for name in ("sweep_tiles", "query_tiles", "key_tiles")),
        (statistics.Gathered, "add", add), (attention.Softmax, "add", score),
        (planes.FilePlane, "read", read), (planes.FilePlane, "write", write),
    ]  # fmt: skip
    before = [getattr(where, name) for where, name, _ in changes]
    for where, name, stand_in in changes:
        setattr(where, name, stand_in)
    try:
        yield
    finally:
        for (where, name, _), value in zip(changes, before):
            setattr(where, name, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--compare",
        nargs="?",
        const="all",
        choices=("all", "toy", "sd"),
        help="PSNR, seam, seconds, peak of ways to decode",
    )
    parser.add_argument("--memory", action="store_true", help="bytes by size of the picture")
    parser.add_argument("--one", choices=("ours", "undivided"), help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one(given.side, given.one)
    if given.compare:
        compare(given.compare)
    if given.memory:
        memory()


if __name__ == "__main__":
    main()
