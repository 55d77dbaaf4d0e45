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

from .. import pictures, vae
from ..core import held, picture_part, upsample
from ..params import Params
from ..plan import Plan
from ..setting import SettingsError, quoted
from ..targets import LATENT_PX, size_text
from . import masks
from .checkpoints import SDXL, checkpoint
from .masks import Area, Masked, is_masked

CROP, FILL, MODES = 1, 2, 4
"""Of the host's resize modes, and how many there are; the others stretch."""
COPIES = 4
"""Of a result, in float32, that are there at once: ours, and what the host makes of it on its way to an image."""
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

    Behind a mask, `picture_lat` and the settings' target are what is drawn first and last: of all of the picture, which is
    `whole_lat` large and becomes `result_lat`, or of an area.
    """

    settings: Params
    picture_lat: tuple[int, int]
    native_lat: int
    size_px: tuple[int, int]
    by_tab: bool
    mode: int
    whole_lat: tuple[int, int] = (0, 0)
    result_lat: tuple[int, int] = (0, 0)
    masked: bool = False
    area: Area | None = None

    @property
    def whole_px(self) -> tuple[int, int]:
        """`(width, height)`."""
        return self.whole_lat[1] * LATENT_PX, self.whole_lat[0] * LATENT_PX

    @property
    def drawn_last_lat(self) -> tuple[int, int]:
        """`(height, width)` of what is drawn behind a mask, at its largest."""
        return self.settings.target_height // LATENT_PX, self.settings.target_width // LATENT_PX

    @property
    def picture_px(self) -> tuple[int, int]:
        """`(width, height)`."""
        return self.picture_lat[1] * LATENT_PX, self.picture_lat[0] * LATENT_PX


def is_given(p: Any) -> bool:
    return getattr(p, "init_images", None) is not None


def give(p: Any, image: Any) -> None:
    """Makes a request of txt2img one of a picture of its gallery, which the phases depart from as from a base image."""
    p.init_images, p.resize_mode, p.denoising_strength = [image], 0, 1.0
    setattr(p, THROUGH_VAE, True)


def strength_of(p: Any) -> float:
    """Raises SettingsError: the page's slider keeps within what is allowed, a request may not."""
    value = 0.75 if p.denoising_strength is None else p.denoising_strength
    if not 0 <= value <= 1:
        raise SettingsError(f"denoising_strength is {quoted(value)}, allowed: 0 to 1")
    return float(value)


def start_of(p: Any, settings: Params) -> Start:
    """Raises SettingsError for a picture that can't be drawn from."""
    size_px = _size_px(p)
    strength_of(p)
    if is_masked(p):
        masks.check_content(p)
    by_tab = settings.scale == 1 and not settings.target_width and not settings.target_height
    if by_tab:
        settings = replace(settings, target_width=_whole(p.width), target_height=_whole(p.height))
    mode = _mode(p)
    picture_lat = _part(size_px, settings, mode)
    target = settings.target_height // LATENT_PX, settings.target_width // LATENT_PX
    if by_tab and any(length <= own for length, own in zip(target, picture_lat)):
        settings = replace(settings, target_width=0, target_height=0)
        picture_lat = _part(size_px, settings, mode)
    start = Start(settings, picture_lat, _native_lat(p), size_px, by_tab, mode, picture_lat)
    return _masked(p, start) if is_masked(p) else start


def _mode(p: Any) -> int:
    value = p.resize_mode or 0
    if value not in range(MODES):
        raise SettingsError(f"resize_mode is {quoted(value)}, allowed: 0 to {MODES - 1}")
    return int(value)


def drop_blank_mask(p: Any) -> str:
    """As the host does, which then draws as without a mask: before it does, so that everybody knows. What to tell of it."""
    if not masks.is_cropped(p) or masks.soft(p).getbbox():
        return ""
    p.image_mask = None
    return "the mask is blank, so that the whole picture is drawn"


def _masked(p: Any, start: Start) -> Start:
    """Of all of a picture, the same behind its mask. Without an end where nothing is enlarged."""
    cropped = masks.is_cropped(p)
    if cropped and start.by_tab:
        settings = replace(start.settings, target_width=0, target_height=0)
        return replace(start, settings=settings, picture_lat=start.settings.picture_lat(start.size_px[::-1]))
    try:
        result_lat = start.settings.target_lat(start.whole_lat)
    except SettingsError:
        return start  # `reach` says it in the right words
    if result_lat == start.whole_lat:
        return start
    own_lat, share_lat, area = start.whole_lat, result_lat, None
    if cropped:
        result_px = result_lat[1] * LATENT_PX, result_lat[0] * LATENT_PX
        area = Area.around(mask_of(p, start), int(p.inpaint_full_res_padding or 0), result_px)
        if area is None:
            return start
        own_lat, share_lat = area.own_lat, area.share_lat
    first_lat, last_lat = masks.drawn_lat(own_lat, share_lat, start.native_lat, cropped)
    settings = replace(start.settings, target_height=last_lat[0] * LATENT_PX, target_width=last_lat[1] * LATENT_PX)
    return replace(start, settings=settings, picture_lat=first_lat, result_lat=result_lat, masked=True, area=area)


def mask_of(p: Any, start: Start) -> Any:
    """Of the size of the picture as it is enlarged, of 8 bits."""
    return _mask(masks.soft(p), p, start)


def _mask(mask: Any, p: Any, start: Start) -> Any:
    size_px = p.init_images[0].size
    if mask.size != size_px:
        mask = images.resize_image(0, mask, *size_px)
    return _fitted(mask, start).convert("L")


def _size_px(p: Any) -> tuple[int, int]:
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
        words = str(error).removeprefix("DemoFusion: ").replace("this base image", "this picture")
        if not start.by_tab:
            told = SettingsError(words)
            told.mistakes = tuple(
                (name, text.replace("this base image", "this picture")) for name, text in error.mistakes
            )
            raise told from None
        raise SettingsError(words.replace("target_", "the tab's ").replace("allowed: 0, or", "allowed:")) from None


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
        brought = [_fitted(flattened(image), start) for image in _each(p)]
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
        p, whole, mask_of(p, start), None if other is None else _mask(other.convert("L"), p, start), start.area,
        result_px, last_px, plan.images,
    )  # fmt: skip


def _fitted(image: Any, start: Start) -> Any:
    """A picture, or its mask, of the size of what is enlarged of it."""
    width, height = start.whole_px
    if image.size != (width, height):
        fits = picture_part((image.height, image.width), None, LATENT_PX) == start.whole_lat or start.mode == CROP
        if not fits or image.width < width or image.height < height:
            image = images.resize_image(start.mode if start.mode in (CROP, FILL) else 0, image, width, height, "None")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height)) if image.size != (width, height) else image


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
