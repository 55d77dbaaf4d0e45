"""Latents to pictures and back, by the VAE's tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from .. import vae
from ..memory import giving_back
from ..targets import LATENT_PX
from .errors import first_line
from .models import LATENT_CHANNELS, Model

BAND_PX = 512  # rows of a picture that are made bytes at once
HOST = "host"
Made = TypeVar("Made")
Finish = Callable[[torch.Tensor], torch.Tensor]


def silent(text: str) -> None:
    """Tells nobody."""


def as_it_is(pixels: torch.Tensor) -> torch.Tensor:
    """Them."""
    return pixels


@dataclass(frozen=True)
class Way:
    """How pictures are decoded.

    mode: the setting `vae`; `host` for diffusers' own decoder in one piece. tell: given what a user should know.
    on_tile: told `(done, total)` after each tile. folder: where layers may be laid as files; the system's if it is gone.
    finish: what becomes of a decoded picture `(1, 3, height, width)` in [-1, 1] before `decode` makes it bytes.
    sharing: several processes that all code it.
    """

    mode: str = HOST
    tell: Callable[[str], None] = silent
    on_tile: Callable[[int, int], None] | None = None
    folder: Path | None = None
    finish: Finish = as_it_is
    sharing: vae.Sharing | None = None


UNDIVIDED = Way()


@torch.no_grad()
def decode(model: Model, latent: torch.Tensor, way: Way = UNDIVIDED) -> list[Image.Image]:
    """`latent (batch, 4, height, width)`, one image at a time: the decoder takes more memory than anything else.

    Raises ValueError or `vae.NotFinite` for a picture that holds NaN in float32 too, and whatever the VAE raises.
    """
    return [_image(model, one[None], way) for one in latent]


def _image(model: Model, latent: torch.Tensor, way: Way) -> Image.Image:
    def image(dtype: torch.dtype | None) -> Image.Image:
        return to_image(way.finish(_pixels(model, latent, way, dtype))[0])

    return _in_float32_if_need_be(model, image, way, "decoded")


def _in_float32_if_need_be(model: Model, code: Callable[[torch.dtype | None], Made], way: Way, done: str) -> Made:
    """What `code` makes in the VAE's own precision, or in float32 where that overflows."""
    try:
        return code(None)
    except (vae.NotFinite, NotFinitePixels) as error:
        if model.vae.dtype == torch.float32:
            raise
        name = str(model.vae.dtype).removeprefix("torch.")
        way.tell(f"{done} again in float32, as in {name} {first_line(error)}")
    return code(torch.float32)


@torch.no_grad()
def pixels_of(model: Model, latent: torch.Tensor, way: Way = UNDIVIDED) -> torch.Tensor:
    """The picture `(1, 3, 8h, 8w)` in [-1, 1] of one latent `(1, 4, h, w)`, as `decode` finds it but for the rounding to bytes.

    Raises what `decode` raises.
    """
    return _in_float32_if_need_be(model, lambda dtype: finite(_pixels(model, latent, way, dtype)), way, "decoded")


@torch.no_grad()
def latent_of(model: Model, pixels: torch.Tensor, way: Way = UNDIVIDED) -> torch.Tensor:
    """The latent `(1, 4, h, w)` of one picture `(1, 3, 8h, 8w)` in [-1, 1]: the mean of what the encoder answers.

    Raises ValueError or `vae.NotFinite` where it is NaN in float32 too, and whatever the VAE raises.
    """
    mean = _in_float32_if_need_be(model, lambda dtype: finite(_mean(model, pixels, way, dtype)), way, "encoded")
    return model.scaled(mean)


def _mean(model: Model, pixels: torch.Tensor, way: Way, dtype: torch.dtype | None) -> torch.Tensor:
    if way.mode != HOST:
        try:
            moments = vae.encode(
                model.vae, pixels, mode=way.mode, dtype=dtype, memory=_memory(model, way.folder),
                on_tile=giving_back(way.on_tile), told=lambda plan: _told(plan, way), out_device=model.device,
                sharing=way.sharing,
            )  # fmt: skip
            return moments.chunk(2, dim=1)[0]
        except vae.Unreadable as error:
            way.tell(f"encoded in one piece by diffusers, as the VAE can't be read ({first_line(error)})")
    if dtype is not None:
        model.vae.to(dtype=dtype)

    def mean() -> torch.Tensor:
        found: torch.Tensor = model.vae.encode(pixels.to(model.vae.device, model.vae.dtype)).latent_dist.mean
        return found

    height, width = (side // LATENT_PX for side in pixels.shape[-2:])
    return _by_one(
        mean, way, lambda: pixels.new_empty(len(pixels), LATENT_CHANNELS, height, width, dtype=model.vae.dtype)
    )


def _by_one(make: Callable[[], torch.Tensor], way: Way, like: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What can't be divided, by the first of several processes. like: of its shape, type and device."""
    return make() if way.sharing is None else way.sharing.made_once(make, like())


class NotFinitePixels(ValueError):
    """A picture of NaN or infinities."""

    def __init__(self) -> None:
        super().__init__("the decoded picture holds NaNs")


def _pixels(model: Model, latent: torch.Tensor, way: Way, dtype: torch.dtype | None) -> torch.Tensor:
    """`(1, 3, height, width)` in [-1, 1]. dtype: instead of the VAE's own."""
    if way.mode != HOST:
        try:
            return vae.decode(
                model.vae, model.unscaled(latent, dtype), mode=way.mode, dtype=dtype, memory=_memory(model, way.folder),
                on_tile=giving_back(way.on_tile), told=lambda plan: _told(plan, way), sharing=way.sharing,
            )  # fmt: skip
        except vae.Unreadable as error:
            way.tell(f"decoded in one piece by diffusers, as the VAE can't be read ({first_line(error)})")
    if dtype is not None:
        model.vae.to(dtype=dtype)  # and it stays so: what overflowed once does again

    def pixels() -> torch.Tensor:
        found: torch.Tensor = model.vae.decode(model.unscaled(latent), return_dict=False)[0]
        return found

    height, width = (side * LATENT_PX for side in latent.shape[-2:])
    return _by_one(pixels, way, lambda: latent.new_empty(len(latent), 3, height, width, dtype=model.vae.dtype))


def _memory(model: Model, folder: Path | None) -> vae.Memory:
    there = folder is not None and folder.is_dir()
    return vae.Memory.find(torch.device(model.vae.device), str(folder) if there else None)


def _told(plan: vae.Plan, way: Way) -> None:
    """What a picture is not exact for, or takes long for."""
    if plan.mode == "estimated" or plan.store == "file":
        way.tell(str(plan))


def finite(values: torch.Tensor) -> torch.Tensor:
    """Them. Raises NotFinitePixels."""
    if not torch.isfinite(values).all():
        raise NotFinitePixels
    return values


def to_image(pixels: torch.Tensor) -> Image.Image:
    """From the VAE's `(3, height, width)` in [-1, 1], band by band. Raises NotFinitePixels."""
    values = np.empty((*pixels.shape[1:], 3), dtype=np.uint8)
    for top in range(0, len(values), BAND_PX):
        band = pixels[:, top : top + BAND_PX].float()
        if not torch.isfinite(band).all():
            raise NotFinitePixels
        band = band.add(1).div_(2).clamp_(0, 1).permute(1, 2, 0)
        values[top : top + BAND_PX] = (255 * band.cpu().numpy()).round().astype(np.uint8)
    return Image.fromarray(values)
