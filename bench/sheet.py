"""Pictures to files: one at a time, and side by side with captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw  # type: ignore[import-untyped]

TILE_PX = 512
GAP_PX = 12
CAPTION_PX = 30
PAPER, INK = "#16181d", "#e8e6e1"

Tile = tuple[str, torch.Tensor]
"""A caption and its picture `(1, 3, height, width)`, values 0 to 1."""


def to_image(rgb: torch.Tensor) -> Image.Image:
    return Image.fromarray(rgb[0].permute(1, 2, 0).mul(255).round().byte().numpy())


def _caption(text: str) -> Image.Image:
    image = Image.new("RGB", (TILE_PX // 2, CAPTION_PX // 2), PAPER)
    ImageDraw.Draw(image).text((1, 1), text, fill=INK)
    return image.resize((TILE_PX, CAPTION_PX), Image.Resampling.NEAREST)


def save_sheet(rows: Sequence[Sequence[Tile]], path: Path) -> None:
    """Rows of tiles of equal size, pixels enlarged without smoothing."""
    columns = max(len(row) for row in rows)
    step_x, step_y = TILE_PX + GAP_PX, TILE_PX + CAPTION_PX + GAP_PX
    sheet = Image.new("RGB", (columns * step_x + GAP_PX, len(rows) * step_y + GAP_PX), PAPER)
    for i, row in enumerate(rows):
        for j, (text, rgb) in enumerate(row):
            left, top = GAP_PX + j * step_x, GAP_PX + i * step_y
            sheet.paste(_caption(text), (left, top))
            picture = to_image(rgb).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
            sheet.paste(picture, (left, top + CAPTION_PX))
    sheet.save(path)
