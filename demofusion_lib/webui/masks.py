"""Masks of the img2img tab: what is drawn of a picture and what stays as it is, at every size that a run comes through."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from modules import devices, images, masking, shared
from modules.processing import apply_overlay, create_binary_mask
from PIL import Image, ImageOps

from .. import pictures
from ..core import NEAR_NATIVE
from ..plan import LATENT_CHANNELS
from ..setting import SettingsError, quoted
from ..targets import LATENT_PX

UNSEEN = object()
"""Stands for a mask whose pixels nobody has seen, where a run is only reckoned."""
CONTENTS = ("fill", "original", "latent noise", "latent nothing")
"""The host's names of what is laid under a mask, by its numbers."""
ALLOWED = CONTENTS[:2]
"""What is noise in a latent of one size, or nothing, is neither when it has been enlarged."""
LONGEST = 2
"""How many times as long as wide a crop is at most, where its picture has the room."""

Size = tuple[int, int]
Box = tuple[float, float, float, float]


def is_masked(p: Any) -> bool:
    return getattr(p, "image_mask", None) is not None


def is_cropped(p: Any) -> bool:
    """Whether the masked area is all that is drawn, and known."""
    return is_masked(p) and bool(getattr(p, "inpaint_full_res", False)) and p.image_mask is not UNSEEN


def check_content(p: Any) -> None:
    """Raises SettingsError."""
    number = getattr(p, "inpainting_fill", 0)
    name = CONTENTS[number] if number in range(len(CONTENTS)) else number
    if name not in ALLOWED:
        raise SettingsError(f"masked content is {quoted(name)}, allowed with DemoFusion: {', '.join(ALLOWED)}")


def soft(p: Any) -> Image.Image:
    """The mask as the host has it, of its own size: white where it is drawn, inverted and blurred as the tab says."""
    found: Image.Image = create_binary_mask(p.image_mask, round=getattr(p, "mask_round", True))
    if p.inpainting_mask_invert:
        found = ImageOps.invert(found)
    for blur, across in ((p.mask_blur_x, True), (p.mask_blur_y, False)):
        if blur > 0:
            import cv2  # the host's

            reach = 2 * math.floor(2.5 * blur + 0.5) + 1
            found = Image.fromarray(cv2.GaussianBlur(np.array(found), (reach, 1) if across else (1, reach), blur))
    return found


def made_of(p: Any) -> dict[str, str]:
    """What a run's latents depend on beside the picture, by the names that its user knows."""
    found = hashlib.blake2b(digest_size=16)
    for mask in (p.image_mask, getattr(p, "latent_mask", None)):
        found.update(b"" if mask is None else f"{mask.mode} {mask.size}".encode() + mask.tobytes())
    names = {
        "mask blur": f"{p.mask_blur_x} {p.mask_blur_y}", "mask mode": p.inpainting_mask_invert,
        "masked content": p.inpainting_fill, "inpaint area": bool(p.inpaint_full_res),
        "masked area padding": p.inpaint_full_res_padding, "mask rounding": getattr(p, "mask_round", True),
        "conditional mask weight": getattr(p, "inpainting_mask_weight", None) or shared.opts.inpainting_mask_weight,
    }  # fmt: skip
    return {"mask": found.hexdigest(), **{name: str(value) for name, value in names.items()}}


@dataclass(frozen=True)
class Area:
    """The part of a picture that is drawn, where that is not all of it; `(left, top, width, height)` in pixels.

    own: in the picture, in whole cells. result: in the result, whose size `(width, height)` is `of`.
    """

    own: tuple[int, int, int, int]
    result: tuple[int, int, int, int]
    of: Size

    @classmethod
    def around(cls, mask: Image.Image, padding_px: int, result_px: Size) -> Area | None:
        """What the host cuts out for a mask of the picture's size, of no longer shape than `LONGEST`. None: nothing is masked."""
        if mask.getbbox() is None:
            return None
        found = masking.get_crop_region(mask, padding_px)
        lengths = found[2] - found[0], found[3] - found[1]
        least = math.ceil(max(lengths) / LONGEST)
        across = [_along(found[i] + found[i + 2], max(lengths[i], least), mask.size[i], result_px[i]) for i in range(2)]
        (x, width, left, columns), (y, height, top, rows) = across
        return cls((x, y, width, height), (left, top, columns, rows), result_px)

    @property
    def own_lat(self) -> Size:
        """`(height, width)`."""
        return self.own[3] // LATENT_PX, self.own[2] // LATENT_PX

    @property
    def share_lat(self) -> Size:
        """`(height, width)` of it in the result."""
        return self.result[3] // LATENT_PX, self.result[2] // LATENT_PX

    def box(self, size_px: Size) -> Box:
        """Of the result's share, in a picture of `size_px`: `(left, top, right, bottom)`."""
        gains = size_px[0] / self.of[0], size_px[1] / self.of[1]
        left, top, width, height = self.result
        return left * gains[0], top * gains[1], (left + width) * gains[0], (top + height) * gains[1]


