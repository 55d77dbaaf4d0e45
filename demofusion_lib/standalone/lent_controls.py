"""The ControlNets of a lent pipeline, with what a call shows them: for phase 1 as diffusers takes it, for the phases as controls."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor

from ..hints import at_size, kind_of
from ..pictures import SIZES, is_drawable
from ..setting import quoted
from .asked import CONTROLS, Asked, check_number
from .controlnets import check_made_for
from .controls import Control
from .errors import UserError, first_line
from .models import Model

SUPPORTED = "ControlNetModel"
MOST_SCALE = 10.0
ALLOWED = (
    "what diffusers takes for a hint: a PIL image, an array (1 or prompts, height, width, 3) or a tensor (1 or prompts, 3, height, "
    f"width) of values in [0, 1], or a list of them, of {SIZES}"
)
ONCE = VaeImageProcessor(do_resize=False, do_normalize=False, do_convert_rgb=True)
"""Reads hints as the pipelines do, and leaves them their size."""


def nets_of(pipeline: Any) -> list[Any]:
    """In their order."""
    held = pipeline.controlnet
    return list(_uncompiled(held).nets) if has_several(pipeline) else [held]


def has_several(pipeline: Any) -> bool:
    """Whether it takes lists: it may be one of one."""
    return hasattr(_uncompiled(pipeline.controlnet), "nets")


def _uncompiled(net: Any) -> Any:
    return getattr(net, "_orig_mod", net)


def check_nets(pipeline: Any, model: Model) -> None:
    """Raises UserError, in words that go on behind the pipeline's name."""
    for net in nets_of(pipeline):
        if not isinstance(_uncompiled(net), getattr(diffusers, SUPPORTED)):
            raise UserError(f"carries a {quoted(type(_uncompiled(net)).__name__)}, supported: {SUPPORTED}")
        if net.config.global_pool_conditions:
            raise UserError("carries a ControlNet with global_pool_conditions, supported: those that read places")
        try:
            check_made_for(net, model)
        except UserError as error:
            raise UserError(f"carries a ControlNet that {error}") from error


def is_offload(hook: Any) -> bool:
    """Whether it is one of `enable_model_cpu_offload`'s, by name: accelerate is asked of nobody."""
    return any((kind.__module__, kind.__name__) == ("accelerate.hooks", "CpuOffload") for kind in type(hook).__mro__)


