"""Control maps at another size, each by what suits its kind: lines stay lines, labels labels, and what is smooth smooth."""

from __future__ import annotations

import torch
import torch.nn.functional as F

LINES, LABELS, SMOOTH = "lines", "labels", "smooth"
HOW = {SMOOTH: "mean", LINES: "max", LABELS: "nearest"}
"""Of `core.Looking.cut`: what a small picture of the map is made of."""
FEW = 200
"""A map of fewer colours is one of labels."""
GREY, GREYS = (0.2, 0.8), 0.005
"""What is neither black nor white, and how much of that a map of two shades may have: JPEG makes some."""
COLOURED = 0.2
"""Difference of a pixel's strongest and weakest channel, for the same reason."""
SAMPLED = 1 << 18
"""So many pixels at most are looked at to tell the kind."""


def kind_of(hint: torch.Tensor) -> str:
    """`hint (n, channels, height, width)` in [0, 1], at the size that it was found at.

    Lines are white on black, of two shades; labels are few colours; everything else is smooth, greys among it.
    """
    pixels = hint[:, :3].movedim(1, -1).reshape(-1, min(hint.shape[1], 3))
    pixels = pixels[:: max(1, -(-len(pixels) // SAMPLED))].float()
    if float((pixels.amax(1) - pixels.amin(1)).gt(COLOURED).float().mean()) > GREYS:
        return LABELS if len(pixels.mul(255).round().unique(dim=0)) < FEW else SMOOTH
    if (
        float(((pixels > GREY[0]) & (pixels < GREY[1])).float().mean()) > GREYS
        or pixels.amax() - pixels.amin() < GREY[1]
    ):
        return SMOOTH
    return LINES if float(pixels.mean()) < 0.5 else SMOOTH


def at_size(hint: torch.Tensor, size_px: tuple[int, int], kind: str) -> torch.Tensor:
    """The map, `(n, channels, *size_px)`.

    Lines get no greys: enlarged they are as wide as they look, shrunk none is lost. Labels are copied, the smooth is
    enlarged bicubic and shrunk by means.
    """
    own = hint.shape[-2], hint.shape[-1]
    if own == size_px:
        return hint
    if kind == LABELS:
        return F.interpolate(hint, size=size_px, mode="nearest-exact")
    less = min(own[0], size_px[0]), min(own[1], size_px[1])
    if less != own:
        hint = F.adaptive_max_pool2d(hint, less) if kind == LINES else F.interpolate(hint, size=less, mode="area")
    larger = hint if less == size_px else F.interpolate(hint, size=size_px, mode="bicubic").clamp_(0, 1)
    return larger.gt(0.5).to(hint.dtype) if kind == LINES else larger


def part_of(hint: torch.Tensor, corner_px: tuple[int, int], size_px: tuple[int, int]) -> torch.Tensor:
    """corner_px: `(top, left)`."""
    (top, left), (height, width) = corner_px, size_px
    return hint[..., top : top + height, left : left + width]


def middle(hint: torch.Tensor, whole: tuple[int, int], part: tuple[int, int]) -> torch.Tensor:
    """What `core.centre_crop` takes of a latent: the middle `part` of a `whole` that the map shows, both `(height, width)` in
    cells or pixels. To a pixel of the map where its size is no multiple of theirs."""
    size = hint.shape[-2], hint.shape[-1]
    corner = [round((w - p) // 2 * own / w) for own, w, p in zip(size, whole, part)]
    length = [max(1, min(round(p * own / w), own - start)) for own, w, p, start in zip(size, whole, part, corner)]
    return part_of(hint, (corner[0], corner[1]), (length[0], length[1]))


def covering(size_px: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """The largest part of a map of `size_px` that has the given shape, all `(height, width)`; all of it where it has it to a
    pixel."""
    height, width = size_px
    tall, wide = round(width * shape[0] / shape[1]), round(height * shape[1] / shape[0])
    if abs(tall - height) <= 1 or abs(wide - width) <= 1:
        return size_px
    return (max(1, tall), width) if tall < height else (height, max(1, wide))
