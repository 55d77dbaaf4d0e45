"""`python -m bench.quality.hints`: the toy with its ControlNet, whose hint says where the object belongs.

Each row is drawn from the same base images, at 2x, 3x and 4x of one climb. What is measured is kept in `results.json` of the
output folder after every batch; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from PIL import Image
from scipy import ndimage

from bench.quality.drawn import Studio
from bench.quality.rows import GUIDANCE, Case, Subject
from bench.sheet import to_image
from demofusion_lib.core import Looking
from demofusion_lib.params import Params
from demofusion_lib.presets import NONE
from demofusion_lib.standalone.controls import Control, Shown, Steering
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import choose_device, load_model
from demofusion_lib.standalone.toy import TOY, TOY_CONTROLNET
from lab.detector import SATURATION, find_objects, shows_one
from lab.scenes import NATIVE_PX, silhouette

IMAGES, SCALES = 16, (2, 3, 4)
SALT = 3
"""Of the scenes whose silhouettes are the hints: others than the truth's."""
OVERLAP = 0.5
"""Least share of what object and hint cover together that both do. True renders have 0.98 and more; of 48 with the object of
another scene three have so much."""
TILE_PX = 160


class Everywhere(Shown):
    """The whole hint for each window, as if it were the picture."""

    def cut(self, now: Looking | None, shape_lat: tuple[int, int], rows: int) -> torch.Tensor:
        return self.whole(now, shape_lat, rows)


class ByCells(Shown):
    """A dilated sub-image gets just what belongs to its cells, side by side."""

    def cut(self, now: Looking | None, shape_lat: tuple[int, int], rows: int) -> torch.Tensor:
        return self.whole(now, shape_lat, rows) if now is None else now.cut(self.plane, self._images(now))


HINTS = {"hint follows": Shown, "whole hint in each window": Everywhere, "no hint in phases": None}
OTHER_HINTS = {"hint follows by cells": ByCells, "hint follows as smooth": Shown}


@dataclass(frozen=True)
class Row:
    """hint: what the phases get of it, of HINTS or OTHER_HINTS."""

    name: str
    hint: str
    settings: Mapping[str, Any]

    @property
    def kind(self) -> str:
        return "smooth" if self.hint.endswith("smooth") else "lines"


METHOD = {"preset": NONE}
KINDS = {
    "method": METHOD, "fine": {"preset": "fine"}, "draft": {"preset": "draft"}, "fast": {"preset": "fast"},
    "windows alone": {**METHOD, "skip_residual": False, "dilated": False},
}  # fmt: skip
ROWS = (
    *(Row(f"{kind}, {hint}", hint, settings) for kind, settings in KINDS.items() for hint in HINTS),
    *(Row(f"method, {hint}", hint, METHOD) for hint in OTHER_HINTS),
)
BY_NAME = {row.name: row for row in ROWS}


class Hinted(Drawing):
    """A drawing whose phases get their hint as a row says. The base image is the same for all rows."""

    shown: type[Shown] | None = Shown

    def steering(self, size_lat: tuple[int, int], part_lat: tuple[int, int] | None = None) -> Steering:
        steering = super().steering(size_lat, part_lat)
        if part_lat is None:
            return steering
        return Steering([self.shown(one.control, one.plane) for one in steering.shown] if self.shown else [])


def covered(picture: torch.Tensor) -> np.ndarray:
    """What the objects of a picture `(3, height, width)` in [0, 1] cover, their white cores too."""
    coloured = (picture.amax(0) - picture.amin(0)).gt(SATURATION).numpy()
    filled: np.ndarray = ndimage.binary_fill_holes(coloured)
    return filled


def overlap(picture: torch.Tensor, hint: torch.Tensor) -> float:
    """Of the objects and the hint `(1, height, width)`, of the picture's size: what both cover over what either does."""
    found, wanted = covered(picture), hint[0].gt(0.5).numpy()
    return float((found & wanted).sum() / max(1, (found | wanted).sum()))


def figures(picture: torch.Tensor, subject: Subject, scale: int) -> dict[str, Any]:
    found = find_objects(picture)
    share = overlap(picture, silhouette(subject.scene((NATIVE_PX, NATIVE_PX), SALT), scale))
    return {
        "objects": len(found), "one": shows_one(found), "colour": bool(found) and found[0].colour == subject.colour,
        "overlap": round(share, 4), "placed": shows_one(found) and share >= OVERLAP,
    }  # fmt: skip


def hints_of(subjects: Sequence[Subject]) -> torch.Tensor:
    """`(count, 3, 256, 256)`, of the base image's size: the phases enlarge it."""
    scenes = [subject.scene((NATIVE_PX, NATIVE_PX), SALT) for subject in subjects]
    return torch.stack([silhouette(scene).expand(3, -1, -1) for scene in scenes])


