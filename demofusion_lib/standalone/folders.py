"""The folder that pictures are written to."""

from __future__ import annotations

import contextlib
import itertools
import re
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from ..setting import quoted
from .errors import UserError, first_line

WRITTEN = re.compile(r"(final|phase\d+)(?:-(?P<number>[1-9]\d*))?\.(png|safetensors)|resume\.safetensors")
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


def suffix(number: int) -> str:
    """Behind the names of a picture's files: nothing for the first in a folder."""
    return "" if number == 1 else f"-{number}"


def written(folder: Path) -> Iterator[tuple[int, Path]]:
    """The pictures' files in a folder, each with its picture's number."""
    for path in folder.glob("*.*"):
        match = WRITTEN.fullmatch(path.name)
        if match and not path.name.startswith("resume"):
            yield int(match["number"] or 1), path


def numbers(folder: Path, count: int, *, overwrite: bool) -> list[int]:
    """Of so many pictures: those that no files have yet, unless they may be overwritten."""
    taken = set() if overwrite else {number for number, _ in written(folder)}
    return list(itertools.islice((number for number in itertools.count(1) if number not in taken), count))


def remove_stale(folder: Path, number: int, kept: Collection[Path]) -> None:
    """What an earlier run has left under this number beside what is kept."""
    for other, path in list(written(folder)):
        if other == number and path not in kept:
            with contextlib.suppress(OSError):
                path.unlink()
