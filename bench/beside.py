"""The DemoFusion script of multidiffusion-upscaler and this extension in the same webui, request by request in turn.

    python -m bench.beside --url http://127.0.0.1:7861 [--checkpoint demofusion-toy] [--out out/beside]

The webui has to be started with `--api --allow-code` and both extensions. Every picture is asked for with the same model,
prompt, seed, sampler and steps. What the UNet is given is counted in it: rows are patches of the native image's size, a
smaller one counts for its share. What was measured this way is in docs/beside.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.live.client import WebUI, apart

from .host import REQUEST, SCRIPT, code_for, enlarging

COUNT = """\
answer, drawn = names["count_of"](p)
drawn.infotexts = [__import__("json").dumps(answer)]
return drawn
"""
OTHER = "demofusion"
"""Its script's name in the API."""
SHAPES = {"square": (256, 256), "portrait": (192, 288), "landscape": (288, 192)}
"""Base images, width and height in px."""


@dataclass(frozen=True)
class Drawn:
    """What one request came to.

    rows: of native size, that the UNet was given in the phases. base_rows: and in the base image. unet_s: seconds within
    the UNet, sampling_s: of all samplings, whole_s: of the request with its decodes. sizes: of the pictures delivered.
    patches: by their height and width in cells, how many the phases took.
    """

    rows: float
    base_rows: float
    unet_s: float
    sampling_s: float
    whole_s: float
    sizes: list[tuple[int, int]]
    patches: Mapping[tuple[int, int], int]


def drawn(answer: Mapping[str, Any], sizes: Sequence[tuple[int, int]], native_lat: tuple[int, int]) -> Drawn:
    """From `inside.count_of`. native_lat: the base image's height and width in cells. The first sampling is the base's."""
    cells = native_lat[0] * native_lat[1]
    rows: dict[bool, float] = defaultdict(float)
    patches: dict[tuple[int, int], int] = defaultdict(int)
    for sampling, count, height, width, _ in answer["calls"]:
        rows[sampling > 1] += count * height * width / cells
        if sampling > 1:
            patches[height, width] += count
    unet_s = sum(call[-1] for call in answer["calls"])
    return Drawn(
        rows[True], rows[False], unet_s, sum(answer["samplings"]), answer["seconds"], list(sizes), dict(patches)
    )  # fmt: skip


def other(scale: int, window_lat: int, overlap_lat: int) -> dict[str, Any]:
    """The field of a request that turns the other script on, its other settings as its page has them at first."""
    denoised, noise_inverse = 0.85, [False, 10, 1, 1, 64]
    args = [
        True, "DemoFusion", False, window_lat, overlap_lat, 4, scale, *noise_inverse, False,
        True, 3, 1, 1, True, denoised, 0.6, 4, False,
    ]  # fmt: skip
    return {"alwayson_scripts": {OTHER: {"args": args}}}


PAGE = 128, 64
"""The other script's window and overlap in cells, as its page has them at first; a small picture makes them smaller."""


def ways(width: int, height: int, scale: int, untouched: bool = False) -> dict[str, dict[str, Any]]:
    """Requests' fields by name. The other script's windows are square: the shorter side, half of it over the next, as the
    paper has it, or as its page has them."""
    window = min(width, height) // 8
    return {
        "its own": other(scale, *(PAGE if untouched else (window, window // 2))),
        "paper": enlarging({"preset": "paper", "scale": scale}),
        "fine": enlarging({"preset": "fine", "scale": scale}),
        "fast": enlarging({"preset": "fast", "scale": scale}),
    }


def ask(webui: WebUI, fields: Mapping[str, Any], size: tuple[int, int], steps: int) -> tuple[Drawn, list[Image.Image]]:
    """size: the base image's width and height in px."""
    request = {**REQUEST, **fields, "width": size[0], "height": size[1], "steps": steps, "send_images": True}
    answer = webui.draw(**request, script_name=SCRIPT, script_args=[code_for(COUNT), 2])
    counted = json.loads(answer.infotexts[0])
    return drawn(counted, answer.sizes, (size[1] // 8, size[0] // 8)), answer.pictures


def line(name: str, target: tuple[int, int], runs: Sequence[Drawn], than: Sequence[Drawn]) -> str:
    """A row of the table. than: the runs, in turn with these, whose seconds are 1."""
    first = runs[0]
    ratios = [
        statistics.median(getattr(one, key) / getattr(by, key) for one, by in zip(runs, than, strict=True))
        for key in ("unet_s", "sampling_s", "whole_s")
    ]
    sizes = ", ".join(f"{width}x{height}" for width, height in first.sizes)
    right = "yes" if first.sizes and first.sizes[-1] == target else "no"
    seconds = " | ".join(f"{ratio:.2f}" for ratio in ratios)
    return f"| {name} | {first.rows:.0f} | {first.rows / first.base_rows:.1f} | {seconds} | {sizes} | {right} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.beside", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:7861")
    parser.add_argument("--checkpoint", default="demofusion-toy")
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 3])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--untouched", action="store_true", help="the other script's windows as its page has them")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("out/beside"), help="where the pictures go")
    args = parser.parse_args(argv)
    webui = WebUI(args.url)
    missing = {SCRIPT, OTHER} - {name.lower() for name in webui.ask("scripts")["txt2img"]}
    if missing:
        parser.error(f"the webui at {args.url!r} has no script {', '.join(sorted(missing))}")
    webui.set_options(sd_model_checkpoint=args.checkpoint)
    args.out.mkdir(parents=True, exist_ok=True)
    print(
        "| picture, way | rows of the phases | over the base's | UNet s | sampling s | request s | px | as asked for |"
    )
    for shape in args.shapes:
        for scale in args.scales:
            compare(webui, args, shape, scale)


def compare(webui: WebUI, args: argparse.Namespace, shape: str, scale: int) -> None:
    size = SHAPES[shape]
    target = size[0] * scale, size[1] * scale
    runs: dict[str, list[Drawn]] = defaultdict(list)
    last: dict[str, list[Image.Image]] = defaultdict(list)
    for _ in range(args.repeats):
        for name, fields in ways(*size, scale, args.untouched).items():
            one, pictures = ask(webui, fields, size, args.steps)
            runs[name].append(one)
            last[name].append(pictures[-1])
            pictures[-1].save(args.out / f"{shape}-{scale}x-{name.replace(' ', '-')}.png")
    for name, drawn_ones in runs.items():
        print(line(f"{shape} {scale}x, {name}", target, drawn_ones, runs["paper"]), flush=True)
        moved = max(apart(last[name][0], picture) for picture in last[name])
        print(f"<!-- patches: {dict(drawn_ones[0].patches)}; the repeats differ by up to {moved} grey levels -->")


if __name__ == "__main__":
    main()