def _along(twice_middle: int, length: int, whole: int, result: int) -> tuple[int, int, int, int]:
    """Along one axis: start and length in the picture, start and length in the result; of lengths in whole cells."""
    cells = min(math.ceil(length / LATENT_PX), whole // LATENT_PX)
    own = cells * LATENT_PX
    start = min(max((twice_middle - own) // 2, 0), whole - own)
    share = min(max(1, round(cells * result / whole)) * LATENT_PX, result)
    return start, own, min(round(start * result / whole), result - share), share


def drawn_lat(own_lat: Size, share_lat: Size, native_lat: int, cropped: bool) -> tuple[Size, Size]:
    """What phase 1 is drawn at, and what the phases reach, `(height, width)`.

    A picture, or a crop, that is far below the model's size is drawn at that: the whole picture at most at the result's size,
    a crop whatever its share of that is, into which it is shrunk.
    """
    area = own_lat[0] * own_lat[1] / native_lat**2
    if area * NEAR_NATIVE >= 1:
        return own_lat, share_lat
    first = tuple(max(1, round(length / math.sqrt(area))) for length in own_lat)
    if not cropped:
        first = tuple(min(length, most) for length, most in zip(first, share_lat))
    reached = share_lat if all(length <= most for length, most in zip(first, share_lat)) else first
    return (first[0], first[1]), (reached[0], reached[1])


class Masked:
    """Of one batch.

    whole: its pictures, one for all or each its own, as they are enlarged; mask: of their size. latent_mask: another one, where
    a script has set one for latents alone. area: None where they are drawn whole. reached_px: `(width, height)` of what is
    drawn, when the last phase has ended. count: of images.
    """

    def __init__(
        self, p: Any, whole: Sequence[Image.Image], mask: Image.Image, latent_mask: Image.Image | None,
        area: Area | None, result_px: Size, reached_px: Size, count: int,
    ):  # fmt: skip
        self.p = p
        self.whole = whole
        self.mask, self.latent_mask = mask, latent_mask or mask
        self.area = area
        self.result_px, self.reached_px = result_px, reached_px
        self.count = count
        self.filled = p.inpainting_fill == 0
        self.placed_px = result_px
        self._known: tuple[Size, list[Image.Image]] = ((0, 0), [])

    # what is drawn, at some size

    def part(self, image: Image.Image, size_px: Size) -> Image.Image:
        """Of a picture or mask, what is drawn, at `(width, height)`."""
        if self.area is None:
            found: Image.Image = images.resize_image(0, image, *size_px)
            return found
        box = self.area.box(image.size)
        if all(edge == int(edge) for edge in box) and (box[2] - box[0], box[3] - box[1]) == size_px:
            return image.crop(tuple(int(edge) for edge in box))  # type: ignore[arg-type]
        return image.resize(size_px, Image.Resampling.LANCZOS, box=box)

    def first(self, size_px: Size) -> list[Image.Image]:
        """What phase 1 begins with."""
        found = self.known(size_px)
        return [masking.fill(image, self.part(self.latent_mask, size_px)) for image in found] if self.filled else found

    def known(self, size_px: Size) -> list[Image.Image]:
        if self._known[0] != size_px:
            self._known = size_px, [self.part(image, size_px) for image in self.whole]
        return self._known[1]

    def latent(self, height_lat: int, width_lat: int) -> torch.Tensor:
        """`(4, height, width)`: 1 where it is drawn. The host's way from a mask to a latent's."""
        size_px = width_lat * LATENT_PX, height_lat * LATENT_PX
        plane = self.part(self.latent_mask, size_px).convert("RGB").resize((width_lat, height_lat))
        values = np.asarray(plane, dtype=np.float32)[..., 0] / 255
        values = np.around(values) if getattr(self.p, "mask_round", True) else values
        cells = torch.from_numpy(values).to(shared.device, devices.dtype)
        return cells.expand(LATENT_CHANNELS, -1, -1).contiguous()

    def lend(self, nmask: torch.Tensor) -> None:
        """To the host's processing object, for its own blend; of the size of what is sampled next."""
        self.p.nmask, self.p.mask = nmask, 1 - nmask

    def take_back(self) -> None:
        """The webui's own "Soft inpainting" makes other masks to paste by of those of the last latent, which it isn't given."""
        self.p.nmask = self.p.mask = None

    def blended(self, drawn: torch.Tensor, known: torch.Tensor, nmask: torch.Tensor) -> torch.Tensor:
        """As the host ends a sampling; other extensions may blend otherwise."""
        nmask = nmask.to(drawn)
        mask = 1 - nmask
        blended = drawn * nmask + known.to(drawn) * mask
        hook = getattr(self.p.scripts, "on_mask_blend", None)
        if hook is None:
            return blended
        from modules.scripts import MaskBlendArgs

        told = MaskBlendArgs(drawn, nmask, known, mask, blended)
        hook(self.p, told)
        found: torch.Tensor = told.blended_latent
        return found

    # pictures

    def paste(self, picture: torch.Tensor, image: int) -> torch.Tensor:
        """`(1, 3, height, width)` in [-1, 1] with the given picture outside of the mask."""
        size_px = picture.shape[-1], picture.shape[-2]
        known = self.known(size_px)
        outside = pictures.tensor(known[min(image, len(known) - 1)])[None].to(picture)
        shares = np.asarray(self._pasted_by(self.part(self.mask, size_px)), dtype=np.float32) / 255
        return torch.lerp(outside, picture, torch.from_numpy(shares).to(picture))

    def _pasted_by(self, mask: Image.Image) -> Image.Image:
        """Where a whole picture is drawn the host pastes within the mask's soft edge alone."""
        return mask if self.area is not None else mask.point(lambda value: min(2 * value, 255))

    def place(self, width_px: int, height_px: int) -> None:
        """For drawn pictures of this size: what the host pastes them into, and where."""
        gain, size_px, at = width_px / self.reached_px[0], (width_px, height_px), None
        if self.area is not None:
            size_px = round(self.area.of[0] * gain), round(self.area.of[1] * gain)
            at = tuple(max(round(edge * gain), int(i > 1)) for i, edge in enumerate(self.area.result))
        mask = self._pasted_by(images.resize_image(0, self.mask, *size_px))
        if at is not None:  # what resampling has carried beyond the part that is drawn
            inner, mask = mask, Image.new("L", size_px)
            mask.paste(inner.crop((at[0], at[1], at[0] + at[2], at[1] + at[3])), at[:2])
        self.placed_px = size_px
        self.p.paste_to, self.p.mask_for_overlay = at, mask
        overlays = [_around(images.resize_image(0, one, *size_px), mask) for one in self.whole]
        self.p.overlay_images = overlays * self.count if len(overlays) == 1 else overlays

    def untouched(self, size_px: Size) -> torch.Tensor:
        """`(1 or images, 3, height, width)` in [-1, 1]: what would be drawn, as it is."""
        return torch.stack([pictures.tensor(image) for image in self.known(size_px)])

    # models that are told of the mask

    def condition(
        self, size_lat: Size, encode: Callable[[torch.Tensor], torch.Tensor], like: torch.Tensor
    ) -> torch.Tensor:
        """`(images, 5, height, width)` of an inpainting model: the mask, and the picture without what is in it."""
        size_px = size_lat[1] * LATENT_PX, size_lat[0] * LATENT_PX
        shares = torch.from_numpy(np.asarray(self.part(self.mask, size_px), dtype=np.float32) / 255)[None, None]
        shares = shares.round() if getattr(self.p, "mask_round", True) or is_sdxl_inpaint(self.p.sd_model) else shares
        weight = getattr(self.p, "inpainting_mask_weight", None)
        weight = shared.opts.inpainting_mask_weight if weight is None else weight
        planes = F.interpolate(shares, size=size_lat)
        found = []
        for image in self.known(size_px):
            picture = pictures.tensor(image)[None]
            coded = encode(torch.lerp(picture, picture * (1 - shares), float(weight)))
            found.append(torch.cat([planes.to(coded), coded], dim=1))
        return torch.cat(found).to(like).expand(len(like), -1, -1, -1)


def _around(picture: Image.Image, mask: Image.Image) -> Image.Image:
    """What is laid over a drawn picture: the given one with a hole where the mask is."""
    over = Image.new("RGBa", picture.size)
    over.paste(picture.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(mask.convert("L")))
    return over.convert("RGBA")


def is_sdxl_inpaint(sd_model: Any) -> bool:
    return bool(getattr(sd_model, "is_sdxl_inpaint", False))


def is_inpainting(sd_model: Any) -> bool:
    """Whether the model was trained to be told of a mask."""
    key = getattr(getattr(sd_model, "model", None), "conditioning_key", None)
    # Forge and Forge Neo know it by themselves
    return key in ("hybrid", "concat") or bool(getattr(sd_model, "is_inpaint", False)) or is_sdxl_inpaint(sd_model)


def pasted(p: Any, image: Image.Image, number: int) -> Image.Image:
    """A picture of a batch as the host pastes it, with what `Masked.place` has made."""
    overlays = getattr(p, "overlay_images", None)
    if not overlays or number >= len(overlays) or not shared.opts.overlay_inpaint:
        return image
    found: Image.Image = apply_overlay(image, p.paste_to, overlays[number])[0]
    return found
