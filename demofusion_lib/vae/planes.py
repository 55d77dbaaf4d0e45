"""Where layers lie while they are worked on: on the device, in host memory or in files that nobody else sees."""

from __future__ import annotations

import copy
import ctypes
import errno
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch

from .lanes import Lane, lane_of
from .program import Shape
from .tiles import Tile

CHUNK = 1 << 30
"""Bytes that are read or written in one call: some systems take no more than 2 GiB."""


class Readable(Protocol):
    """endless: of a picture whose edges meet; cells beyond them can be read."""

    shape: Shape
    dtype: torch.dtype
    endless: bool

    def read(self, tile: Tile) -> torch.Tensor:
        """`(height, width, channels)` on the device; it may be a view, and is not to be written to."""


class Writable(Protocol):
    def write(self, tile: Tile, values: torch.Tensor) -> None: ...


class Plane(Readable, Writable, Protocol):
    """A layer `(height, width, channels)`: rows lie one after the other, and a band of them in one piece."""

    def flush(self) -> None:
        """What was written is there."""

    def narrowed(self, channels: int) -> Plane:
        """The same room for fewer channels, written from its first row on, where this one was read already."""

    def become(self, channels: int) -> None:
        """What was written by way of `narrowed`."""

    def close(self) -> None: ...


def itemsize(dtype: torch.dtype) -> int:
    return torch.finfo(dtype).bits // 8


def nbytes(shape: Shape, dtype: torch.dtype) -> int:
    return shape.values * itemsize(dtype)


class DevicePlane:
    endless = False

    @classmethod
    def holding(cls, values: torch.Tensor) -> DevicePlane:
        """A tensor `(height, width, channels)`."""
        return cls(Shape(*values.shape), values.dtype, values.device, values.contiguous().flatten())

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device, room: torch.Tensor | None = None):
        self.shape, self.dtype, self.device = shape, dtype, device
        self.room = torch.empty(shape.values, dtype=dtype, device=device) if room is None else room

    def _at(self, tile: Tile) -> torch.Tensor:
        values = self.room[: self.shape.values].view(self.shape)
        return values[tile.top : tile.bottom, tile.left : tile.right]

    def read(self, tile: Tile) -> torch.Tensor:
        return self._at(tile)

    def write(self, tile: Tile, values: torch.Tensor) -> None:
        self._at(tile).copy_(values)

    def flush(self) -> None:
        pass

    def narrowed(self, channels: int) -> DevicePlane:
        return DevicePlane(self.shape._replace(channels=channels), self.dtype, self.device, self.room)

    def become(self, channels: int) -> None:
        self.shape = self.shape._replace(channels=channels)

    def close(self) -> None:
        self.room = torch.empty(0)


class HostPlane(DevicePlane):
    """In host memory, of a device that has its own."""

    def __init__(self, shape: Shape, dtype: torch.dtype, lane: Lane, room: torch.Tensor | None = None):
        super().__init__(shape, dtype, torch.device("cpu"), room)
        self.lane = lane
        if room is None:
            lane.pin(self.room)

    def read(self, tile: Tile) -> torch.Tensor:
        return self.lane.fetch(self._at(tile))

    def write(self, tile: Tile, values: torch.Tensor) -> None:
        self.lane.send(values, self._at(tile))

    def flush(self) -> None:
        self.lane.settle()

    def narrowed(self, channels: int) -> HostPlane:
        return HostPlane(self.shape._replace(channels=channels), self.dtype, self.lane, self.room)

    def close(self) -> None:
        if self.room.numel():
            self.lane.unpin(self.room)
        super().close()


