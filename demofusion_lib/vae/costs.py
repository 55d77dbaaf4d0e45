"""How many bytes a run holds, reckoned from the program alone, in the order in which it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .estimated import Part, counted_steps, part_tiles, places, regions
from .exact import key_tiles, query_tiles, sweep_tiles
from .planes import itemsize
from .program import Attend, Conv, Shape, Step, Sweep, shape_after
from .statistics import BLOCK, GPU_BLOCKS


@dataclass(frozen=True)
class Machine:
    """What decides how much a tile holds beside its values. copies: a tile that is read is a copy, not a view."""

    device: torch.device
    dtype: torch.dtype
    copies: bool = False
    whole_rows: bool = False

    @property
    def itemsize(self) -> int:
        return itemsize(self.dtype)

    def viewing(self) -> Machine:
        """The same, where what is read lies on the device."""
        return replace(self, copies=False, whole_rows=False)

    def block(self, height: int, width: int, channels: int) -> int:
        """Bytes in float32 of what is normalised, or counted, at a time, and beside them of it in half precision."""
        block = BLOCK if self.device.type == "cpu" else BLOCK * GPU_BLOCKS
        rows = min(height, max(1, block // (width * channels)))
        return rows * width * channels * 4 * (1 if self.dtype == torch.float32 else 2)


def tile_bytes(step: Step, source: Shape, target: Shape, x: int, values: int, machine: Machine) -> int:
    """The most that a step's tile holds on the device, weights in their new order included. x: channels of what it adds."""
    if isinstance(step, Attend):
        return attention_bytes(step, source, values, machine)
    tile = max(sweep_tiles(step, source, target, values), key=lambda tile: tile.cells)
    return window_bytes(step, tile.height, tile.width, source, x, machine) + weight_bytes(step, machine)