@dataclass(frozen=True)
class LentControls:
    """One call's. hint_name: of the argument that the hints are given in. Raises UserError for what can't be used."""

    pipeline: Any
    asked: Asked
    hint_name: str

    def __post_init__(self) -> None:
        if self.asked.handed.get("guess_mode"):
            raise UserError(f"guess_mode is {quoted(self.asked.handed['guess_mode'])}, allowed: False")
        starts, ends = (self._numbers[name] for name in CONTROLS[2:])
        for start, end in zip(starts, ends):
            if start >= end:
                raise UserError(f"control_guidance_start is {start:g}, allowed: below control_guidance_end, {end:g}")
        _ = self.hints

    @cached_property
    def nets(self) -> list[Any]:
        return nets_of(self.pipeline)

    @cached_property
    def hints(self) -> list[torch.Tensor]:
        """One for each network, `(1 or images, 3, height, width)` in [0, 1], of the size that it was given in."""
        return [self._hint(hint) for hint in self._each]

    @property
    def size_px(self) -> tuple[int, int]:
        """`(height, width)` of the first hint, which is phase 1's unless another is told."""
        return self.hints[0].shape[-2], self.hints[0].shape[-1]

    def told(self) -> dict[str, Any]:
        """To the pipeline, by name."""
        several = has_several(self.pipeline)
        named = {name: values if several else values[0] for name, values in self._numbers.items()}
        takes = "control_image" if "control_image" in self._takes else "image"
        return {**named, takes: self._given if several else self._each[0]}

    def for_phases(self) -> list[Control]:
        where = self.pipeline._execution_device
        return [
            Control(net, hint, kind_of(hint), scale, start, end, _name(net), squeezed=True, where=where)
            for net, hint, scale, start, end in zip(self.nets, self.hints, *self._numbers.values())
        ]

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        """With the networks on the device where `enable_model_cpu_offload` keeps them elsewhere: several it hooks as one, past
        which the engine asks them one by one."""
        hook = self._hook
        if hook is not None:
            hook.pre_forward(self.pipeline.controlnet)
        try:
            yield
        finally:
            self.put_away()

    def put_away(self) -> None:
        """Off the device again: no other part's hook does that, as the VAE's does with the UNet."""
        hook = self._hook
        if hook is not None:
            hook.init_hook(self.pipeline.controlnet)

    @property
    def _hook(self) -> Any:
        """That of `enable_model_cpu_offload`, which sets it anew with every run of the pipeline."""
        hook = getattr(self.pipeline.controlnet, "_hf_hook", None)
        return hook if is_offload(hook) else None

    @property
    def _takes(self) -> Any:
        return inspect.signature(type(self.pipeline).__call__).parameters

    @cached_property
    def _given(self) -> Any:
        """As its pipeline takes it."""
        given, kind = getattr(self.asked, self.hint_name), type(self.pipeline).__name__
        if given is None:
            raise UserError(f"{self.hint_name} is None, allowed with {kind}: a hint for its ControlNet")
        if not has_several(self.pipeline):
            return _batched(given)
        if not isinstance(given, (list, tuple)):
            raise UserError(f"{self.hint_name} is {_told(given)}, allowed: a list, an entry for each ControlNet")
        return [_batched(one) for one in given]

    @cached_property
    def _each(self) -> list[Any]:
        """What is given for each network."""
        given, count = self._given, len(self.nets)
        if not has_several(self.pipeline):
            return [given]
        entries = given
        if any(isinstance(one, list) for one in given):
            # a list for each prompt, which one of diffusers' pipelines takes
            if not isinstance(self.pipeline, diffusers.StableDiffusionControlNetPipeline):
                raise UserError(f"{self.hint_name} has lists in it, allowed: tensors of a hint for each prompt")
            if not all(isinstance(one, list) and len(one) == count for one in given):
                raise UserError(f"{self.hint_name} has lists in it, allowed: for each prompt one of {count} hints")
            entries = [list(one) for one in zip(*given)]
        if len(entries) != count:
            raise UserError(f"{self.hint_name} has {len(entries)} entries, allowed: one for each ControlNet ({count})")
        return entries

    @cached_property
    def _numbers(self) -> dict[str, list[float]]:
        """By name, one for each network, in the order in which `Control` has them."""
        named = zip(CONTROLS[1:], (MOST_SCALE, 1.0, 1.0))
        return {name: self._floats(name, most) for name, most in named}

    def _floats(self, name: str, most: float) -> list[float]:
        given, count = getattr(self.asked, name), len(self.nets)
        value = self._takes[name].default if given is None else given
        values = list(value) if isinstance(value, (list, tuple)) else [value] * count
        if len(values) != count:
            raise UserError(
                f"{name} has {len(values)} entries, allowed: a number, or one for each ControlNet ({count})"
            )
        for one in values:
            check_number(name, one, Real, 0, most)
        return [float(one) for one in values]

    def _hint(self, given: Any) -> torch.Tensor:
        name, rows = self.hint_name, self.asked.texts.rows
        hint = _pixels(given, name)
        if len(hint) not in (1, rows):
            raise UserError(f"{name} has {len(hint)} pictures, allowed: one, or one for each prompt ({rows})")
        return hint if len(hint) == 1 else hint.repeat_interleave(self.asked.num_images_per_prompt, dim=0)


def _pixels(given: Any, name: str) -> torch.Tensor:
    """`(pictures, 3, height, width)` in [0, 1]; of several sizes, all of the largest."""
    try:
        parts = [ONCE.preprocess(one).float().cpu() for one in (given if isinstance(given, list) else [given])]
    except Exception as error:  # diffusers raises whatever it pleases
        raise UserError(f"{name} is {_told(given)}, allowed: {ALLOWED} ({first_line(error)})") from error
    for part in parts:
        if part.ndim != 4 or part.shape[1] != 3 or not is_drawable(part.shape[3], part.shape[2]):
            raise UserError(f"{name} is read as a tensor {tuple(part.shape)}, allowed: {ALLOWED}")
        if not (part.min() >= 0 and part.max() <= 1):  # which NaN isn't
            raise UserError(f"{name} has values from {part.min():g} to {part.max():g}, allowed: {ALLOWED}")
    size = max(((part.shape[-2], part.shape[-1]) for part in parts), key=lambda size: size[0] * size[1])
    return torch.cat([at_size(part, size, kind_of(part)) for part in parts])


def _batched(given: Any) -> Any:
    """One picture of numbers as a batch, and a list for a tuple: diffusers takes nothing else."""
    if isinstance(given, (np.ndarray, torch.Tensor)) and given.ndim == 3:
        return given[None]
    return [*given] if isinstance(given, tuple) else given


def _told(given: Any) -> str:
    """In one line."""
    if isinstance(given, (np.ndarray, torch.Tensor)):
        return f"of the shape {tuple(given.shape)}"
    return f"a list of {len(given)}" if isinstance(given, Sequence) and not isinstance(given, str) else quoted(given)


def _name(net: Any) -> str:
    return str(getattr(net.config, "_name_or_path", "") or SUPPORTED).replace("\\", "/").rstrip("/").split("/")[-1]
