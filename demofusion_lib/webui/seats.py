"""Where the engine sits while a phase is sampled: what a host's samplers ask in place of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from ..core import Evaluation, Looking
from .placed import RegionConds

Padding = Callable[[Looking], AbstractContextManager[None]]
"""`padding(now)`: makes the model's own padding right for what it is given, while it is."""


class Watcher(Protocol):
    """Told of the model calls within a phase, before each."""

    def step(self, number: int) -> None:
        """A step begins, the first is 0."""

    def patches(self, patches: torch.Tensor) -> None:
        """The model is about to be given `patches (n, channels, height, width)`."""


class Beside(Protocol):
    """What else the UNet is called with."""

    @property
    def modules(self) -> Sequence[torch.nn.Module]: ...

    def following(self, now: Looking) -> AbstractContextManager[None]:
        """Makes it right for what the UNet is given, while it is."""


class Fused(Protocol):
    """Answers for the whole latent by asking the model for parts of it."""

    @property
    def calls(self) -> int:
        """Of the host's, in this phase."""

    @property
    def regions(self) -> RegionConds | None:
        """The prompts of parts of the picture."""

    def begin(self, evaluation: Evaluation, level: torch.Tensor) -> None:
        """A new evaluation of the guided denoiser. level: the host's, on the CPU."""


class Seat(Protocol):
    @property
    def fused(self) -> Fused: ...

    def leave(self) -> None:
        """Puts back what was there."""
