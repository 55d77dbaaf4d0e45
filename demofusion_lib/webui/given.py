"""The img2img tab: the pixels of the user's picture in place of the base image's, and what is said of it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from modules import images, processing, shared

from .. import pictures, vae
from ..core import held, picture_part, upsample
from ..plan import Plan
from ..setting import SettingsError
from ..targets import LATENT_PX, size_text
from . import masks
from .masks import Masked
from .starting import CROP, FILL, Start, fitted, mask_of, sized

COPIES = 4
"""Of a result, in float32, that are there at once: ours, and what the host makes of it on its way to an image."""
THROUGH_VAE = "demofusion_through_vae"
"""Of a processing object: whether the picture is one of txt2img's gallery, of which no latent is held."""
OVER = 4e-6
"""What is added to a shade, of two thousandths of one, as the host cuts off what is below a whole one."""


def give(p: Any, image: Any) -> None:
    """Makes a request of txt2img one of a picture of its gallery, which the phases depart from as from a base image."""
    p.init_images, p.resize_mode, p.denoising_strength = [image], 0, 1.0
    setattr(p, THROUGH_VAE, True)


def drop_blank_mask(p: Any) -> str:
    """As the host does, which then draws as without a mask: before it does, so that everybody knows. What to tell of it."""
    if not masks.is_cropped(p) or masks.soft(p).getbbox():
        return ""
    p.image_mask = None
    return "the mask is blank, so that the whole picture is drawn"


def why_nothing(start: Start, cropped: bool = False) -> str:
    """Of a start without phases."""
    if start.by_tab and cropped:
        return (
            "the tab's own size is that of the masked area, which is shrunk again: nothing is enlarged, the webui draws as "
            "without it; a scale above 1 enlarges the picture"
        )
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
    width, height = start.whole_px
    if start.size_px != (width, height):
        does = {CROP: "cropped", FILL: "filled up"}.get(start.mode, "stretched")
        whole = start.whole_lat == picture_part((start.size_px[1], start.size_px[0]), None, LATENT_PX)
        does = "cropped" if whole else does
        yield f"the picture is {does} from {start.size_px[0]}x{start.size_px[1]} to {size_text(*start.whole_lat)}"
    yield from _notes_of_mask(start) if start.masked else ()
    width, height = start.picture_px
    yield from plan.picture_notes((height, width))


def _notes_of_mask(start: Start) -> Iterator[str]:
    drawn, last = size_text(*start.picture_lat), size_text(*start.drawn_last_lat)
    if start.area is None:
        if start.picture_lat != start.whole_lat:
            yield f"the picture is below the model's size and is drawn at {drawn} first"
        return
    told = f"of the picture the {size_text(*start.area.own_lat)} around the mask are drawn"
    yield told if start.picture_lat == start.area.own_lat else f"{told}, at {drawn} first"
    if start.area.share_lat != start.drawn_last_lat:
        yield f"they take {size_text(*start.area.share_lat)} of the result, to which {last} are shrunk"


