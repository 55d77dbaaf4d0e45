"""The README's picture: the toy's base image, its enlargement, and what the model draws at the large size directly.

python -m bench.gallery out/demo out/direct docs/toy.png     # two folders that `demofusion` wrote
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from bench.sheet import GAP_PX, PAPER

SIDE_PX = 512


def gallery(paths: list[Path]) -> Image.Image:
    """The pictures side by side at one height; the small one keeps its size in proportion to the last."""
    pictures = [Image.open(path).convert("RGB") for path in paths]
    largest = max(picture.height for picture in pictures)
    shown = [
        picture.resize([side * SIDE_PX // largest for side in picture.size], Image.Resampling.LANCZOS)
        for picture in pictures
    ]
    sheet = Image.new("RGB", (sum(p.width + GAP_PX for p in shown) + GAP_PX, SIDE_PX + 2 * GAP_PX), PAPER)
    left = GAP_PX
    for picture in shown:
        sheet.paste(picture, (left, GAP_PX + SIDE_PX - picture.height))
        left += picture.width + GAP_PX
    return sheet


if __name__ == "__main__":
    demo, direct, out = (Path(argument) for argument in sys.argv[1:4])
    gallery([demo / "phase1.png", demo / "final.png", direct / "final.png"]).save(out, optimize=True)
