"""The part of a program whose layers would fit nowhere: group norms' statistics from a sample, then tile by tile.

A tile is run through all layers of the part at once, with as much around it as they reach. What it gives depends on the
statistics alone, not on where the tiles' borders are, so that no border leaves a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from .errors import Unreadable
from .layers import input_range, readied_step, swept, tile_input
from .planes import DevicePlane, Readable
from .program import Conv, Shape, Sweep, shape_after
from .progress import Progress
from .statistics import Affine, Gathered, Moments
from .tiles import Tile, cut_evenly

CORE = 4
"""Cells along a side of a patch that are counted. Many small patches tell more than a few large ones (docs/vae.md)."""
MARGIN = 2
"""Cells around them that are not: their own surroundings are missing. More of them changed nothing that was measured."""
PATCHES = 128
"""Of SD's decoder in float32 they take 1 GB on the device, whatever the picture's size."""

Target = Callable[[Tile, torch.Tensor], None]


@dataclass(frozen=True)
class Part:
    """Steps that are all sweeps, ready to run, with what each reads and writes.

    shapes: one more than steps. unit: how many cells of the first plane become whole cells of every plane.
    """

    steps: tuple[Sweep, ...]
    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, steps: Sequence[Sweep], shape: Shape, dtype: torch.dtype | None, readied: bool = True) -> Part:
        """readied: with their weights in the order and precision that they are run in."""
        shapes = [shape]
        made = []
        for step in steps:
            shapes.append(shape_after(step, shapes[-1]))
            made.append(readied_step(step, dtype) if readied else step)
        padded = {step.conv.wraps for step in made if sum(step.conv.pads)}
        if len(padded) > 1:
            raise Unreadable("the VAE's convolutions are padded in two ways, readable when estimated: one")
        return cls(tuple(made), tuple(shapes))

    @property
    def unit(self) -> int:
        return math.prod(step.conv.stride for step in self.steps)

    @property
    def wraps(self) -> bool:
        return any(step.conv.wraps for step in self.steps)


class Region:
    """Part of a plane of `shape`, from the cell `(top, left)` on. endless: of a plane whose edges meet; cells count on."""

    def __init__(self, values: torch.Tensor, top: int, left: int, shape: Shape, endless: bool):
        self.values, self.top, self.left, self.endless = values, top, left, endless
        self.shape, self.dtype = shape, values.dtype

    def read(self, tile: Tile) -> torch.Tensor:
        return self.values[tile.top - self.top : tile.bottom - self.top, tile.left - self.left : tile.right - self.left]


def needed(step: Sweep, source: Shape, tile: Tile, endless: bool) -> Tile:
    """The cells that a step makes an output tile of."""

    def side(low: int, high: int, size: int) -> tuple[int, int]:
        first, last = input_range(step.conv, low, high)
        first, last = first // step.up, -(-last // step.up)
        return (first, last) if endless else (max(0, first), min(size, last))

    rows = side(tile.top, tile.bottom, source.height)
    return Tile(*rows, *side(tile.left, tile.right, source.width))


def regions(part: Part, tile: Tile) -> list[Tile]:
    """What a tile needs of each plane, from the first one to itself."""
    found = [tile]
    for step, shape in zip(reversed(part.steps), reversed(part.shapes[:-1])):
        found.insert(0, needed(step, shape, found[0], part.wraps))
    return found


def cells(part: Part, source: Readable, tile: Tile) -> torch.Tensor:
    """Of the plane that a part begins with, beyond its edges too where they meet."""
    weight = part.steps[0].conv.weight.new_empty((0, 0, 1, 1), dtype=source.dtype)
    return tile_input(source, tile, Conv(weight, None, wraps=part.wraps), 1, None)


def run_tile(part: Part, source: Readable, tile: Tile, affines: Sequence[Affine | None]) -> torch.Tensor:
    """A tile of what the part writes, all statistics given."""
    first, *rest = regions(part, tile)
    values = cells(part, source, first)
    planes = {"x": Region(values, first.top, first.left, part.shapes[0], part.wraps)}
    for step, shape, region, affine in zip(part.steps, part.shapes[1:], rest, affines):
        made = swept(step, planes[step.source], planes["x"], region, affine)
        planes[step.target] = Region(made, region.top, region.left, shape, part.wraps)
        if step.target == "x":
            planes.pop("h", None)
    return made


def patches(shape: Shape, count: int, unit: int, endless: bool) -> list[tuple[Tile, Tile]]:
    """A patch and its core, each in its own share of the picture, at places that are drawn once and for all.

    endless: beyond the picture's edges is its other end.
    """
    height, width = shape.height // unit, shape.width // unit
    rows = min(max(1, round(math.sqrt(count * height / width))), -(-height // CORE))
    columns = min(max(1, count // rows), -(-width // CORE))
    generator = torch.Generator().manual_seed(0)
    found = []
    for share in cut_evenly(height, width, rows, columns):
        top, bottom = _place(share.top, share.bottom, generator)
        left, right = _place(share.left, share.right, generator)
        patch = Tile(
            (top - MARGIN) * unit, (bottom + MARGIN) * unit, (left - MARGIN) * unit, (right + MARGIN) * unit
        )  # fmt: skip
        if not endless:
            patch = patch.within(shape.height, shape.width)
        found.append((patch, Tile(top * unit, bottom * unit, left * unit, right * unit)))
    return found


def _place(low: int, high: int, generator: torch.Generator) -> tuple[int, int]:
    spare = max(0, high - low - CORE)
    start = low + int(torch.randint(spare + 1, (), generator=generator))
    return start, start + min(CORE, high - low)


def places(part: Part) -> list[tuple[Tile, Tile]]:
    """The patches that a part's statistics are taken from."""
    return patches(part.shapes[0], PATCHES, part.unit, part.wraps)


