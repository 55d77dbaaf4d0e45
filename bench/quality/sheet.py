"""The first pictures of every row, beside each other."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from bench.quality.rows import ROWS, Case
from bench.sheet import to_image

SHOWN = 6
TILE_PX = 192
CAPTION_PX = 18


class ContactSheet:
    """One line of `SHOWN` pictures a row, each kept as a strip of its own so that a later run can add rows."""

    def __init__(self, folder: Path, case: Case):
        self.folder, self.case = folder, case
        self.strips = folder / "strips" / case.name.replace(" ", "-").replace(":", "x")

    def add(self, row: str, pictures: torch.Tensor) -> None:
        """`pictures (count, 3, height, width)` in [0, 1]."""
        height, width = self.case.base_px
        tile = width * TILE_PX // height, TILE_PX
        strip = Image.new("RGB", (SHOWN * tile[0], TILE_PX + CAPTION_PX), "white")
        ImageDraw.Draw(strip).text((4, 3), row, fill="black")
        for i, picture in enumerate(pictures[:SHOWN]):
            strip.paste(to_image(picture[None]).resize(tile, Image.Resampling.LANCZOS), (i * tile[0], CAPTION_PX))
        self.strips.mkdir(parents=True, exist_ok=True)
        strip.save(self.strips / f"{[r.name for r in ROWS].index(row):02}.png")

    def save(self) -> None:
        strips = [Image.open(path) for path in sorted(self.strips.glob("*.png"))]
        if not strips:
            return
        sheet = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)), "white")
        top = 0
        for strip in strips:
            sheet.paste(strip, (0, top))
            top += strip.height
        sheet.save(self.folder / f"sheet-{self.strips.name}.jpg", quality=80)
