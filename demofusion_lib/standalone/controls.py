"""ControlNets beside the UNet: each is given its hint where the UNet is looking, in every phase."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import Looking, looking
from ..core.schedule import TRAINING_TIMESTEPS
from ..hints import HOW, SMOOTH, at_size, covering, middle
from ..targets import LATENT_PX
from .models import in_float32


@dataclass(frozen=True)
class Control:
    """A diffusers ControlNetModel and what it is shown.

    hint: `(1 or images, 3, height, width)` in [0, 1], of the base image or the given picture, at any size. kind: of `hints`. scale: how
    much its answers count. start, end: the part of the way from noise, 0, to the picture, 1, on which it is asked. squeezed: a
    hint of another shape is squeezed into the picture's, not cropped. where: the device that computes, None for the network's own.
    """

    net: Any
    hint: torch.Tensor
    kind: str = SMOOTH
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    name: str = ""
    squeezed: bool = False
    where: torch.device | None = None

    def asked(self, t: float) -> bool:
        done = 1 - t / (TRAINING_TIMESTEPS - 1)
        return self.scale != 0 and self.start <= done <= self.end

    @property
    def has_place(self) -> bool:
        """Whether it tells what belongs where, and not the style of the whole."""
        return not getattr(self.net.config, "global_pool_conditions", False)

    def plane(self, whole: tuple[int, int], part: tuple[int, int], size_lat: tuple[int, int]) -> torch.Tensor:
        """The hint `(1 or images, 3, 8 height, 8 width)` of a phase of `size_lat`, on the network's device and in its type.

        whole, part: `(height, width)` of what the hint shows and of its middle that the phase shows, both in cells or in
        pixels.
        """
        hint = self.hint if self.squeezed else middle(self.hint, self.hint_px, covering(self.hint_px, whole))
        sized = at_size(middle(hint, whole, part).float(), in_px(size_lat), self.kind)
        return sized.to(self.where or self.net.device, self.net.dtype)

    def plane_bytes(self, cells: int) -> int:
        """Of `plane`, for a phase of so many cells."""
        return len(self.hint) * 3 * cells * LATENT_PX**2 * int(self.net.dtype.itemsize)

    @property
    def hint_px(self) -> tuple[int, int]:
        return self.hint.shape[-2], self.hint.shape[-1]


def in_px(size_lat: tuple[int, int]) -> tuple[int, int]:
    return size_lat[0] * LATENT_PX, size_lat[1] * LATENT_PX


@dataclass(frozen=True)
class Shown:
    """A control in a phase, with the plane of it."""

    control: Control
    plane: torch.Tensor

    def cut(self, now: Looking | None, shape_lat: tuple[int, int], rows: int) -> torch.Tensor:
        """The hint for each of the patches of a call, which are of `shape_lat`; outside of phases of its `rows`, image by image
        as often as there are prompts."""
        if now is None or not self.control.has_place:
            return self.whole(now, shape_lat, rows)
        return now.cut(self.plane, self._images(now), HOW[self.control.kind])

    def whole(self, now: Looking | None, shape_lat: tuple[int, int], rows: int) -> torch.Tensor:
        """All of the hint for each patch."""
        sized, images = at_size(self.plane, in_px(shape_lat), self.control.kind), self._images(now)
        return sized.repeat(rows // len(sized), 1, 1, 1) if images is None else sized[list(images)]

    def _images(self, now: Looking | None) -> Sequence[int] | None:
        return None if now is None or len(self.plane) == 1 else now.images


Residuals = tuple[list[torch.Tensor], torch.Tensor]
"""What a ControlNet adds to the UNet's skips and to its middle."""


@dataclass(frozen=True)
class Steering:
    """The controls of one phase, asked before each call of the UNet."""

    shown: Sequence[Shown] = ()

    def __call__(
        self, x: torch.Tensor, t: float, times: torch.Tensor, context: torch.Tensor, readable: torch.Tensor | None,
        **told: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """What else the UNet is given with the patches `x`; the rest as it is given that itself."""
        now = looking()
        at = t if now is None else now.t  # a shrunk latent has less noise than the picture
        added: Residuals | None = None
        for one in self.shown:
            if one.control.asked(at):
                hint = one.cut(now, (x.shape[-2], x.shape[-1]), len(x))
                answer = ask(one.control, x, times, context, readable, hint, told)
                added = answer if added is None else summed(added, answer)
        if added is None:
            return {}
        down, mid = added
        return {
            "down_block_additional_residuals": tuple(tensor.to(x.dtype) for tensor in down),
            "mid_block_additional_residual": mid.to(x.dtype),
        }

    @contextlib.contextmanager
    def in_float32(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for net in {id(one.control.net): one.control.net for one in self.shown}.values():
                stack.enter_context(in_float32(net))
            yield


def summed(one: Residuals, other: Residuals) -> Residuals:
    return [a + b for a, b in zip(one[0], other[0])], one[1] + other[1]


def ask(
    control: Control, x: torch.Tensor, times: torch.Tensor, context: torch.Tensor, readable: torch.Tensor | None,
    hint: torch.Tensor, told: dict[str, Any],
) -> Residuals:  # fmt: skip
    """Its answer to all rows. It takes no mask for prompts of several lengths: each length is asked for by itself."""
    lengths = [context.shape[1]] * len(x) if readable is None else readable.sum(1).tolist()
    if len(set(lengths)) == 1:
        return _ask(control, x, times, context[:, : lengths[0]], hint, told)
    answers: Residuals | None = None
    for length in sorted(set(lengths)):
        rows = [row for row, own in enumerate(lengths) if own == length]
        down, mid = _ask(
            control, x[rows], times[rows], context[rows, :length], hint[rows], _rows_of(told, rows, len(x))
        )
        if answers is None:
            answers = (
                [tensor.new_empty(len(x), *tensor.shape[1:]) for tensor in down],
                mid.new_empty(len(x), *mid.shape[1:]),
            )
        for whole, part in zip((*answers[0], answers[1]), (*down, mid)):
            whole[rows] = part
    assert answers is not None
    return answers


def _rows_of(told: Any, rows: Sequence[int], count: int) -> Any:
    if isinstance(told, dict):
        return {name: _rows_of(value, rows, count) for name, value in told.items()}
    return told[list(rows)] if isinstance(told, torch.Tensor) and len(told) == count else told


def _ask(
    control: Control,
    x: torch.Tensor,
    times: torch.Tensor,
    context: torch.Tensor,
    hint: torch.Tensor,
    told: dict[str, Any],
) -> Residuals:
    net = control.net
    own: dict[str, Any] = {
        name: value.to(net.dtype) if isinstance(value, torch.Tensor) else value for name, value in told.items()
    }
    down, mid = net(
        x.to(net.dtype), times, encoder_hidden_states=context.to(net.dtype), controlnet_cond=hint.to(net.dtype),
        conditioning_scale=control.scale, return_dict=False, **own,
    )  # fmt: skip
    return list(down), mid
