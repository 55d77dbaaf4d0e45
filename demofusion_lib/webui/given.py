"""The img2img tab: a picture of the user's in place of the base image.

What a run needs to know of it is found anew from the host's processing object whenever it is asked for: its sizes alone
for what a run will come to, its pixels when it begins.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from modules import images, processing, shared

from .. import pictures
from ..core import centre_crop, held, picture_part, upsample
from ..params import LATENT_PX, Params, SettingsError, size_text
from ..plan import Plan
from .checkpoints import SDXL, checkpoint

CROP, FILL = 1, 2
"""Of the host's resize modes; the others stretch."""
THROUGH_VAE = "demofusion_through_vae"
"""Of a processing object: whether the picture is one of txt2img's gallery, of which no latent is held."""
NATIVE = {SDXL: 1024}
NATIVE_OTHER = 512
"""Where the host's settings name no size."""


OVER = 4e-6
"""What is added to a shade, of two thousandths of one, as the host cuts off what is below a whole one."""


@dataclass(frozen=True)
class Start:
    """What a run begins with.

    settings: with the tab's own size as the target where a scale of 1 leaves it to the tab. picture_lat: `(height, width)` of
    the picture as it is enlarged. native_lat: the side of the square that the model was trained on. size_px: the picture's own
    `(width, height)`. by_tab: whether the tab's own size was asked for. mode: one of the host's resize modes.
    """

    settings: Params
    picture_lat: tuple[int, int]
    native_lat: int
    size_px: tuple[int, int]
    by_tab: bool
    mode: int

    @property
    def picture_px(self) -> tuple[int, int]:
        """`(width, height)`."""
        return self.picture_lat[1] * LATENT_PX, self.picture_lat[0] * LATENT_PX


def is_given(p: Any) -> bool:
    return getattr(p, "init_images", None) is not None


def strength_of(p: Any) -> float:
    value = p.denoising_strength
    return 0.75 if value is None else float(value)


def start_of(p: Any, settings: Params) -> Start:
    """Raises SettingsError for a picture that can't be drawn from."""
    size_px = _size_px(p)
    by_tab = settings.scale == 1 and not settings.target_width and not settings.target_height
    if by_tab:
        settings = replace(settings, target_width=_whole(p.width), target_height=_whole(p.height))
    mode = int(p.resize_mode or 0)
    picture_lat = _part(size_px, settings, mode)
    target = settings.target_height // LATENT_PX, settings.target_width // LATENT_PX
    if by_tab and any(length <= own for length, own in zip(target, picture_lat)):
        settings = replace(settings, target_width=0, target_height=0)
        picture_lat = _part(size_px, settings, mode)
    return Start(settings, picture_lat, _native_lat(p), size_px, by_tab, mode)


def _size_px(p: Any) -> tuple[int, int]:
    if getattr(p, "image_mask", None) is not None:
        raise SettingsError("a mask is given, allowed with a picture: none")
    first = p.init_images[0] if p.init_images else None
    if first is None:
        raise SettingsError("the picture is missing, allowed: a picture in the img2img tab")
    width, height = first.size
    if not pictures.is_drawable(width, height):
        raise SettingsError(f"the picture is {width}x{height} px, allowed: {pictures.SIZES}")
    return width, height


def _whole(length_px: int) -> int:
    return length_px // LATENT_PX * LATENT_PX


def _part(size_px: tuple[int, int], settings: Params, mode: int) -> tuple[int, int]:
    """The cells `(height, width)` that the picture is brought to: of the target's shape where both its sides are known."""
    own_px = size_px[1], size_px[0]
    if not (settings.target_width and settings.target_height) or mode == CROP:
        return settings.picture_lat(own_px)
    target = settings.target_height // LATENT_PX, settings.target_width // LATENT_PX
    by_side = [length_px / LATENT_PX / cells for length_px, cells in zip(own_px, target)]
    gain = max(by_side) if mode == FILL else math.sqrt(by_side[0] * by_side[1])
    height, width = (max(1, round(cells * gain)) for cells in target)
    return height, width


def _native_lat(p: Any) -> int:
    """Of the checkpoint that the run is drawn with, which need not be loaded yet."""
    wanted = (getattr(p, "override_settings", None) or {}).get("sd_model_checkpoint")
    family = checkpoint(str(wanted or "")).family
    native_px = (family.native if family else 0) or (NATIVE.get(family, NATIVE_OTHER) if family else NATIVE_OTHER)
    return native_px // LATENT_PX


def reach(start: Start) -> Any:
    """`Params.picture_phases`. Raises SettingsError, of the tab's own size in its words."""
    try:
        return start.settings.picture_phases(start.picture_lat, start.native_lat)
    except SettingsError as error:
        if not start.by_tab:
            raise
        words = (
            str(error)
            .removeprefix("DemoFusion: ")
            .replace("target_", "the tab's ")
            .replace("allowed: 0, or", "allowed:")
        )
        raise SettingsError(words.replace("this base image", "this picture")) from None


