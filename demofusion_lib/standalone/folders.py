"""The folder that pictures are written to."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path

from ..params import quoted
from .errors import UserError, first_line

WRITTEN = re.compile(r"(final|phase\d+)\.(png|safetensors)|resume\.safetensors")
PROBE = 2**16
"""Bytes that there must be room for before anything is loaded."""


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
