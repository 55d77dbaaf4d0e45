"""The file of the last finished phase, beside the pictures, while a run is under way."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from ..saved import ResumeError, SavedPhase, read, remove, write
from .drawing import Finished
from .errors import told
from .folders import reason
from .resuming import FILE, is_same_run
from .telling import NAME


def own_file(folder: Path, made_of: Mapping[str, str]) -> Path:
    """Where no other run has left what it can go on from: `resume.safetensors`, `resume-2.safetensors` and so on."""
    stem, ending = os.path.splitext(FILE)
    names = itertools.chain([FILE], (f"{stem}-{n}{ending}" for n in itertools.count(2)))
    return next(path for path in (folder / name for name in names) if not path.exists() or is_of(path, made_of))


def is_of(path: Path, made_of: Mapping[str, str]) -> bool:
    """Whether a file is one of this run's. One that can't be read is nobody's."""
    try:
        return is_same_run(read(path).made_of, made_of)
    except ResumeError:
        return True


def saved_phase(phase: Finished, index: int, window_batch: int, made_of: Mapping[str, str]) -> SavedPhase:
    """One image of a phase."""
    latent, mean, deviation = (tensor[index : index + 1] for tensor in (phase.latent, *phase.anchor))
    return SavedPhase(phase.number, latent.contiguous(), mean, deviation, window_batch, made_of)


class Keeper:
    """wanted: whether phases are saved. made_of: of the run. source: the file that it goes on from, and that one's phase."""

    def __init__(self, folder: Path, made_of: Mapping[str, str], wanted: bool, source: tuple[Path, int] | None = None):
        self.path, self.made_of, self.wanted = own_file(folder, made_of), made_of, wanted
        self.kept = source

    def saved(self, phase: Finished, window_batch: int) -> SavedPhase:
        return saved_phase(phase, 0, window_batch, self.made_of)

    def keep(self, phase: Finished, window_batch: int, *, lost: bool = False) -> str:
        """What to tell the user: why it could not be written, or nothing. What was there before stays then.

        lost: it is nowhere else, so it is written in any case, unless a later one is there.
        """
        later = self.kept is not None and self.kept[1] >= phase.number
        if self.kept == (self.path, phase.number) or (later if lost else not self.wanted):
            return ""
        try:
            write(self.path, self.saved(phase, window_batch))
        except Exception as error:  # no reason to end a run
            why = reason(error) if isinstance(error, OSError) else told(error)
            return f"phase {phase.number} can't be saved in {self.path.name} ({why})"
        self.kept = self.path, phase.number
        return ""

    def end_well(self) -> None:
        """It is needed no more. One that lies elsewhere, or that another run has taken the name of since, is its owner's."""
        here = self.kept is not None and os.path.abspath(self.kept[0]) == os.path.abspath(self.path)
        if here and is_of(self.path, self.made_of):
            remove(self.path)
        self.kept = None

    def report(self) -> dict[str, object] | None:
        return None if self.kept is None else {"file": str(self.kept[0]), "phase": self.kept[1]}

    def hint(self) -> str:
        """How to go on."""
        if self.kept is None:
            return ""
        path, number = self.kept
        return f"{NAME} --resume {shlex.quote(str(path))} goes on from phase {number}"
