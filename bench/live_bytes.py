"""Live tensor bytes, counted operation by operation: no allocator need tell them, so that it works on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from demofusion_lib.vae import coding, planes


class LiveBytes(TorchDispatchMode):
    """Knows every storage that an operation made while it was on, and whether it still lives.

    stored: of planes, by way of `planes.Store`. answers: results. Both are kept out of `peak`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.stored: dict[int, int] = {}
        self.answers: set[int] = set()
        self.files: dict[Any, int] = {}
        self.peak = self.store_peak = self.held = 0
        self.making = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        taken = {_key(value) for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)}
        for value in tree_flatten(made)[0]:
            if isinstance(value, torch.Tensor) and _key(value) not in taken:
                storage = value.untyped_storage()
                self.live[_key(value)] = (StorageWeakRef(storage), storage.nbytes())
                if self.making:
                    self.stored[_key(value)] = storage.nbytes()
                else:
                    self.held += storage.nbytes()
        if self.held > self.peak:  # at most, for some of it may be gone
            self.count()
        return made

    def count(self) -> None:
        self.live = {key: entry for key, entry in self.live.items() if not entry[0].expired()}
        self.stored = {key: size for key, size in self.stored.items() if key in self.live}
        self.answers &= set(self.live)
        self.held = sum(
            size for key, (_, size) in self.live.items() if key not in self.stored and key not in self.answers
        )
        self.peak = max(self.peak, self.held)
        self.store_peak = max(self.store_peak, sum(self.stored.values()) + sum(self.files.values()))


def _key(value: torch.Tensor) -> int:
    return value.untyped_storage()._cdata


@contextmanager
def counted() -> Iterator[LiveBytes]:
    """Counts what runs inside."""
    make, drop, answer = planes.Store._make, planes.Store.drop, coding.new_answer
    counter = LiveBytes()

    def made(self: Any, shape: Any, dtype: torch.dtype) -> Any:
        counter.making = True
        try:
            plane = make(self, shape, dtype)
        finally:
            counter.making = False
        if isinstance(plane, planes.FilePlane):
            counter.files[plane] = planes.nbytes(shape, dtype)
        counter.count()
        return plane

    def dropped(self: Any, plane: Any) -> None:
        drop(self, plane)
        if isinstance(plane, planes.FilePlane):
            counter.files.pop(plane, None)

    def answered(*given: Any) -> torch.Tensor:
        counter.making = True
        try:
            made = answer(*given)
        finally:
            counter.making = False
        counter.stored.pop(_key(made))
        counter.answers.add(_key(made))
        return made

    planes.Store._make, planes.Store.drop, coding.new_answer = made, dropped, answered  # type: ignore[method-assign]
    try:
        with counter:
            yield counter
    finally:
        planes.Store._make, planes.Store.drop, coding.new_answer = make, drop, answer  # type: ignore[method-assign]
