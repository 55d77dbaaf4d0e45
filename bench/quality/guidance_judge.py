"""Ways to guide, judged by the fine texture they draw: `python -m bench.quality.guidance_judge`, with the second toy.

Its ground is woven or brushed as the prompt says, and without guidance the wrong one in a third of the pictures. A row is
`NAME: setting=value ...`, of the settings' table, and `cfg=` for the scale of guidance. Differences are paired, image by
image, with the first row's; true scenes follow at the end. What is measured is kept in the output folder: a run that was
stopped goes on, and more can follow.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bench.quality.drawn import Studio
from bench.quality.results import mean_error
from bench.sheet import to_image
from demofusion_lib.params import BY_NAME, Params, SettingsError, quoted
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import choose_device
from lab.data import draw_grounded_scene
from lab.detector import find_objects, shows_one
from lab.ground import judge_ground
from lab.scenes import NATIVE_PX, render
from lab.toy2 import load_toy2
from lab.toy2.judge import Subject2

UNIT_ROWS = 40
"""Of the network in one native image at 20 steps with guidance."""
CFG = 3.0
FAST = "plan=doubling start=601 steps=3 residual=x0 dilated=False skip_residual=True overlap=0.25 window_weight=sin2"
ROWS = (
    f"windows: {FAST} guidance=windows",
    f"windows to 300: {FAST} guidance=windows guidance_until=300",
    f"low-pass: {FAST} guidance=low-pass",
    f"low-pass to 300: {FAST} guidance=low-pass guidance_until=300",
    f"no guidance: {FAST} cfg=1",
)


@dataclass(frozen=True)
class GuidedRow:
    """A way to draw: its settings, checked, and the scale of guidance."""

    name: str
    settings: Mapping[str, Any]
    cfg: float = CFG

    @classmethod
    def parse(cls, text: str) -> GuidedRow:
        """`NAME: setting=value ...`. Raises argparse.ArgumentTypeError naming what can't be used."""
        name, colon, rest = text.partition(":")
        pairs = [part.partition("=") for part in rest.split()]
        if not colon or not name.strip() or not all(equals for _, equals, _ in pairs):
            raise argparse.ArgumentTypeError(f"row is {quoted(text)}, allowed: NAME: setting=value ...")
        values = {key: value for key, _, value in pairs}
        cfg = values.pop("cfg", str(CFG))
        unknown = [key for key in values if key not in BY_NAME]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"unknown setting {quoted(unknown[0])}; the settings are {', '.join(BY_NAME)}"
            )
        try:
            return cls(name.strip(), {k: BY_NAME[k].from_text(v) for k, v in values.items()}, float(cfg))
        except SettingsError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        except ValueError:
            raise argparse.ArgumentTypeError(f"cfg is {quoted(cfg)}, allowed: a number") from None

    def order(self, subjects: Sequence[Subject2], scale: int, steps: int = 20) -> Order:
        params = Params.from_names({"enabled": True, "scale": scale, "window_batch": 16, **self.settings})
        prompts, seeds = [s.prompt for s in subjects], [s.number for s in subjects]
        return Order(prompts, seeds, NATIVE_PX, NATIVE_PX, params, steps=steps, guidance=self.cfg)


TRUTH = GuidedRow("truth", {})


def drawn(studio: Studio, row: GuidedRow, subject: Subject2, scale: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The picture `(3, height, width)` in [0, 1] and its figures."""
    phases = list(Drawing(studio.model, row.order([subject], scale)).phases())
    base, picture = (studio.decode(phase.latent)[0] for phase in (phases[0], phases[-1]))
    units = sum(phase.evaluations for phase in phases) / UNIT_ROWS
    return picture, figures(picture, base, subject, units, sum(phase.seconds for phase in phases))


def true(studio: Studio, subject: Subject2, scale: int) -> tuple[torch.Tensor, dict[str, float]]:
    """A true scene of the prompt, through the autoencoder, which strengthens either texture a little."""
    generator = torch.Generator().manual_seed(1_000_003 + subject.number)
    scene = draw_grounded_scene(generator, subject.colour, subject.shape, subject.ground)
    pictures = [studio.through_autoencoder(render(scene, size)[None])[0] for size in (scale, 1)]
    return pictures[0], figures(*pictures, subject, 0.0, 0.0)


def figures(
    picture: torch.Tensor, base: torch.Tensor, subject: Subject2, units: float, seconds: float
) -> dict[str, float]:
    found, under = judge_ground(picture), judge_ground(base)
    return {
        "units": units,
        "seconds": seconds,
        "base": float(under.shows(subject.ground)),
        "whole": float(found.shows(subject.ground)),
        "right": found.shares[subject.ground],
        "wrong": sum(found.shares.values()) - found.shares[subject.ground],
        "contrast_db": found.contrast_db,
        "rest_db": found.rest_db,
        "one object": float(shows_one(find_objects(picture), subject.colour)),
    }


def table(kept: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Means with standard errors, and the difference in right patches from the first row's, paired."""
    names = list(next(iter(kept.values()))[0])
    lines = [f"| row | n | {' | '.join(names)} | right, against the first |", "|---" * (len(names) + 3) + "|"]
    first = next(iter(kept.values()))
    for row, figures in kept.items():
        cells = [cell([one[name] for one in figures]) for name in names]
        paired = cell([one["right"] - other["right"] for one, other in zip(figures, first)], sign="+")
        lines.append(f"| {row} | {len(figures)} | {' | '.join(cells)} | {paired} |")
    return "\n".join(lines)


def cell(values: Sequence[float], sign: str = "") -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    mean, error = mean_error(known)
    return f"{mean:{sign}.2f}" if math.isnan(error) or error < 5e-3 else f"{mean:{sign}.2f} ± {error:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.guidance_judge", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/guidance"))
    parser.add_argument("--images", type=int, default=16, help="a row (%(default)s)")
    parser.add_argument("--scale", type=int, default=2, help="(%(default)s)")
    parser.add_argument(
        "--row", type=GuidedRow.parse, action="append", help=f"again for more; without any: {'; '.join(ROWS)}"
    )
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    rows = [*(args.row or [GuidedRow.parse(text) for text in ROWS]), TRUTH]
    keep_freed_memory()
    studio = Studio(load_toy2(choose_device(args.device)))
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"results-{args.scale}x.json"
    kept: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    for number in range(args.images):
        for row in rows:
            known = kept.setdefault(row.name, {"row": asdict(row), "figures": []})
            if known["row"] != asdict(row):
                parser.error(f"row {quoted(row.name)} was measured with other settings in {file}")
            if len(known["figures"]) > number:
                continue
            subject = Subject2(number)
            if row.name == TRUTH.name:
                picture, measured = true(studio, subject, args.scale)
            else:
                picture, measured = drawn(studio, row, subject, args.scale)
            known["figures"].append(measured)
            to_image(picture[None]).save(args.out / f"{row.name.replace(' ', '-')}-{args.scale}x-{number:02}.png")
            file.write_text(json.dumps(kept))
    print(table({row.name: kept[row.name]["figures"][: args.images] for row in rows}))


if __name__ == "__main__":
    main()
