"""ControlNets linked to a UNet patcher of Forge's family: asked for what the UNet is given, each part with its part of the hint.

The family's samplers ask them for the whole latent before they call the patcher's wrapper. In a phase a stand-in in their list
answers nothing there, and `Linked` asks them themselves, patch by patch, with the hint cut as the patch is. They are copies
that the host makes for each sampling; what is lent to them is put back after each call.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..core import Looking
from ..hints import HOW, LABELS, SMOOTH, at_size, kind_of, middle, part_of
from .maps import Lent, Plane, lending, share_at, whole_steps

CONTROL, ASKED = "control", "control_model"
"""What the UNet is told: what they answer, and in Forge the first of them."""
OUT = (-1.0, float("inf"))
"""A range of noise levels, `(highest, lowest)`, that nothing lies in."""
Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""Of a phase: see `maps.sizes_px`."""


class StandIn:
    """First in a patcher's list: what is asked of it for the whole latent it doesn't ask the others."""

    def __init__(self, first: Any):
        self.previous_controlnet = first

    def get_control(self, *_: Any) -> None:
        return None

    def pre_run(self, *_: Any) -> None:
        """The host goes through the list by itself."""

    def cleanup(self) -> None:
        """The same."""

    def get_models(self) -> Any:
        return self.previous_controlnet.get_models()

    def inference_memory_requirements(self, dtype: Any) -> Any:
        return self.previous_controlnet.inference_memory_requirements(dtype)


def chain(first: Any) -> Iterator[Any]:
    while first is not None:
        yield first
        first = getattr(first, "previous_controlnet", None)


def whole_in(hint: torch.Tensor, sizes: Sizes, kind: str) -> torch.Tensor:
    """A hint of any size as the host shows it (its middle, in the picture's shape) at the phase's."""
    whole_px, corner_px, size_px = sizes
    if hint.shape[-2:] == size_px:
        return hint
    own = hint.shape[-2], hint.shape[-1]
    gain = min(have / want for have, want in zip(own, whole_px))
    shown = middle(hint, own, (round(whole_px[0] * gain), round(whole_px[1] * gain)))
    return part_of(at_size(shown, whole_px, kind), corner_px, size_px)


def plane_of(hint: torch.Tensor, sizes: Sizes, images: int) -> Plane:
    """Of what lies behind an inpaint unit's mask, which is told by -1, no means are made."""
    hidden = bool(hint.amin() < 0)
    kind = LABELS if hidden else kind_of(hint) if hint.shape[1] <= 3 else SMOOTH
    whole = whole_in(hint, sizes, kind)
    if len(whole) not in (1, images):
        whole = whole[[image % len(whole) for image in range(images)]]
    return Plane(whole, HOW[kind])


@dataclass
class Net:
    """One of them. mask: how much it has to say where, `(1 or images, 1, height, width)`; frames: of each picture."""

    net: Any
    hint: Plane | None
    mask: Plane | None
    frames: list[float] | None

    @classmethod
    def of(cls, net: Any, sizes: Sizes, images: int) -> Net:
        hint, mask = getattr(net, "cond_hint_original", None), getattr(net, "advanced_mask_weighting", None)
        plane = plane_of(hint, sizes, images) if isinstance(hint, torch.Tensor) and hint.ndim == 4 else None
        region = None
        if mask is not None:
            whole_px, corner_px, size_px = sizes
            if mask.shape[-2:] != size_px:
                mask = part_of(F.interpolate(mask.float(), size=whole_px, mode="bilinear"), corner_px, size_px)
            region = Plane(mask)
        return cls(net, plane, region, getattr(net, "advanced_frame_weighting", None))

    def lent(self, now: Looking) -> Lent:
        if self.hint is None:
            return [(self.net, "timestep_range", OUT)]
        lent: Lent = [(self.net, "cond_hint_original", self.hint.part(now)), (self.net, "cond_hint", None)]
        if now.kind == "shrunk" and getattr(self.net, "timestep_range", None) is not None:
            first, last = self.net.timestep_percent_range
            lent.append((self.net, "timestep_range", None if first <= share_at(now.t) <= last else OUT))
        if self.mask is not None or self.frames is not None:
            lent += self._weights(now)
        return lent

    def _weights(self, now: Looking) -> Lent:
        """The host would repeat both for the chunks of a call, where each patch has its own."""
        weights = torch.ones(len(now.rows), 1, 1, 1) if self.mask is None else self.mask.part(now)
        if self.frames is not None:
            own = [self.frames[image % len(self.frames)] for image in now.images]
            weights = weights * torch.tensor(own, dtype=weights.dtype, device=weights.device)[:, None, None, None]
        return [(self.net, "advanced_mask_weighting", weights), (self.net, "advanced_frame_weighting", None)]