class Laboratory:
    def __init__(self, studio: Studio, net: Any, out: Path):
        self.studio, self.net, self.out = studio, net, out
        self.file = out / "results.json"
        self.results: dict[str, dict[str, dict[str, Any]]] = (
            json.loads(self.file.read_text()) if self.file.exists() else {}
        )

    def drawing(self, row: Row, subjects: Sequence[Subject], scale: int) -> Hinted:
        settings = {"enabled": True, "scale": scale, "window_batch": self.studio.window_batch}
        order = Order(
            [s.prompt for s in subjects], [s.number for s in subjects], NATIVE_PX, NATIVE_PX,
            Params.from_names({**settings, **row.settings}), guidance=GUIDANCE,
            controls=[Control(self.net, hints_of(subjects), row.kind)],
        )  # fmt: skip
        drawing = Hinted(self.studio.model, order)
        drawing.shown = {**HINTS, **OTHER_HINTS}[row.hint]
        return drawing

    def draw(self, row: Row, subjects: Sequence[Subject], scales: Sequence[int]) -> None:
        """A climb through several sizes is drawn once for all."""
        left = {Case("square", scale).size_px[0]: scale for scale in (1, *scales)}
        while left:
            for phase in self.drawing(row, subjects, max(left.values())).phases():
                scale = left.pop(phase.size_px[0], None)
                if scale is not None:
                    for subject, picture in zip(subjects, self.studio.decode(phase.latent)):
                        self.keep(row, scale, subject, picture)
        self.file.write_text(json.dumps(self.results), encoding="utf-8")

    def keep(self, row: Row, scale: int, subject: Subject, picture: torch.Tensor) -> None:
        name = f"{row.name}, {scale}x"
        self.results.setdefault(name, {})[str(subject.number)] = figures(picture, subject, scale)
        small = F.interpolate(picture[None], (TILE_PX, TILE_PX), mode="area")
        folder = self.out / "tiles" / name.replace(" ", "-").replace(",", "")
        folder.mkdir(parents=True, exist_ok=True)
        to_image(small).save(folder / f"{subject.number:02}.png")

    def missing(self, row: Row, images: int, scales: Sequence[int]) -> list[Subject]:
        kept = [self.results.get(f"{row.name}, {scale}x", {}) for scale in scales]
        return [Subject(number) for number in range(images) if any(str(number) not in one for one in kept)]

    def sheet(self) -> None:
        """A line of pictures for each row and size, the hints above."""
        lines = [hints_of([Subject(number) for number in range(IMAGES)])]
        tiles = F.interpolate(lines[0], (TILE_PX, TILE_PX), mode="area")
        made = Image.new("RGB", (IMAGES * TILE_PX, (len(self.results) + 1) * TILE_PX), "white")
        for number, tile in enumerate(tiles):
            made.paste(to_image(tile[None]), (number * TILE_PX, 0))
        for line, name in enumerate(sorted(self.results), 1):
            for file in sorted((self.out / "tiles" / name.replace(" ", "-").replace(",", "")).glob("*.png")):
                made.paste(Image.open(file), (int(file.stem) * TILE_PX, line * TILE_PX))
        made.save(self.out / "sheet.jpg", quality=85)


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A line for each row, `placed of images` for each scale, and the mean number of objects at the largest."""
    names = [row.name for row in ROWS if any(name.startswith(f"{row.name}, ") for name in results)]
    scales = sorted({int(name.rsplit(", ", 1)[1][:-1]) for name in results})
    lines = [f"| row | {' | '.join(f'{scale}x' for scale in scales)} |", "|---" * (1 + len(scales)) + "|"]
    for name in names:
        cells = []
        for scale in scales:
            ones = list(results.get(f"{name}, {scale}x", {}).values())
            objects = sum(one["objects"] for one in ones) / max(1, len(ones))
            cells.append(f"{sum(one['placed'] for one in ones)} of {len(ones)} ({objects:.1f})" if ones else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def listed(text: str) -> list[str]:
    names = [name.strip() for name in text.split(";")]
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r}, allowed, with ; between them: {'; '.join(BY_NAME)}")
    return names


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quality.hints", description=__doc__)
    parser.add_argument("--net", type=Path, default=TOY_CONTROLNET, help="the ControlNet's folder (the toy's own)")
    parser.add_argument("--out", type=Path, default=Path("out/hints"))
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--batch", type=int, default=16, help="images at once (%(default)s)")
    parser.add_argument("--rows", type=listed, default=list(BY_NAME))
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=list(SCALES))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    keep_freed_memory()
    args.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(load_model(TOY, choose_device(args.device), torch.float32))
    net = ControlNetModel.from_pretrained(str(args.net), torch_dtype=torch.float32).to(studio.model.device).eval()
    laboratory = Laboratory(studio, net, args.out)
    for name in args.rows:
        begun, subjects = perf_counter(), laboratory.missing(BY_NAME[name], args.images, args.scales)
        for first in range(0, len(subjects), args.batch):
            laboratory.draw(BY_NAME[name], subjects[first : first + args.batch], args.scales)
        print(f"{name}: {perf_counter() - begun:.0f} s", flush=True)
        (args.out / "table.md").write_text(table(laboratory.results), encoding="utf-8")
        laboratory.sheet()
    print(table(laboratory.results))


if __name__ == "__main__":
    main()
