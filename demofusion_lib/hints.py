"""Control maps at another size, each by what suits its kind: lines stay lines, labels labels, and what is smooth smooth."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LINES, LABELS, SMOOTH = "lines", "labels", "smooth"
HOW = {LINES: "max", LABELS: "nearest", SMOOTH: "mean"}
"""Of `core.Looking.cut`: what a small picture of the map is made of."""
FEW = 200
"""A map of fewer colours is one of labels."""
SAMPLED = 1 << 18
"""So many pixels at most are looked at to tell the kind."""


def kind_of(hint: torch.Tensor) -> str:
    """`hint (n, channels, height, width)` in [0, 1], at the size that it was found at.

    Lines are white on black, of two shades; labels are few colours, not all of them grey; everything else is smooth.
    """
    pixels = hint[:, :3].movedim(1, -1).reshape(-1, min(hint.shape[1], 3))
    pixels = pixels[:: max(1, -(-len(pixels) // SAMPLED))]
    colours = len(pixels.mul(255).round().unique(dim=0))
    if colours == 2 and float(pixels.min()) < 16 / 255 and float(pixels.max()) > 240 / 255:
        return LINES if float(pixels.mean()) < 0.5 else SMOOTH
    grey = pixels.shape[1] == 1 or bool(pixels.amax(1).sub(pixels.amin(1)).max() < 1 / 255)
    return LABELS if colours < FEW and not grey else SMOOTH


def at_size(hint: torch.Tensor, size_px: tuple[int, int], kind: str) -> torch.Tensor:
    """The map, `(n, channels, *size_px)`.

    Lines get no greys: enlarged they are as wide as they look, shrunk none is lost. Labels are copied, the smooth is
    enlarged bicubic and shrunk by means.
    """
    height, width = hint.shape[-2:]
    if (height, width) == size_px:
        return hint
    if kind == LABELS:
        return F.interpolate(hint, size=size_px, mode="nearest-exact")
    smaller = size_px[0] * size_px[1] < height * width
    if kind == LINES and smaller:
        return F.adaptive_max_pool2d(hint, size_px)
    if smaller:
        return F.interpolate(hint, size=size_px, mode="area")
    larger = F.interpolate(hint, size=size_px, mode="bicubic").clamp_(0, 1)
    return larger.gt(0.5).to(hint.dtype) if kind == LINES else larger


def part_of(hint: torch.Tensor, corner_px: tuple[int, int], size_px: tuple[int, int]) -> torch.Tensor:
    """corner_px: `(top, left)`."""
    (top, left), (height, width) = corner_px, size_px
    return hint[..., top : top + height, left : left + width]
