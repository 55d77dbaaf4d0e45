"""The img2img tab's picture as a forecast needs it: how large it is, and what the tab does with it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from PIL import Image, ImageOps

from ..params import Params
from ..setting import SettingsError, quoted
from .masks import UNSEEN

MASKED, FOLDER = (2, 3, 4), 5
"""By their places among the tabs over the picture: those with a mask, and the one of many pictures."""

UNSEEN_AREA = "told of the whole picture: of the masked area alone less is drawn"
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and those of its values that swap width and height."""


@dataclass(frozen=True)
class Picture:
    """sizes_px: `(width, height)` of each that was given, which is one but for the API; none where there is none yet.

    resize_mode, denoising_strength: the tab's. scale_by: where "Resize by" is open. folder: of the tab Batch, whose pictures
    nobody has looked at. mask: in the inpaint tabs, `masks.UNSEEN` where the page has it; else Pillow's.
    """

    sizes_px: Sequence[tuple[int, int]] = ()
    resize_mode: int = 0
    denoising_strength: float | None = 0.75
    scale_by: float | None = None
    folder: bool = False
    mask: Any = None

    def mistakes(self) -> list[SettingsError]:
        """Of what the tab's fields can be while somebody types."""
        value = self.denoising_strength
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1:
            return []
        return [SettingsError(f"denoising_strength is {quoted(value)}, allowed: 0 to 1")]

    def fields(self) -> dict[str, Any]:
        """Of the host's processing object. What stands for the pictures has their sizes alone."""
        images = [SimpleNamespace(size=size) for size in self.sizes_px]
        return {
            "init_images": images, "image_mask": self.mask, "resize_mode": self.resize_mode, "denoising_strength": self.denoising_strength,
        }  # fmt: skip

    def remarks(self, inpaint_full_res: Any) -> list[str]:
        return [UNSEEN_AREA] if self.mask is UNSEEN and inpaint_full_res else []

    def of_folder(self, settings: Params, width: int, height: int) -> str:
        """What can be said before any of its pictures is seen. width, height: the tab's own size."""
        sides = settings.target_width, settings.target_height
        if all(sides):
            to = f"to {sides[0]}x{sides[1]} px"
        elif any(sides):
            to = f"to a {'width' if sides[0] else 'height'} of {max(sides)} px"
        elif settings.scale > 1 or self.scale_by is not None:
            to = f"to {settings.scale if settings.scale > 1 else self.scale_by:g}x its own size"
        else:
            to = f"to {width}x{height} px, where that is larger"
        return f"each of the folder's pictures {to}"


def read(of_host: Mapping[str, Any], seen: Any) -> dict[str, Any]:
    """`forecast`'s arguments, from the host's components and from what the browser sees, which sends no picture: `tab`, the
    open one's place among those over the picture; `size`, `[width, height]` in pixels of the picture in it; `by`, whether
    "Resize by" is open."""
    seen = seen if isinstance(seen, Mapping) else {}
    told, tab, size = dict(of_host), seen.get("tab"), size_of(seen.get("size"))
    of_picture = {name: told.pop(name) for name in ("resize_mode", "denoising_strength", "scale_by") if name in told}
    scale_by = of_picture.pop("scale_by", None)
    if not seen.get("by") or not isinstance(scale_by, (int, float)):
        scale_by = None
    if scale_by is not None and size is not None:  # as the host has it
        told["width"], told["height"] = (int(length * scale_by) for length in size)
    told["picture"] = Picture(
        [size] if size is not None and tab != FOLDER else [],
        scale_by=scale_by, folder=tab == FOLDER, mask=UNSEEN if tab in MASKED else None, **of_picture,
    )  # fmt: skip
    return told


def size_of(value: Any) -> tuple[int, int] | None:
    """`(width, height)` in pixels, None where there is no picture."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return None
    if not all(isinstance(length, int) and length > 0 for length in value):
        return None
    return value[0], value[1]


def size_in(encoded: Any) -> tuple[int, int]:
    """`(width, height)` in pixels of a picture in base64, turned as its EXIF says; it isn't kept. Raises SettingsError."""

    def size(image: Any) -> tuple[int, int]:
        width, height = image.size
        return (height, width) if image.getexif().get(ORIENTATION) in TURNED else (width, height)

    return opened(encoded, "init_images", size)


def mask_in(encoded: Any) -> Any:
    """A mask in base64, as an image of Pillow's. Raises SettingsError."""
    return opened(encoded, "mask", ImageOps.exif_transpose)


def opened(encoded: Any, field: str, read: Callable[[Any], Any]) -> Any:
    """What `read` makes of a picture in base64. field: of the request."""
    allowed = "allowed: pictures in base64"
    if not isinstance(encoded, str):
        raise SettingsError(f"{field} holds {quoted(encoded)}, {allowed}")
    if encoded.startswith(("http://", "https://")):
        raise SettingsError(f"{field} holds an address, {quoted(encoded)}, which is not fetched here; {allowed}")
    data = encoded.partition(",")[2] if encoded.startswith("data:image/") else encoded
    try:
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            return read(image)
    except Exception:
        raise SettingsError(f"{field} holds {quoted(encoded)}, which is no whole picture; {allowed}") from None
