"""What a layer reckons for one tile."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from .planes import Readable
from .program import Conv, Sweep
from .statistics import Affine
from .tiles import Tile

CHANNELS_LAST = torch.channels_last


class Piece(NamedTuple):
    """Cells `low` to `high` of an axis, which go to `at` in the tile's input."""

    at: int
    low: int
    high: int


def pieces(low: int, high: int, size: int, wraps: bool, endless: bool = False) -> list[Piece]:
    """Where the cells `low` to `high` of an axis of `size` come from. Beyond its ends is nothing, or the other end.

    endless: the source has them there already.
    """
    if wraps and endless:
        return [Piece(0, low, high)]
    if not wraps:
        inside = Piece(max(0, -low), max(0, low), min(high, size))
        return [inside] if inside.high > inside.low else []
    found = []
    cell = low
    while cell < high:
        start = cell % size
        stop = min(size, start + high - cell)
        found.append(Piece(cell - low, start, stop))
        cell += stop - start
    return found


def ready(conv: Conv, dtype: torch.dtype | None) -> Conv:
    """Its weights in the precision asked for, and in the order that the tiles are in."""
    conv = conv.to(dtype)
    order = torch.contiguous_format if conv.kernel == 1 or conv.weight.device.type == "mps" else CHANNELS_LAST
    return replace(conv, weight=conv.weight.detach().contiguous(memory_format=order))


def readied_step(step: Sweep, dtype: torch.dtype | None) -> Sweep:
    shortcut = None if step.shortcut is None else ready(step.shortcut, dtype)
    return replace(step, conv=ready(step.conv, dtype), shortcut=shortcut)


def input_range(conv: Conv, low: int, high: int) -> tuple[int, int]:
    """The cells (of the doubled picture, where the layer doubles it) that output cells `low` to `high` are made of."""
    first = low * conv.stride - conv.pads[0]
    return first, (high - 1) * conv.stride - conv.pads[0] + conv.kernel


def tile_input(source: Readable, tile: Tile, conv: Conv, up: int, affine: Affine | None) -> torch.Tensor:
    """What the convolution of an output tile takes `(height, width, channels)`: normalised, doubled, padded, in this order."""
    dtype = conv.weight.dtype
    top, bottom = input_range(conv, tile.top, tile.bottom)
    left, right = input_range(conv, tile.left, tile.right)
    height, width, channels = source.shape
    rows = pieces(top, bottom, height * up, conv.wraps, source.endless)
    columns = pieces(left, right, width * up, conv.wraps, source.endless)
    whole = len(rows) == len(columns) == 1 and (rows[0].high - rows[0].low, columns[0].high - columns[0].low) == (
        bottom - top,
        right - left,
    )
    if whole and up == 1 and affine is None:
        return source.read(Tile(top, bottom, left, right)).to(dtype)
    made = torch.empty(bottom - top, right - left, channels, dtype=dtype, device=conv.weight.device)
    if not whole:
        _clear_edges(made, rows, columns)
    for row in rows:
        for column in columns:
            part = source.read(Tile(row.low // up, -(-row.high // up), column.low // up, -(-column.high // up)))
            target = made[row.at : row.at + row.high - row.low, column.at : column.at + column.high - column.low]
            if up == 1 and affine is not None:
                affine.write(part, target)
            else:
                _double(part, target, up, row.low % up, column.low % up)
    return made


def _clear_edges(made: torch.Tensor, rows: list[Piece], columns: list[Piece]) -> None:
    """Zeros where no piece goes: beyond the picture, after norm and SiLU, as an undivided convolution pads."""
    made[: rows[0].at].zero_()
    made[rows[-1].at + rows[-1].high - rows[-1].low :].zero_()
    made[:, : columns[0].at].zero_()
    made[:, columns[-1].at + columns[-1].high - columns[-1].low :].zero_()


def _double(part: torch.Tensor, target: torch.Tensor, up: int, row: int, column: int) -> None:
    """Each cell `up * up` times, from the `row`-th and `column`-th of the first one's copies on."""
    for down in range(up):
        for across in range(up):
            copies = target[(down - row) % up :: up, (across - column) % up :: up]
            top, left = int(down < row), int(across < column)
            copies.copy_(part[top : top + copies.shape[0], left : left + copies.shape[1]])


def convolved(values: torch.Tensor, conv: Conv) -> torch.Tensor:
    """`(height, width, channels)`, without padding."""
    if conv.kernel == 1 and conv.stride == 1:
        return F.linear(values, conv.weight[:, :, 0, 0], conv.bias)
    batch = values.permute(2, 0, 1)[None]
    if values.device.type == "mps":  # its kernels are made for the other order
        batch = batch.contiguous()
    return F.conv2d(batch, conv.weight, conv.bias, conv.stride)[0].permute(1, 2, 0)


def swept(step: Sweep, source: Readable, before: Readable, tile: Tile, affine: Affine | None) -> torch.Tensor:
    """A tile of what a sweep writes. before: the plane that is added, where the step adds one."""
    made = convolved(tile_input(source, tile, step.conv, step.up, affine), step.conv)
    if step.adds:
        x = before.read(tile).to(made.dtype)
        made.add_(x if step.shortcut is None else convolved(x, step.shortcut))
        if step.divide != 1:
            made.div_(step.divide)
    return made.tanh_() if step.tanh else made
