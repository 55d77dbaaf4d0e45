"""Files that carry their settings as the webui's do, each whole or not there at all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..params import quoted, size_text
from .drawing import Drawing, Order
from .errors import UserError, first_line

FINAL = "final"
WRITTEN = re.compile(r"(final|phase\d+)\.(png|safetensors)|resume\.safetensors")
PROBE = 2**16
"""Bytes that there must be room for before anything is loaded."""


def infotext(drawing: Drawing, index: int) -> str:
    """Image `index`'s parameters, in the webui's form: its `Size` is the base's. What no UTF-8 can carry becomes `?`."""
    order = drawing.order
    named = {
        "Steps": order.steps, "Sampler": drawing.sampler.name, "Schedule type": drawing.scheduler,
        "CFG scale": f"{order.guidance:g}", "Seed": order.seeds[index],
        "Size": size_text(*drawing.plan.first_lat).removesuffix(" px"), **of_picture(order), "Model": drawing.model.name,
        **order.params.to_infotext(),
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


def check_folder(folder: Path) -> None:
    """Raises UserError unless pictures can be written there. A folder that isn't there yet is made and taken away again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # permissions say little: of root, of disks, of mounts
            file.write(bytes(PROBE))
        taken = [path for path in folder.glob("*.*") if WRITTEN.fullmatch(path.name) and path.is_dir()]
    except (OSError, ValueError) as error:
        raise UserError(
            f"out is {quoted(str(folder))}, which can't be written to ({reason(error)}), allowed: a folder of yours on "
            "a disk with room"
        ) from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()
    if taken:
        raise UserError(f"out is {quoted(str(folder))}, where {taken[0].name} is a folder, allowed: files of that name")


def reason(error: BaseException) -> str:
    """What the system says, without the path that it says it of."""
    return getattr(error, "strerror", None) or first_line(error)
