"""Counts the bytes of live tensors while something runs: how much memory it takes, whatever the device.

Every tensor that an operation answers is followed by a weak reference, and memory that several share is counted once.
Memory that was there before counts only where `LiveBytes.hold` is told of it. What operations allocate inside and free
again before they answer is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


def place(tensor: torch.Tensor) -> int:
    """Where a tensor's memory begins; 0 where it has none."""
    return tensor.untyped_storage().data_ptr()


class LiveBytes(TorchDispatchMode):
    """`with LiveBytes() as live: ...`; then `live.peak` is the most that was alive at once, `live.now` what still is.

    counts: only tensors of which it is true, asked when their memory is first seen.
    """

    def __init__(self, counts: Callable[[torch.Tensor], bool] = lambda tensor: True):
        super().__init__()
        self.counts = counts
        self.now = self.peak = 0
        self.sharers: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.followed: set[int] = set()
        self.operations: list[str] = []

    def hold(self, *tensors: torch.Tensor) -> None:
        """Counts these from now on, until they are gone."""
        for tensor in tensors:
            self._follow(tensor)

    def restart(self) -> None:
        """The peak begins anew, at what is alive now."""
        self.peak = self.now

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        self.operations.append(function.name())
        before = {place(value) for value in tree_flatten((given, named))[0] if isinstance(value, torch.Tensor)}
        answer = function(*given, **(named or {}))
        for tensor in tree_flatten(answer)[0]:
            if isinstance(tensor, torch.Tensor) and (place(tensor) in self.sharers or place(tensor) not in before):
                self._follow(tensor)
        return answer

    def _follow(self, tensor: torch.Tensor) -> None:
        at, name = place(tensor), id(tensor)
        if name in self.followed or not at or (at not in self.sharers and not self.counts(tensor)):
            return
        if at not in self.sharers:
            self.sharers[at], self.sizes[at] = 0, tensor.untyped_storage().nbytes()
            self.now += self.sizes[at]
            self.peak = max(self.peak, self.now)
        self.sharers[at] += 1
        self.followed.add(name)
        weakref.finalize(tensor, self._lose, name, at).atexit = False

    def _lose(self, name: int, at: int) -> None:
        self.followed.discard(name)
        self.sharers[at] -= 1
        if not self.sharers[at]:
            del self.sharers[at]
            self.now -= self.sizes.pop(at)
