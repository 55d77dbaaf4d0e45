"""Saving of images: what would be written is kept in `_saved`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

from modules import script_callbacks

_saved: list[_Saved] = []


@dataclass
class _Saved:
    image: Any
    info: str
    suffix: str
    file: str
    grid: bool


def flatten(img, bgcolor):
    if img.mode == "RGBA":
        img = Image.alpha_composite(Image.new("RGBA", img.size, bgcolor), img)
    return img.convert("RGB")


def resize_image(resize_mode, im, width, height, upscaler_name=None):
    """Stretched, cut to the shape, or whole on black."""
    if resize_mode == 0:
        return im.resize((width, height), Image.Resampling.LANCZOS)
    whole = ImageOps.fit if resize_mode == 1 else ImageOps.pad
    return whole(im, (width, height), Image.Resampling.LANCZOS)


def save_image(
    image, path, basename, seed=None, prompt=None, extension="png", info=None, short_filename=False, no_prompt=False,
    grid=False, pnginfo_section_name="parameters", p=None, existing_info=None, forced_filename=None, suffix="",
    save_to_dirs=None,
):  # fmt: skip
    too_large = max(image.size) > (16383 if extension == "webp" else 65535)
    extension = "png" if too_large and extension in ("webp", "jpg", "jpeg") else extension
    params = script_callbacks.ImageSaveParams(
        image, p, f"{path}/{len(_saved):05}-{basename}{seed}{suffix}.{extension}", {pnginfo_section_name: info}
    )
    script_callbacks.before_image_saved_callback(params)
    _saved.append(_Saved(params.image, info, suffix, params.filename, grid))
    return params.filename, None
