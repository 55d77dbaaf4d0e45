"""What a run that was ended goes on from: the latent of its last finished phase, in a file.

A safetensors file that any reader of that format can open. What it says of itself is checked before anything is made of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from .setting import SettingsError, quoted
from .targets import LATENT_PX, MAX_SCALE

VERSION = 1
"""Of the format. A file of a higher one is refused; a change that an older reader would misread raises it."""
FORMAT, PHASE, WINDOW_BATCH, MADE_OF, CHECKSUM = (
    f"demofusion {name}" for name in ("format", "phase", "window batch", "made of", "checksum")
)
TENSORS = ("latent", "mean", "deviation")
CHANNELS = 4
MOST_HEADER = 2**24  # bytes: prompts of any sensible length, and nothing that hurts
MOST_SIDE_LAT = int(16384 * MAX_SCALE) // LATENT_PX
MOST_PHASE = 100
TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
TOLD_NAMES = 8
ALLOWED = "the file that a run with save_phases has left behind"


class ResumeError(SettingsError):
    """A file to go on from that can't be used: one line naming the setting, the file and why. A ValueError."""

    def __init__(self, path: str | os.PathLike[str], why: str):
        super().__init__(f"resume is {quoted(os.fspath(path))}, which {why}")


@dataclass(frozen=True)
class SavedPhase:
    """A finished phase, and all that the phases after it need.

    number: 1 for the base image. latent: `(batch, 4, height, width)` as that phase ended, of the base image uncropped.
    mean, deviation: `(batch, 1, 1, 1)`, those of phase 1, which every phase is brought back to (`core.climb`'s anchor).
    window_batch: how many windows the model got at once; 0 if that isn't known.
    made_of: all that the picture depends on, name by name, in words that only the host reads.
    """

    number: int
    latent: torch.Tensor
    mean: torch.Tensor
    deviation: torch.Tensor
    window_batch: int
    made_of: Mapping[str, str]

    @property
    def anchor(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.mean, self.deviation


def write(path: str | os.PathLike[str], saved: SavedPhase, more: Mapping[str, str] | None = None) -> None:
    """Replaces the file whole or leaves it as it was, through a crash of the machine too.

    more: texts for the file's other readers, by name.
    Raises OSError, and ValueError for a phase that `read` would refuse: it must not take a good one's place.
    """
    path = Path(path)
    tensors = {name: getattr(saved, name).detach().to("cpu").contiguous() for name in TENSORS}
    _check(saved.number, tensors)
    fields = {
        **(more or {}), FORMAT: str(VERSION), PHASE: str(saved.number), WINDOW_BATCH: str(saved.window_batch),
        MADE_OF: json.dumps(dict(saved.made_of)),
    }  # fmt: skip
    if not all(isinstance(text, str) for text in saved.made_of.values()):
        raise ValueError("what it is made of are no texts")
    if len(json.dumps(fields)) > MOST_HEADER - 4096:
        raise ValueError(f"what it is made of has more than {MOST_HEADER - 4096} characters")
    data = save(tensors, {**fields, CHECKSUM: _checksum(fields, tensors)})
    path.parent.mkdir(parents=True, exist_ok=True)  # hours after it was made
    part = part_of(path)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
    _sync_folder(path.parent)


def _check(number: int, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError for what no phase ends with."""
    latent = tensors["latent"]
    if latent.ndim != 4 or latent.shape[1] != CHANNELS or max(latent.shape[2:]) > MOST_SIDE_LAT:
        raise ValueError(f"its latent is {tuple(latent.shape)}")
    for name in TENSORS[1:]:
        if tensors[name].shape != (len(latent), 1, 1, 1):
            raise ValueError(f"its {name} is {tuple(tensors[name].shape)}")
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPES.values():
            raise ValueError(f"its {name} is {tensor.dtype}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"its {name} is not finite")
    if not 1 <= number <= MOST_PHASE:
        raise ValueError(f"its phase is {number}")


def part_of(path: Path) -> Path:
    """The name beside `path` that it is written under. One that a killed process has left is written over."""
    return path.with_name(f"{path.name}.part")


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too, where a system can be asked for that."""
    with contextlib.suppress(OSError, AttributeError):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove(path: str | os.PathLike[str]) -> None:
    """Of a run that has ended well. One that isn't there, or can't be removed, is no fault."""
    for file in (Path(path), part_of(Path(path))):
        with contextlib.suppress(OSError):
            file.unlink()


def read(path: str | os.PathLike[str]) -> SavedPhase:
    """What `write` wrote, bit for bit, on the CPU. Raises ResumeError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
            raise ResumeError(path, f"is no file, allowed: {ALLOWED}")
        with open(path, "rb") as file:
            return _Reader(path, file, os.fstat(file.fileno()).st_size).read()
    except FileNotFoundError as error:
        raise ResumeError(path, f"is not there, allowed: {ALLOWED}") from error
    except ResumeError:
        raise
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a name that can't be one
        raise ResumeError(path, f"can't be read ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """The names of what two runs are made of that differ, or that one of them lacks, in order."""
    return [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]


def check_made_of(path: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Raises ResumeError if there are names that differ: the picture would be neither run's."""
    differing = list(names)
    if differing:
        more = f" and {len(differing) - TOLD_NAMES} more" if len(differing) > TOLD_NAMES else ""
        shown = ", ".join(name if name.isprintable() else quoted(name) for name in differing[:TOLD_NAMES])
        raise ResumeError(path, f"was made with another {shown}{more}")


def _checksum(fields: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Of everything in the file: each bit of a latent is a cell's, and each of a field may be a seed's."""
    digest = hashlib.blake2b(digest_size=32)
    digest.update(json.dumps([[name, fields[name]] for name in sorted(fields)]).encode())
    for name in TENSORS:
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Reader:
    """Of one file. Nothing is made in memory that is larger than the file is."""

    def __init__(self, path: str | os.PathLike[str], file: BufferedReader, size: int):
        self.path, self.file, self.size = path, file, size

    def read(self) -> SavedPhase:
        header = self._header()
        fields = header.pop("__metadata__", {})
        self._check_ours(fields)
        if set(header) != set(TENSORS):
            raise self._damaged(f"it holds {quoted(sorted(header))}")
        for name, entry in header.items():
            if not isinstance(entry, dict) or not _are_sizes(entry.get("data_offsets"), 2):
                raise self._damaged(f"its {name} is {quoted(entry)}")
        tensors = {name: self._tensor(*placed) for name, placed in self._placed(header).items()}
        stated = fields.pop(CHECKSUM, None)
        if stated != _checksum(fields, tensors):
            raise self._damaged("its checksum is another")
        return self._checked(fields, tensors)

    def _damaged(self, why: str) -> ResumeError:
        return ResumeError(self.path, f"is damaged ({why})")

    def _foreign(self) -> ResumeError:
        return ResumeError(self.path, f"is damaged or another kind of file, allowed: {ALLOWED}")

    def _header(self) -> dict[str, Any]:
        length = int.from_bytes(self.file.read(8), "little")
        if self.size < 10 or not 2 <= length <= MOST_HEADER:
            raise self._foreign()
        if length > self.size - 8:
            raise self._damaged("it ends early")
        self.begin = 8 + length
        try:
            header = json.loads(self.file.read(length).decode())
        except (ValueError, RecursionError) as error:
            raise self._foreign() from error
        if not isinstance(header, dict):
            raise self._foreign()
        return header

    def _check_ours(self, fields: Any) -> None:
        if not isinstance(fields, dict) or FORMAT not in fields:
            raise self._foreign()
        if not all(isinstance(value, str) for value in fields.values()):
            raise self._damaged("its fields are no texts")
        version = self._number(fields, FORMAT, 10**9)
        if version > VERSION:
            raise ResumeError(self.path, f"has the newer format {version}, allowed: up to {VERSION}")

    def _number(self, fields: Mapping[str, str], name: str, most: int) -> int:
        text = fields.get(name, "")
        if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= most):
            raise self._damaged(f"its {name.removeprefix('demofusion ')} is {quoted(text)}")
        return int(text)

    def _placed(self, header: Mapping[str, Any]) -> dict[str, tuple[torch.dtype, list[int], int]]:
        """Type, shape and place of each tensor. Compared with the file's size before any is made: they may be anything."""
        placed, end = {}, self.begin
        for name in sorted(TENSORS, key=lambda name: _place(header[name])):
            entry = header[name]
            kind, shape, (begin, stop) = entry.get("dtype"), entry.get("shape"), _place(entry)
            known = isinstance(kind, str) and kind in TYPES and _are_sizes(shape, 4)
            fills = known and 0 < math.prod(shape) * TYPES[kind].itemsize == stop - begin
            if not fills or self.begin + begin != end:
                raise self._damaged(f"its {name} is {quoted(entry)}")
            placed[name] = TYPES[kind], shape, end
            end = self.begin + stop
        if end != self.size:
            raise self._damaged(f"it has {self.size} bytes of {end}")
        return placed

    def _tensor(self, dtype: torch.dtype, shape: list[int], begin: int) -> torch.Tensor:
        data = bytearray(math.prod(shape) * dtype.itemsize)
        self.file.seek(begin)
        if self.file.readinto(data) != len(data):
            raise self._damaged("it ends early")
        return torch.frombuffer(data, dtype=dtype).view(shape)

    def _checked(self, fields: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> SavedPhase:
        """A checksum says that it was written so, not by whom."""
        number = self._number(fields, PHASE, MOST_PHASE)
        try:
            _check(number, tensors)
        except ValueError as error:
            raise self._damaged(str(error)) from error
        window_batch = self._number(fields, WINDOW_BATCH, 10**9)
        return SavedPhase(number, **tensors, window_batch=window_batch, made_of=self._made_of(fields))

    def _made_of(self, fields: Mapping[str, str]) -> dict[str, str]:
        try:
            made_of = json.loads(fields.get(MADE_OF, ""))
        except (ValueError, RecursionError) as error:
            raise self._damaged("what it is made of can't be read") from error
        if not isinstance(made_of, dict) or not all(isinstance(value, str) for value in made_of.values()):
            raise self._damaged("what it is made of are no texts")
        return made_of


def _place(entry: Mapping[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    return begin, end


def _are_sizes(values: Any, count: int) -> bool:
    return isinstance(values, list) and len(values) == count and all(type(v) is int and 0 <= v < 2**63 for v in values)
