"""Latents of finished phases in memory, for a later run to go on from: the newest, up to so many MB.

They lie on the CPU: a base image of SDXL takes a quarter of a MB, its phase of 4096 px four.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ..saved import SavedPhase
from .options import HELD_MB

MOST_PICTURES = 4096


@dataclass(frozen=True)
class Held:
    """told: what the infotext had been told by then, beside our own settings."""

    phase: SavedPhase
    told: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        latent = self.phase.latent
        return latent.numel() * latent.element_size()


@dataclass(frozen=True)
class Origin:
    """Where a picture comes from: base images that were drawn at once, by their fingerprint, and which of them."""

    key: str
    image: int = 0
    images: int = 1

    @property
    def root(self) -> str:
        """What phases that this picture alone goes through are held under."""
        return self.key if self.images == 1 else f"{self.key}#{self.image}"


class Store:
    def __init__(self) -> None:
        self.phases: OrderedDict[str, Held] = OrderedDict()
        self.pictures: OrderedDict[str, Origin] = OrderedDict()
        """By their infotext, which is all that the page knows of a picture in its gallery."""

    @property
    def bytes(self) -> int:
        return sum(held.bytes for held in self.phases.values())

    def put(self, key: str, held: Held) -> None:
        """One that has no room at all drives nothing out."""
        if held.bytes > most_bytes():
            return
        self.phases[key] = held
        self.phases.move_to_end(key)
        self.trim()

    def get(self, key: str) -> Held | None:
        """What is asked for counts as new again."""
        if key in self.phases:
            self.phases.move_to_end(key)
        return self.phases.get(key)

    def trim(self) -> None:
        """The oldest go."""
        most = most_bytes()
        while self.phases and self.bytes > most:
            self.phases.popitem(last=False)
        while len(self.pictures) > MOST_PICTURES:
            self.pictures.popitem(last=False)

    def name(self, infotext: str, origin: Origin) -> None:
        text = _short(infotext)
        self.pictures[text] = origin
        self.pictures.move_to_end(text)

    def origin(self, infotext: str) -> Origin | None:
        return self.pictures.get(_short(infotext))

    def clear(self) -> None:
        self.phases.clear()
        self.pictures.clear()


def most_bytes() -> int:
    return int(HELD_MB.value * 2**20)


def _short(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


STORE = Store()
"""Of the process, whatever Reload UI does."""
