"""Memory that the ranks of one machine all see: what one has written there, the others read without a copy."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

SIDES = 2
"""A rank writes to the one while others may still read the other: before it comes back to that, all have met once more."""


class Room:
    """Two sides for each rank, of `size` bytes. Linux alone: where `own` is None there is none."""

    def __init__(self, size: int):
        self.size, self.turn = size, 0
        self.views: list[torch.Tensor] = []
        self.file = _made(SIDES * size)

    @property
    def named(self) -> str:
        """How other processes of the same user reach it."""
        return "" if self.file is None else f"/proc/{os.getpid()}/fd/{self.file}"

    def see(self, names: list[str]) -> bool:
        """Whether all of them can be seen."""
        try:
            self.views = [_seen(name, SIDES * self.size) for name in names]
        except (OSError, RuntimeError):
            return False
        return True

    def close(self) -> None:
        self.views = []
        if self.file is not None:
            os.close(self.file)
            self.file = None

    def sides(self, size: int) -> list[torch.Tensor]:
        """Of each rank, `size` bytes to be written and read next."""
        self.turn += 1
        start = self.turn % SIDES * self.size
        return [view[start : start + size] for view in self.views]


def _made(size: int) -> int | None:
    create: Callable[[str], int] | None = getattr(os, "memfd_create", None)
    if create is None:
        return None
    try:
        file = create("demofusion")
        os.ftruncate(file, size)
    except OSError:
        return None
    return file


def _seen(name: str, size: int) -> torch.Tensor:
    if not name:
        raise OSError("no shared memory")
    mapped: Any = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
    return mapped
