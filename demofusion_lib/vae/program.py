"""A VAE as a list of layers, each of which is one sweep over the picture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

Pads = tuple[int, int]
"""Cells before and after, along either axis."""


@dataclass(frozen=True)
class Norm:
    """A group norm, with the SiLU behind it or without."""

    groups: int
    eps: float
    weight: torch.Tensor
    bias: torch.Tensor
    silu: bool


@dataclass(frozen=True)
class Conv:
    """weight: `(out, in, k, k)`. wraps: the picture's edges meet, instead of the zeros beyond them."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    pads: Pads = (0, 0)
    stride: int = 1
    wraps: bool = False

    @property
    def outputs(self) -> int:
        return self.weight.shape[0]

    @property
    def inputs(self) -> int:
        return self.weight.shape[1]

    @property
    def kernel(self) -> int:
        return self.weight.shape[-1]

    def to(self, dtype: torch.dtype | None) -> Conv:
        if dtype is None:
            return self
        return replace(self, weight=self.weight.to(dtype), bias=None if self.bias is None else self.bias.to(dtype))


@dataclass(frozen=True)
class Sweep:
    """`[norm, SiLU] -> [twice the size] -> convolution [+ shortcut(x)] [/ divide]`.

    source, target: the planes `x` and `h`. A target that is not there yet is made; `x` from `x` is made anew.
    adds: `x` is added to the output, through `shortcut` if there is one.
    """

    name: str
    conv: Conv
    norm: Norm | None = None
    up: int = 1
    source: str = "x"
    target: str = "x"
    adds: bool = False
    shortcut: Conv | None = None
    divide: float = 1.0
    tanh: bool = False


@dataclass(frozen=True)
class Attend:
    """`out(softmax(q k / sqrt(d)) v) [+ x] [/ divide]` over all cells, from `x` into `x`."""

    name: str
    norm: Norm | None
    q: Conv
    k: Conv
    v: Conv
    out: Conv
    heads: int = 1
    scale: float = 1.0
    adds: bool = True
    divide: float = 1.0


Step = Sweep | Attend


class Shape(NamedTuple):
    height: int
    width: int
    channels: int

    @property
    def cells(self) -> int:
        return self.height * self.width

    @property
    def values(self) -> int:
        return self.height * self.width * self.channels


def shape_after(step: Step, shape: Shape) -> Shape:
    """Of the plane that a step writes, from that of the plane it reads."""
    if isinstance(step, Attend):
        return Shape(shape.height, shape.width, step.out.outputs)
    conv = step.conv

    def side(cells: int) -> int:
        return (cells * step.up + sum(conv.pads) - conv.kernel) // conv.stride + 1

    return Shape(side(shape.height), side(shape.width), conv.outputs)


@dataclass(frozen=True)
class Program:
    """steps: the whole way. inputs: channels. device: where the weights are."""

    steps: tuple[Step, ...]
    inputs: int
    device: torch.device

    def shapes(self, height: int, width: int) -> list[Shape]:
        """What each step reads, and last the answer: `len(steps) + 1`. A block's second step reads its `h`."""
        shapes = [Shape(height, width, self.inputs)]
        for step in self.steps:
            shapes.append(shape_after(step, shapes[-1]))
        return shapes

    @property
    def is_decoder(self) -> bool:
        return not any(isinstance(step, Sweep) and step.conv.stride > 1 for step in self.steps)

    def dtype(self, wanted: torch.dtype | None = None) -> torch.dtype:
        """Of the answer."""
        return wanted or _conv(self.steps[-1]).weight.dtype

    def tile_values(self, tile_lat: int) -> int:
        """As many as the layer at the picture's edge has on `tile_lat` latent cells squared."""
        convs = [step.conv for step in self.steps if isinstance(step, Sweep)]
        factor = 1
        for step in self.steps:
            if isinstance(step, Sweep):
                factor *= step.up * step.conv.stride
        channels = convs[-1].inputs if self.is_decoder else convs[0].outputs
        return (tile_lat * factor) ** 2 * channels


def _conv(step: Step) -> Conv:
    return step.out if isinstance(step, Attend) else step.conv
