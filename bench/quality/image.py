"""`python -m bench.quality.image`: what a given picture becomes at each strength, beside bicubic and tiles drawn one by one.

The pictures are the method's base images at 256 px, which the toy knows, enlarged twice. Figures are kept in `results.json` of
the output folder after every picture; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from PIL import Image

from bench.quality.drawn import Studio
from bench.quality.measures import BANDS, band_levels, psnr, shrunk
from bench.quality.rows import BY_NAME, GUIDANCE, Case, Subject
from bench.quality.upscale_script import upscaled
from demofusion_lib.params import Params
from demofusion_lib.standalone.decoding import pixels_of, to_image
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.models import choose_device, load_model
from demofusion_lib.standalone.toy import TOY
from lab.detector import find_objects, shows_one
from tests.live.client import WebUI

CASE = Case("square", 2)
TRUTH, BICUBIC, TILES = "truth", "bicubic", "tiles from t = 401"
SCRIPT = "SD upscale "
STRENGTHS = (1.0, 0.5, 0.3, 0.1, 0.7)
UPPER = ("1/8-1/4", "1/4-1/2")
"""Of the bands, those that a picture enlarged twice lacks."""

Figures = dict[str, Any]


def enlarged(studio: Studio, picture: torch.Tensor, subject: Subject, strength: float, **settings: Any) -> torch.Tensor:
    """`picture (3, height, width)` in [0, 1], and the result `(3, 2 height, 2 width)`."""
    params = Params.from_names({"enabled": True, "scale": CASE.scale, "window_batch": studio.window_batch, **settings})
    order = Order(
        [subject.prompt], [subject.number], *CASE.base_px, params, guidance=GUIDANCE, picture=picture * 2 - 1, strength=strength
    )  # fmt: skip
    drawing = Drawing(studio.model, order)
    last = list(drawing.phases())[-1]
    pixels = drawing.held(pixels_of(studio.model, last.latent)) if last.picture is None else last.picture
    return pixels[0].add(1).div(2).clamp(0, 1).cpu()


def figures(picture: torch.Tensor, given: torch.Tensor) -> Figures:
    return {
        "psnr": psnr(shrunk(picture, CASE.scale), given),
        "one": shows_one(find_objects(picture)),
        "bands": band_levels(picture),
    }


def row_names(strengths: Sequence[float]) -> list[str]:
    return [TRUTH, BICUBIC, *(f"strength {value:g}" for value in strengths), TILES]


def drawn(
    studio: Studio, name: str, given: torch.Tensor, latent: torch.Tensor, subject: Subject, webui: WebUI | None = None
) -> torch.Tensor:
    """One row's picture."""
    if name.startswith(SCRIPT):
        assert webui is not None
        return upscaled(webui, given, CASE, subject, float(name.removeprefix(SCRIPT)))
    if name == TRUTH:
        return studio.true(CASE, [subject], CASE.scale)[0]
    if name == BICUBIC:
        return enlarged(studio, given, subject, 0.0)
    if name == TILES:
        return studio.decode(studio.redrawn(BY_NAME[TILES], CASE, [subject], latent).latent)[0]
    return enlarged(studio, given, subject, float(name.split()[1]))


def measure(
    studio: Studio, out: Path, images: int, names: Sequence[str], webui: WebUI | None = None
) -> dict[str, dict[str, Figures]]:
    file = out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for number in range(images):
        missing = [name for name in names if str(number) not in results.get(name, {})]
        if not missing:
            continue
        subject = Subject(number)
        latent = studio.base(BY_NAME["method"].order(CASE, [subject])).latent
        given = studio.decode(latent)[0]
        to_image(given * 2 - 1).save(out / f"{number}-given.png")
        for name in missing:
            picture = drawn(studio, name, given, latent, subject, webui)
            results.setdefault(name, {})[str(number)] = figures(picture, given)
            to_image(picture * 2 - 1).save(out / f"{number}-{name.replace(' ', '-')}.png")
            file.write_text(json.dumps(results))
            print(number, name, round(results[name][str(number)]["psnr"], 2), flush=True)
    return results


def mean_and_error(values: Sequence[float]) -> str:
    error = f" ± {stdev(values) / sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{error}"


def table(results: Mapping[str, Mapping[str, Figures]], names: Sequence[str]) -> str:
    """Bands against the mean of the true scenes, in dB."""
    truth = {band: fmean(one["bands"][band] for one in results[TRUTH].values()) for band in BANDS}
    lines = [
        f"| row | images | PSNR to the picture, dB | one object | {' | '.join(BANDS)} |",
        "|---" * (4 + len(BANDS)) + "|",
    ]
    for name in names:
        ones = list(results.get(name, {}).values())
        if not ones:
            continue
        likeness = "" if name == TRUTH else mean_and_error([one["psnr"] for one in ones])
        bands = [f"{fmean(one['bands'][band] for one in ones) - truth[band]:+.2f}" for band in BANDS]
        share = f"{sum(one['one'] for one in ones)} of {len(ones)}"
        lines.append(f"| {name} | {len(ones)} | {likeness} | {share} | {' | '.join(bands)} |")
    return "\n".join(lines) + "\n"


def sheet(out: Path, number: int, names: Sequence[str], side_px: int = 256) -> None:
    """The middle of one picture's rows at its full size, side by side, as `sheet.png`."""
    rows = [Image.open(out / f"{number}-{name.replace(' ', '-')}.png") for name in names]
    corner = (rows[0].width - side_px) // 2, (rows[0].height - side_px) // 2
    made = Image.new("RGB", (side_px * len(rows), side_px))
    for place, row in enumerate(rows):
        made.paste(row.crop((*corner, corner[0] + side_px, corner[1] + side_px)), (place * side_px, 0))
    made.quantize(128).save(out / "sheet.png", optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.image", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/image"))
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--strengths", type=float, nargs="+", default=list(STRENGTHS))
    parser.add_argument("--no-tiles", action="store_true", help="leave the tiles out")
    parser.add_argument(
        "--sheet", type=int, metavar="N", help="show picture N's bicubic and the strengths side by side"
    )
    parser.add_argument("--url", help="a running webui, whose script SD upscale draws rows at --script-strengths")
    parser.add_argument("--script-strengths", type=float, nargs="+", default=[0.3, 0.5])
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in row_names(args.strengths) if not (args.no_tiles and name == TILES)]
    of_script = [f"{SCRIPT}{value:g}" for value in args.script_strengths] if args.url else []
    names += of_script
    studio = Studio(load_model(TOY, choose_device(args.device), torch.float32))
    results = measure(studio, args.out, args.images, names, WebUI(args.url) if args.url else None)
    shown = [TRUTH, BICUBIC, *(f"strength {value:g}" for value in sorted(args.strengths)), TILES, *of_script]
    if args.sheet is not None:
        sheet(args.out, args.sheet, [BICUBIC, *(f"strength {value:g}" for value in sorted(args.strengths))])
    (args.out / "table.md").write_text(table(results, shown), encoding="utf-8")


if __name__ == "__main__":
    main()
