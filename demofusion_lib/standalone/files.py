"""Files that carry their settings as the webui's do, each whole or not there at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..targets import size_text
from .drawing import Drawing, Order

FINAL = "final"


def infotext(drawing: Drawing, index: int) -> str:
    """Image `index`'s parameters, in the webui's form: its `Size` is the base's. What no UTF-8 can carry becomes `?`."""
    order = drawing.order
    named = {
        "Steps": order.steps, "Sampler": drawing.sampler.name, "Schedule type": drawing.scheduler,
        "CFG scale": f"{order.guidance:g}", "Seed": order.seeds[index],
        "Size": size_text(*drawing.plan.first_lat).removesuffix(" px"), **of_picture(order), "Model": drawing.model.name,
        **of_controls(order), **order.params.to_infotext(),
    }  # fmt: skip
    lines = [order.prompts[index]] + ([f"Negative prompt: {order.negative}"] if order.negative else [])
    text = "\n".join([*lines, ", ".join(f"{key}: {_quoted(str(value))}" for key, value in named.items())])
    return text.encode("utf-8", "replace").decode()  # a model's folder may have a name of any bytes


def _quoted(text: str) -> str:
    """As the webui writes a value that holds what its line is parted by, and reads it again."""
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text


def of_picture(order: Order) -> dict[str, object]:
    """The webui's words for it."""
    return {} if order.picture is None else {"Denoising strength": f"{order.strength:g}"}


def of_controls(order: Order) -> dict[str, object]:
    """The words of the webui's ControlNet."""
    return {
        f"ControlNet {number}": f"Module: none, Model: {one.name}, Weight: {one.scale:g}, Guidance Start: {one.start:g}, "
        f"Guidance End: {one.end:g}"
        for number, one in enumerate(order.controls)
    }


def save(images: Sequence[Image.Image], paths: Sequence[Path], drawing: Drawing, profile: bytes = b"") -> None:
    """PNGs, each whole or not there at all. profile: ICC, of their colours. Raises OSError."""
    for index, (image, path) in enumerate(zip(images, paths)):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", infotext(drawing, index))
        with replacing(path) as part:
            image.save(part, "PNG", pnginfo=info, icc_profile=profile or None)


def copy(source: Path, target: Path) -> None:
    """Whole or not at all. Raises OSError."""
    with replacing(target) as part:
        shutil.copyfile(source, part)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its name at the end and is taken away if anything goes wrong."""
    path.parent.mkdir(parents=True, exist_ok=True)  # hours after it was made
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