class FilePlane:
    """Read and written by position; the file has no name, so that not even a killed process leaves it behind."""

    endless = False

    def __init__(self, shape: Shape, dtype: torch.dtype, lane: Lane, folder: str):
        self.shape, self.dtype, self.lane, self.folder = shape, dtype, lane, folder
        self.pending: list[tuple[Tile, torch.Tensor, Any]] = []
        try:
            self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _no_file(error, folder) from error

    def read(self, tile: Tile) -> torch.Tensor:
        """A band in one go; of a tile that is cut across, its whole rows, and of them its columns."""
        rows = self.lane.room(tile.height, self.shape.width, self.shape.channels, dtype=self.dtype)
        self.file.seek(self._offset(tile.top, 0))
        view, done = _bytes(rows), 0
        while done < len(view):
            got = self.file.readinto(view[done : done + CHUNK])
            if not got:
                raise OSError(errno.EIO, "the VAE's file ended early", self.folder)
            done += got
        return self.lane.fetch(rows[:, tile.left : tile.right])

    def write(self, tile: Tile, values: torch.Tensor) -> None:
        """Where copies lag, what was written before goes to the disk now, and this while the next tile is reckoned."""
        self.flush()
        if not self.lane.lags:
            self._write(tile, values.cpu())
            return
        host = self.lane.room(*values.shape, dtype=values.dtype)
        self.pending.append((tile, host, self.lane.send(values, host)))

    def flush(self) -> None:
        while self.pending:
            tile, host, sent = self.pending.pop(0)
            self.lane.arrived(sent)
            self._write(tile, host)

    def _write(self, tile: Tile, host: torch.Tensor) -> None:
        if tile.width == self.shape.width:
            self._put(tile.top, 0, host)
            return
        for row in range(tile.height):
            self._put(tile.top + row, tile.left, host[row])

    def _put(self, row: int, column: int, values: torch.Tensor) -> None:
        values = values.contiguous()
        view, done = _bytes(values), 0
        try:
            self.file.seek(self._offset(row, column))
            while done < len(view):
                done += self.file.write(view[done : done + CHUNK])
        except OSError as error:
            raise _no_file(error, self.folder) from error

    def _offset(self, row: int, column: int) -> int:
        return (row * self.shape.width + column) * self.shape.channels * itemsize(self.dtype)

    def narrowed(self, channels: int) -> FilePlane:
        other = copy.copy(self)
        other.shape, other.pending = self.shape._replace(channels=channels), []
        return other

    def become(self, channels: int) -> None:
        self.shape = self.shape._replace(channels=channels)
        self.file.truncate(nbytes(self.shape, self.dtype))

    def close(self) -> None:
        self.lane.settle()
        self.file.close()


class Given:
    """What is worked on, `(channels, height, width)`, wherever it lies: read alone."""

    endless = False

    def __init__(self, values: torch.Tensor, dtype: torch.dtype, device: torch.device):
        channels, height, width = values.shape
        self.shape, self.dtype, self.device = Shape(height, width, channels), dtype, device
        self.values = values.permute(1, 2, 0)

    def read(self, tile: Tile) -> torch.Tensor:
        part = self.values[tile.top : tile.bottom, tile.left : tile.right]
        return part.to(self.device, self.dtype).contiguous()


def new_answer(batch: int, shape: Shape, dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """`(batch, channels, height, width)`."""
    return torch.empty(batch, shape.channels, shape.height, shape.width, dtype=dtype, device=device)


class Answer:
    """The result, `(channels, height, width)`, wherever it is to lie: written, and read where processes hand it on."""

    def __init__(self, values: torch.Tensor):
        self.values = values.permute(1, 2, 0)
        self.shape = Shape(*self.values.shape)

    def read(self, tile: Tile) -> torch.Tensor:
        return self.values[tile.top : tile.bottom, tile.left : tile.right]

    def write(self, tile: Tile, values: torch.Tensor) -> None:
        self.values[tile.top : tile.bottom, tile.left : tile.right] = values.to(self.values.device)


def _no_file(error: OSError, folder: str) -> OSError:
    return OSError(error.errno, f"the VAE's layers can't be laid in a file ({error.strerror})", folder)


def _bytes(values: torch.Tensor) -> memoryview:
    """A tensor's own memory. It lives while the tensor does."""
    size = values.numel() * values.element_size()
    return memoryview((ctypes.c_char * size).from_address(values.data_ptr())).cast("B")


class Store:
    """Makes planes of one kind, and knows those that are open.

    kind: `device`, `host` or `file`.
    """

    def __init__(self, kind: str, device: torch.device, folder: str = ""):
        self.kind, self.device, self.folder = kind, device, folder
        self.lane = lane_of(device)
        self.planes: list[Plane] = []

    def new(self, shape: Shape, dtype: torch.dtype) -> Plane:
        plane = self._make(shape, dtype)
        self.planes.append(plane)
        return plane

    def _make(self, shape: Shape, dtype: torch.dtype) -> Plane:
        if self.kind == "file":
            return FilePlane(shape, dtype, self.lane, self.folder)
        if self.kind == "host":
            return HostPlane(shape, dtype, self.lane)
        return DevicePlane(shape, dtype, self.device)

    def drop(self, plane: Plane | Given | None) -> None:
        """Nobody reads it any more."""
        for own in self.planes:
            if own is plane:
                self.planes.remove(own)
                own.close()
                return

    def close(self) -> None:
        for plane in self.planes:
            plane.close()
        self.planes.clear()


@contextmanager
def opened(kind: str, device: torch.device, folder: str = "") -> Iterator[Store]:
    """Whatever happens inside, no plane outlives it."""
    with ExitStack() as stack:
        store = Store(kind, device, folder)
        stack.callback(store.close)
        yield store