class Given:
    """The pictures of one batch: one for all of its images, or each its own."""

    def __init__(self, p: Any, start: Start, plan: Plan):
        self.plan = plan
        self.size_px = start.picture_px
        brought = [fitted(flattened(image), start) for image in _each(p)]
        self.mask = masked(p, start, plan, brought) if start.masked else None
        first = brought if self.mask is None else self.mask.first(self.size_px)
        self.pixels = torch.stack([pictures.tensor(image) for image in first])
        """`(1 or images, 3, height, width)` in [-1, 1]: what is encoded in place of phase 1, or before it behind a mask."""

    def latent(self, encode: Any) -> torch.Tensor:
        """`(images, 4, h, w)` of them."""
        found = torch.cat([encode(one[None]) for one in self.pixels])
        return found.repeat(self.plan.images, 1, 1, 1) if len(found) == 1 else found

    def held(self, decoded: Any) -> Any:
        """The host's decoded pictures of a phase `(3, height, width)`, in place, as near to the given ones as the strength says.

        Behind a mask nothing of them shows, and what is in it has departed as far as it should already.
        """
        if self.mask is not None:
            return decoded
        for i, picture in enumerate(decoded):
            given = self.pixels[min(i, len(self.pixels) - 1)][None]
            decoded[i] = held(picture[None].float(), given, self.plan.departure.hold)[0]
        return decoded

    def enlarged(self, height_lat: int, width_lat: int) -> torch.Tensor:
        """`(images, 3, 8 height_lat, 8 width_lat)`: by cubics alone, to the nearest shade."""
        size_px = height_lat * LATENT_PX, width_lat * LATENT_PX
        same = size_px == tuple(self.pixels.shape[-2:])
        if self.mask is not None:
            larger = self.mask.untouched((size_px[1], size_px[0]))
        else:
            larger = self.pixels.clone() if same else upsample(self.pixels, *size_px).clamp_(-1, 1)
        larger.add_(1).mul_(127.5).round_().div_(127.5).add_(OVER - 1)
        return larger.expand(self.plan.images, -1, -1, -1) if len(larger) == 1 else larger


def _each(p: Any) -> list[Any]:
    """One where all are the same."""
    found = list(p.init_images)
    return found[:1] if all(image is found[0] for image in found) else found


def masked(p: Any, start: Start, plan: Plan, whole: list[Any]) -> Masked:
    other = getattr(p, "latent_mask", None)
    result_px, last_px = (
        (width * LATENT_PX, height * LATENT_PX) for height, width in (start.result_lat, start.drawn_last_lat)
    )
    return Masked(
        p, whole, mask_of(p, start), None if other is None else sized(other.convert("L"), p, start), start.area,
        result_px, last_px, plan.images,
    )  # fmt: skip


def check_room(plan: Plan) -> None:
    """Of a run that enlarges and draws nothing: nothing else of it would fail before the memory is full. Raises SettingsError."""
    height_lat, width_lat = (plan.phases[-1].height_lat, plan.phases[-1].width_lat) if plan.phases else plan.first_lat
    need = COPIES * plan.images * 3 * height_lat * width_lat * LATENT_PX**2 * torch.float32.itemsize
    free = vae.Memory.find(torch.device("cpu"), "").host
    if need > free:
        told = f"the result is {size_text(height_lat, width_lat)}, which takes {need / 2**30:.1f} GiB of memory"
        raise SettingsError(f"{told}, allowed: what {free / 2**30:.1f} GiB hold")


def told_of_pictures(p: Any) -> Iterator[str]:
    """What their sizes alone don't say."""
    each = _each(p)
    if len({image.size for image in each}) > 1:
        yield "the pictures are of several sizes: all are brought to the first one's"
    if any(_is_transparent(image) for image in each):
        yield f"the picture is transparent in places: they are drawn as {shared.opts.img2img_background_color}, as the webui's settings say"


def _is_transparent(image: Any) -> bool:
    return pictures.may_be_transparent(image) and bool(image.convert("RGBA").getextrema()[3][0] < 255)


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
    """While the host prepares a run: at the picture's size, and without encoding it, which is ours to do. What it makes of a
    mask it makes for that size: what it tells of it stays, the rest is made anew for each size that is drawn."""
    before, encode = (p.width, p.height), processing.images_tensor_to_samples

    def unencoded(image: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return image.new_zeros(len(image), 4, image.shape[-2] // LATENT_PX, image.shape[-1] // LATENT_PX)

    p.width, p.height = start.picture_px
    processing.images_tensor_to_samples = unencoded
    if start.masked:
        p.img2img_image_conditioning = lambda *args, **kwargs: None
        p.is_using_inpainting_conditioning = masks.is_inpainting(p.sd_model)
    try:
        yield
    finally:
        vars(p).pop("img2img_image_conditioning", None)
        processing.images_tensor_to_samples = encode
        p.width, p.height = before
