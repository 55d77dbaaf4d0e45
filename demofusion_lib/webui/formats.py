"""Pictures that are larger than the chosen file format can hold."""

from __future__ import annotations

import os
from typing import Any

from modules import shared
from PIL import Image, PngImagePlugin

LIMITS_PX = {"webp": 16383, "jpg": 65500, "jpeg": 65500}
"""The longest side each format can hold; the others' limits are out of reach."""


def too_large(size_px: tuple[int, int]) -> str | None:
    """The name of the chosen format if it can't hold a picture of `(width, height)`."""
    name = str(shared.opts.samples_format).lower()
    return name if max(size_px) > LIMITS_PX.get(name, max(size_px)) else None


class SavedAsPNG(Image.Image):
    """Where it is asked for as a format that can't hold it, a picture becomes a PNG with its infotext.

    The host does so itself when it writes a file, but not when the API encodes an answer: there the whole run was lost.
    """

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        if max(self.size) > LIMITS_PX.get(str(format).lower(), max(self.size)):
            info = PngImagePlugin.PngInfo()
            info.add_text("parameters", self.info.get("parameters", ""))
            return super().save(fp, "PNG", pnginfo=info)
        return super().save(fp, format, **params)


def name_by_size(params: Any) -> None:
    """Before the host writes a file (`ImageSaveParams`): it takes a JPEG for one that holds 65535 px a side."""
    root, extension = os.path.splitext(params.filename)
    if max(params.image.size) > LIMITS_PX.get(extension.lower().lstrip("."), max(params.image.size)):
        params.filename = f"{root}.png"


def make_savable(images: list[Any]) -> None:
    """Lets every picture of an answer be encoded, grids included, and be read again: Pillow takes files of more than twice
    so many pixels for an attack, and the page's "Send to" and "Save" would have none of them."""
    for image in images:
        if Image.MAX_IMAGE_PIXELS is not None and isinstance(image, Image.Image):
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, image.width * image.height)
        if type(image) is Image.Image and too_large(image.size):
            image.__class__ = SavedAsPNG
