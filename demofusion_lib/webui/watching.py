"""What has to keep up with a phase's calls of the model."""

from __future__ import annotations

import torch

from ..core import Phase
from .hypertile import HyperTile
from .progress import Progress


class PhaseWatcher:
    """Keeps what depends on the model calls up to date: how far the phase is, and the host's HyperTile."""

    def __init__(self, progress: Progress, phase: Phase, hypertile: HyperTile, steps: int):
        self.progress = progress
        self.phase = phase
        self.hypertile = hypertile
        self.steps = steps
        self.ends = progress.step_ends(phase, steps)
        self.number = 0
        self.seen = 0

    def step(self, number: int) -> None:
        self.seen = 0 if number != self.number else self.seen
        self.number = number
        self.progress.step(self.phase, number, self.steps)
        self.progress.advance(self._rows(number) / self.ends[-1])

    def patches(self, patches: torch.Tensor) -> None:
        self.hypertile.suit(patches.shape[-2], patches.shape[-1])
        # more rows or stages than planned end the step's share early, none begins the next one's before it begins
        before, after = self._rows(self.number), self._rows(self.number + 1)
        self.progress.advance(min(before + self.seen, after) / self.ends[-1])
        self.seen += len(patches)

    def _rows(self, steps: int) -> float:
        """Of the first `steps` steps."""
        return self.ends[min(steps, self.steps) - 1] if steps else 0.0