def why_nothing(start: Start) -> str:
    """Of a start without phases."""
    if start.by_tab:
        return (
            f"the tab's own size is no larger than the picture of {start.size_px[0]}x{start.size_px[1]} px: nothing is enlarged, "
            "the webui draws as without it; a scale above 1 enlarges the picture whatever the tab says"
        )
    if start.settings.target_width or start.settings.target_height:
        return "the target is the picture's own size: nothing was enlarged"
    return start.settings.rounding(start.picture_lat)


def notes(start: Start, plan: Plan) -> Iterator[str]:
    """What is done with the picture."""
    width, height = start.picture_px
    if start.size_px != (width, height):
        does = {CROP: "cropped", FILL: "filled up"}.get(start.mode, "stretched")
        whole = start.picture_lat == picture_part((start.size_px[1], start.size_px[0]), None, LATENT_PX)
        does = "cropped" if whole else does
        yield f"the picture is {does} from {start.size_px[0]}x{start.size_px[1]} to {size_text(*start.picture_lat)}"
    yield from plan.picture_notes((height, width))


class Given:
    """The pictures of one batch: one for all of its images, or each its own."""

    def __init__(self, p: Any, start: Start, plan: Plan):
        self.plan = plan
        self.pixels = torch.stack([_brought(image, start) for image in _each(p)])
        """`(1 or images, 3, height, width)` in [-1, 1]."""

    def latent(self, encode: Any) -> torch.Tensor:
        """`(images, 4, h, w)` in place of phase 1's."""
        found = torch.cat([encode(one[None]) for one in self.pixels])
        return found.repeat(self.plan.images, 1, 1, 1) if len(found) == 1 else found

    def held(self, decoded: Any) -> Any:
        """The host's decoded pictures of a phase `(3, height, width)`, in place, as near to the given ones as the strength says."""
        for i, picture in enumerate(decoded):
            given = self.pixels[min(i, len(self.pixels) - 1)][None]
            decoded[i] = held(picture[None].float(), given, self.plan.departure.hold)[0]
        return decoded

    def enlarged(self, height_lat: int, width_lat: int) -> torch.Tensor:
        """`(images, 3, 8 height_lat, 8 width_lat)`: by cubics alone, to the nearest shade."""
        size_px = height_lat * LATENT_PX, width_lat * LATENT_PX
        same = size_px == tuple(self.pixels.shape[-2:])
        larger = self.pixels.clone() if same else upsample(self.pixels, *size_px).clamp_(-1, 1)
        larger.add_(1).mul_(127.5).round_().div_(127.5).add_(OVER - 1)
        return larger.expand(self.plan.images, -1, -1, -1) if len(larger) == 1 else larger


def _each(p: Any) -> list[Any]:
    """One where all are the same."""
    found = list(p.init_images)
    return found[:1] if all(image is found[0] for image in found) else found


def _brought(image: Any, start: Start) -> torch.Tensor:
    """`(3, height, width)` in [-1, 1], of the size that the run begins with."""
    image = flattened(image)
    width, height = start.picture_px
    if image.size != (width, height):
        fits = picture_part((image.height, image.width), None, LATENT_PX) == start.picture_lat or start.mode == CROP
        if not fits or image.width < width or image.height < height:
            image = images.resize_image(start.mode if start.mode in (CROP, FILL) else 0, image, width, height, "None")
    return centre_crop(pictures.tensor(image), height, width)


def flattened(image: Any) -> Any:
    """Without transparency, on the colour that the host's settings name; of 8 bits a channel."""
    if pictures.may_be_transparent(image):
        image = image.convert("RGBA")
    return images.flatten(pictures.eight_bits(image), shared.opts.img2img_background_color)


def digest(p: Any) -> str:
    """Of the pictures, hexadecimal."""
    found = hashlib.blake2b(digest_size=16)
    for image in _each(p):
        found.update(f"{image.mode} {image.size}".encode() + image.tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def as_picture(p: Any, start: Start) -> Iterator[None]:
    """While the host prepares a run: at the picture's size, and without encoding it, which is ours to do."""
    before, encode = (p.width, p.height), processing.images_tensor_to_samples

    def unencoded(image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return image.new_zeros(len(image), 4, image.shape[-2] // LATENT_PX, image.shape[-1] // LATENT_PX)

    p.width, p.height = start.picture_px
    processing.images_tensor_to_samples = unencoded
    try:
        yield
    finally:
        processing.images_tensor_to_samples = encode
        p.width, p.height = before
