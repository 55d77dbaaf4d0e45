"""Saving of images: what would be written is kept in `_saved`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_saved: list[_Saved] = []


@dataclass
class _Saved:
    image: Any
    info: str
    suffix: str


def save_image(
    image, path, basename, seed=None, prompt=None, extension="png", info=None, short_filename=False, no_prompt=False,
    grid=False, pnginfo_section_name="parameters", p=None, existing_info=None, forced_filename=None, suffix="",
    save_to_dirs=None,
):  # fmt: skip
    _saved.append(_Saved(image, info, suffix))
    return f"{path}/{basename}{seed}{suffix}.{extension}", None