def window_bytes(step: Sweep, height: int, width: int, source: Shape, x: int, machine: Machine) -> int:
    """Of an output tile of a sweep."""
    conv, size = step.conv, machine.itemsize
    rows, columns = (height - 1) * conv.stride + conv.kernel, (width - 1) * conv.stride + conv.kernel
    taken = rows * columns * source.channels * size
    read_rows, read_columns = min(-(-rows // step.up), source.height), min(-(-columns // step.up), source.width)
    if machine.whole_rows:
        read_columns = source.width
    read = read_rows * read_columns * source.channels * size if machine.copies else 0
    if conv.kernel == 1 and step.norm is None:
        taken, read = read, 0
    made = height * width * conv.outputs * size
    added = height * width * x * size if machine.copies and step.adds else 0
    through = made if step.shortcut is not None else 0
    normed = machine.block(rows, columns, source.channels) if step.norm is not None else 0
    counted = machine.block(height, width, conv.outputs)
    return max(taken + read + normed, taken + made, made + added + through, made + counted)


def weight_bytes(step: Sweep, machine: Machine) -> int:
    return sum(_made_anew(conv, machine) for conv in (step.conv, step.shortcut) if conv is not None)


def _made_anew(conv: Conv, machine: Machine) -> int:
    if conv.kernel == 1 and conv.weight.dtype == machine.dtype:
        return 0
    return conv.weight.numel() * machine.itemsize


def attention_bytes(step: Attend, shape: Shape, values: int, machine: Machine) -> int:
    size, channels = machine.itemsize, step.q.outputs
    queries = query_tiles(step, shape, values)[0].cells
    keys = key_tiles(step, shape, values)[0].cells
    pair = (step.k.outputs + step.v.outputs) * size
    weights = (step.k.weight.numel() + step.v.weight.numel()) * size
    held = queries * (step.q.outputs + step.v.outputs) * 4
    read = keys * pair if machine.copies else 0
    widened = 0 if size == 4 else keys * (step.k.outputs + step.v.outputs) * 4
    making = keys * (channels * size + pair)
    scoring = held + read + widened + queries * keys * step.heads * 4
    return weights + max(making, scoring, 2 * held)


class Walk:
    """The planes that steps hold: the greatest number of bytes so far, and those that stay."""

    def __init__(self, dtype: torch.dtype, shrinks: bool):
        self.size, self.shrinks = itemsize(dtype), shrinks
        self.planes: dict[str, int] = {}
        self.peak = 0

    def new(self, name: str, shape: Shape, beside: bool = True) -> None:
        """beside: what had the name is there until the new one is written."""
        made = shape.values * self.size
        held = sum(self.planes.values())
        self.peak = max(self.peak, held + made)
        self.planes[name] = made

    def step(self, step: Step, source: Shape, target: Shape, x: int, values: int) -> None:
        """x: channels of the plane that the step adds."""
        if isinstance(step, Attend):
            self.new("pairs", Shape(source.height, source.width, step.k.outputs + step.v.outputs))
            del self.planes["pairs"]
            return
        bands = all(tile.width == target.width for tile in sweep_tiles(step, source, target, values))
        stays = step.adds and (target.channels == x or (bands and target.channels < x))
        if not stays:
            self.new(step.target, target)
        elif self.shrinks:
            self.planes["x"] = target.values * self.size
        if step.target == "x":
            self.planes.pop("h", None)


def plane_channels(steps: Sequence[Step], shapes: Sequence[Shape]) -> list[int]:
    """For each step, the channels of `x` when it begins."""
    found, x = [], shapes[0].channels
    for step, shape in zip(steps, shapes[1:]):
        found.append(x)
        if isinstance(step, Attend) or step.target == "x":
            x = shape.channels
    return found


def exact_bytes(
    steps: Sequence[Step],
    shapes: Sequence[Shape],
    values: int,
    machine: Machine,
    shrinks: bool,
    ends: bool,
    begins: bool = True,
) -> tuple[int, int]:
    """Device and store bytes of steps run one after the other. ends: the last one writes the answer, which is nobody's
    plane. begins: the first one reads what was given, which is likewise."""
    walk = Walk(machine.dtype, shrinks)
    if not begins:
        walk.new("x", shapes[0])
    device = 0
    for number, (step, x) in enumerate(zip(steps, plane_channels(steps, shapes))):
        source, target = shapes[number], shapes[number + 1]
        device = max(device, tile_bytes(step, source, target, x, values, machine))
        if not (ends and number == len(steps) - 1):
            walk.step(step, source, target, x, values)
    return device, walk.peak


def part_bytes(part: Part, values: int, machine: Machine) -> int:
    """Device bytes of an estimated part: all patches and one of them in work, or one tile run through the whole."""
    weights = sum(weight_bytes(step, machine) for step in part.steps)
    return weights + max(_sample_bytes(part, machine), _run_bytes(part, values, machine))


def _sample_bytes(part: Part, machine: Machine) -> int:
    steps = part.steps[: counted_steps(part)]
    walks = []
    for patch, _ in places(part):
        shapes = [part.shapes[0]._replace(height=patch.height, width=patch.width)]
        for step in steps:
            shapes.append(shape_after(step, shapes[-1]))
        walks.append(shapes)
    needs = [
        _held(steps, number, walks, machine) + _work(steps, number, walks[0], machine) for number in range(len(steps))
    ]
    return max(needs, default=0)


def _held(steps: Sequence[Sweep], number: int, walks: list[list[Shape]], machine: Machine) -> int:
    """Patches' planes while a step is run: `x`, and `h` where the step reads or writes it."""
    step, total = steps[number], 0
    for shapes in walks:
        total += shapes[number].values
        if step.source == "h":
            total += shapes[number - 1].values
        elif step.target == "h":
            total += shapes[number + 1].values
    return total * machine.itemsize


def _work(steps: Sequence[Sweep], number: int, shapes: list[Shape], machine: Machine) -> int:
    source, target = shapes[number], shapes[number + 1]
    return window_bytes(steps[number], target.height, target.width, source, 0, machine.viewing())


def _run_bytes(part: Part, values: int, machine: Machine) -> int:
    tile = max(part_tiles(part, values), key=lambda tile: tile.cells)
    found = regions(part, tile)
    shapes = [shape._replace(height=at.height, width=at.width) for shape, at in zip(part.shapes, found)]
    peak = 0
    for number, step in enumerate(part.steps):
        held = shapes[number].values + (shapes[number - 1].values if step.source == "h" else 0)
        peak = max(peak, held * machine.itemsize + _work(part.steps, number, shapes, machine))
    return peak