class Linked:
    """Those of one phase.

    first: of a patcher's list, None where there are none. sizes: the phase's. images: of the batch.
    """

    def __init__(self, first: Any, sizes: Sizes, images: int):
        self.first, self.sizes, self.images = first, sizes, images
        self.nets = [Net.of(net, sizes, images) for net in chain(first)]
        self.takes_options = first is not None and len(inspect.signature(first.get_control).parameters) > 4
        self.lites: list[tuple[Any, Plane]] = []

    @property
    def unfollowed(self) -> list[str]:
        """The kinds of those whose hint is no plane: they are not asked."""
        return [type(each.net).__name__ for each in self.nets if each.hint is None]

    def told(self, patches: torch.Tensor, sigma: torch.Tensor, part: dict[str, Any], now: Looking) -> dict[str, Any]:
        """What the UNet is to be told of them beside `part`, which it is told else."""
        if self.first is None:
            return {}
        options = part["transformer_options"]
        more = (options,) if self.takes_options else ()
        for each in self.nets if not more else ():
            each.net.transformer_options = options
        with lending([lent for each in self.nets for lent in each.lent(now)]):
            # it may change what it is told
            control = self.first.get_control(patches, sigma, dict(part), len(now.rows), *more)
        return {CONTROL: control} if self.takes_options else {CONTROL: control, ASKED: self.first}

    def following(self, options: dict[str, Any], now: Looking) -> AbstractContextManager[None]:
        """While the UNet is called: ControlLLLites, which are patches of its attention."""
        lent: Lent = []
        for lite, plane in self._lites(options):
            shown = plane.part(now) * 2 - 1
            for module in lite.modules.values():
                lent += [(module, "cond_image", whole_steps(module, shown)), (module, "cond_emb", None)]
                lent.append((module, "num_steps", 0))
                if not is_due(module, now):
                    lent.append((module, "forward", torch.zeros_like))
        return lending(lent)

    def _lites(self, options: dict[str, Any]) -> list[tuple[Any, Plane]]:
        """Those that the UNet is given: the host copies them wherever a patcher is cloned."""
        patches = options.get("patches", {})
        given = {id(each): each for name in ("attn1_patch", "attn2_patch") for each in patches.get(name, ())}
        found = [each for each in given.values() if is_lite(each)]
        if [id(lite) for lite, _ in self.lites] != [id(lite) for lite in found]:
            self.lites = [(lite, self._shown(lite)) for lite in found]
        return self.lites

    def _shown(self, lite: Any) -> Plane:
        image = next(iter(lite.modules.values())).cond_image
        return plane_of((image + 1) / 2, self.sizes, self.images)


def is_lite(patch: Any) -> bool:
    modules = getattr(patch, "modules", None)
    return isinstance(modules, dict) and bool(modules) and all(hasattr(m, "cond_image") for m in modules.values())


def is_due(module: Any, now: Looking) -> bool:
    """By the noise that is left, where the host counts calls, of which a step has many here."""
    steps = module.num_steps
    return not steps or module.start_step / steps <= share_at(now.t) <= module.end_step / steps