def counted_steps(part: Part) -> int:
    """The steps that a sample is run through: those before the last norm."""
    return max((number for number, step in enumerate(part.steps) if step.norm is not None), default=0)


def tiles_of(part: Part, values: int) -> int:
    """How many tiles of work a part is, the sample included."""
    return len(part_tiles(part, values)) + counted_steps(part) * len(places(part))


def run_part(
    part: Part, source: Readable, moments: Moments | None, values: int, progress: Progress, target: Target
) -> None:
    """moments: of the source, where they are known and the first step has a norm. Raises NotFinite."""
    affines = sampled(part, source, moments, places(part), progress)
    for tile in part_tiles(part, values):
        target(tile, run_tile(part, source, tile, affines))
        progress.tile()


def sampled(
    part: Part, source: Readable, moments: Moments | None, among: list[tuple[Tile, Tile]], progress: Progress
) -> list[Affine | None]:
    """Each step's norm, its statistics those of the patches' cores together. moments: of the source, which are known."""
    held = [{"x": DevicePlane.holding(cells(part, source, patch))} for patch, _ in among]
    affines: list[Affine | None] = []
    for number, step in enumerate(part.steps):
        affine = None
        if step.norm is not None:
            assert moments is not None
            affine = Affine.of(step.norm, moments)
        affines.append(affine)
        if number >= counted_steps(part):
            continue
        gathered = Gathered()
        for planes, (patch, core) in zip(held, among):
            planes[step.target] = _patch_after(part, number, planes, patch, core, affine, gathered)
            if step.target == "x":
                planes.pop("h", None)
            progress.tile()
        moments = gathered.merged(step.name)
    return affines


def _patch_after(
    part: Part,
    number: int,
    planes: dict[str, DevicePlane],
    patch: Tile,
    core: Tile,
    affine: Affine | None,
    gathered: Gathered,
) -> DevicePlane:
    """A patch's next plane, as if the patch were a picture of its own. Its core alone is counted."""
    step = part.steps[number]
    step = replace(step, conv=replace(step.conv, wraps=False))
    source = planes[step.source]
    shape = shape_after(step, source.shape)
    made = swept(step, source, planes["x"], Tile(0, shape.height, 0, shape.width), affine)
    scale = math.prod(Fraction(step.up, step.conv.stride) for step in part.steps[: number + 1])
    top, left = int((core.top - patch.top) * scale), int((core.left - patch.left) * scale)
    gathered.add(made[top : top + int(core.height * scale), left : left + int(core.width * scale)])
    return DevicePlane.holding(made)


def part_tiles(part: Part, values: int) -> list[Tile]:
    """Of the part's answer; near to square, for what is around them is reckoned once more."""
    last = part.shapes[-1]
    per_cell = max(shape.values for shape in part.shapes) / last.cells
    side = max(1, math.isqrt(int(values / per_cell)))
    return cut_evenly(last.height, last.width, -(-last.height // side), -(-last.width // side))
