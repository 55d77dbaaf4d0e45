"""The img2img tab's picture in place of the base image: what sizes a run begins with, found from the host's processing object
whenever they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from modules import images

from .. import pictures
from ..core import picture_part
from ..params import Params
from ..setting import SettingsError, quoted
from ..targets import LATENT_PX
from . import masks
from .checkpoints import SDXL, checkpoint
from .masks import Area, is_masked

CROP, FILL, MODES = 1, 2, 4
"""Of the host's resize modes, and how many there are; the others stretch."""
NATIVE = {SDXL: 1024}
NATIVE_OTHER = 512
"""Where the host's settings name no size."""


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
    return sized(masks.soft(p), p, start)


def sized(mask: Any, p: Any, start: Start) -> Any:
    size_px = p.init_images[0].size
    if mask.size != size_px:
        mask = images.resize_image(0, mask, *size_px)
    return fitted(mask, start).convert("L")


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


def fitted(image: Any, start: Start) -> Any:
    """A picture, or its mask, of the size of what is enlarged of it."""
    width, height = start.whole_px
    if image.size != (width, height):
        fits = picture_part((image.height, image.width), None, LATENT_PX) == start.whole_lat or start.mode == CROP
        if not fits or image.width < width or image.height < height:
            image = images.resize_image(start.mode if start.mode in (CROP, FILL) else 0, image, width, height, "None")
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height)) if image.size != (width, height) else image
