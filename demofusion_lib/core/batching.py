"""How many patches the model gets at once: the largest batch that fits and pays, halved where memory runs out.

What is compiled or captured for one shape (`torch.compile`, CUDA graphs, TensorRT) is prepared anew for every other: the
patches of a phase come in calls of one size where a batch divides them, else in as few calls as go, of two sizes next to
each other. No row is drawn to fill a call up.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PAYS = 16
"""A larger batch of native windows draws no faster (`python -m bench.window_batch`)."""
MODEST = 4
"""Where free memory is not known, or the model can't be measured."""
SHARE = 0.6
"""Of the free memory: allocators split it into pieces, and libraries take work space that no tensor shows."""
FEWEST = 8
"""For the sake of calls of one size no batch is made smaller than this where more fits: it draws 4 % slower than one of 16
(the toy on a CPU), one of 5 by 11 %."""
TRIAL = (1, 1, 2)
"""The chunks that a run begins with while it measures. What the first call allocates for good is not the batch's."""

NO_MEMORY = (
    "out of memory",  # CUDA, ROCm, MPS
    "out_of_memory",
    "can't allocate memory",  # a CPU under Linux
    "cannot allocate memory",
    "not enough memory",  # under Windows
    "not enough gpu video memory",  # DirectML
    "alloc_failed",  # cuBLAS and cuDNN, whose work space no longer fits
    "invalid buffer size",  # MPS
)

Ask = Callable[[int, int], torch.Tensor]
"""`ask(start, stop)`: the model's outputs for these patches of a row of patches of one shape."""
Take = Callable[[int, int, torch.Tensor], None]
"""`take(start, stop, outputs)`: is given each output once, in order."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Python itself, says that memory ran out, on any device."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in NO_MEMORY)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors on a device that are made, and of those that are still alive, while it is on.

    Two tensors that share their memory count once, one that was there before not at all. It follows tensors by weak
    references, and tells storages by their address: the Python object of a storage does not live as long as it does.
    """

    def __init__(self, device: torch.device):
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.now = self.peak = 0
        self._tensors: dict[int, weakref.ref[torch.Tensor]] = {}
        self._storages: dict[int, tuple[int, int]] = {}  # how many tensors share it, and its bytes

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            if tensor.device == self.device and id(tensor) not in self._tensors:
                place = address(tensor)
                given = () if place in self._storages else tensors_in((args, kwargs))
                if all(address(one) != place for one in given):
                    self._follow(tensor)
        return result

    def _follow(self, tensor: torch.Tensor) -> None:
        key, storage = id(tensor), address(tensor)
        count, size = self._storages.get(storage, (0, 0))
        if not count:
            size = tensor.untyped_storage().nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
        self._storages[storage] = count + 1, size
        self._tensors[key] = weakref.ref(tensor, lambda _: self._lose(key, storage))

    def _lose(self, key: int, storage: int) -> None:
        del self._tensors[key]
        count, size = self._storages.pop(storage)
        if count > 1:
            self._storages[storage] = count - 1, size
        else:
            self.now -= size


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Of an operation's arguments or results. By hand: it is asked twice for each of a model's thousand operations."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return []
    return [tensor for part in value for tensor in tensors_in(part)]


def address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def call_size(left: int, alike: int, most: int) -> int:
    """How many patches the next call is given, of `left` that are left of an evaluation's; at most `most`.

    alike: a number of which every evaluation of the phase has a multiple. The largest batch that divides it is taken, within
    reason (`FEWEST`), so that all calls of a phase are of one size; else so many are cut into the fewest calls, whose sizes
    differ by one at most. Where more than so many fit at once, all that are left are.
    """
    size = max(size for size in range(1, most + 1) if alike % size == 0)
    block = left % alike or alike
    if size >= min(most, FEWEST):
        return min(size, block)
    rest = left if alike < most else block
    return math.ceil(rest / math.ceil(rest / most))


class WindowBatch:
    """How many patches the model gets at once. One object serves all phases of a run.

    wanted: a number, 1 or more; 0 for the largest batch that fits and pays. Then `size` is None until the first patches
        have been measured, alone and in pairs: their model calls tell the bytes that a patch takes. Where memory is
        plentiful the size found is always the same, so that a run can be drawn again bit for bit.
    free_bytes: how many bytes the device could still give, None where nobody knows; asked once, after the measuring.
    free: gives back to the device what is only kept for later; called before patches are tried again.

    size: may be set before a run, as a resumed one does, to what another object ended with. In patches of the native
        window's size or less; a found size is scaled down by area for larger ones.
    reduced: `(from, to)` where memory ran out: the patches of the call that failed first, and the size since. Else None.

    Raises ValueError for a negative number.
    """

    def __init__(
        self,
        wanted: int = 0,
        *,
        free_bytes: Callable[[], int | None] = lambda: None,
        free: Callable[[], object] = lambda: None,
    ):
        if wanted < 0:
            raise ValueError(f"window batch is {wanted}, allowed: 0 (automatic) or more")
        self.automatic = wanted == 0
        self.size: int | None = wanted or None
        self.free_bytes = free_bytes
        self.free = free
        self.reduced: tuple[int, int] | None = None

    def work(
        self, count: int, area: float, device: torch.device, ask: Ask, take: Take, alike: int | None = None
    ) -> None:
        """Asks for `count` patches of one shape, in chunks; `area` is theirs over a native window's.

        alike: as in `call_size`, `count` unless told.

        Where `ask` runs out of memory, the same patches are asked for again in chunks of half the size, and so are all
        later ones. Raises what `ask` raises, an error of memory only where it can't do with one patch.
        """
        done = 0
        if self.size is None:
            done = self._measure(count, area, device, ask, take)
        while done < count:
            stop = done + call_size(count - done, alike or count, self.rows(area))
            done = stop if self._attempt(ask, take, done, stop, area) else done

    def chunks(self, count: int, area: float, alike: int) -> list[tuple[int, int]]:
        """What `work` would ask for one after the other, where the size is known and memory suffices."""
        found, done = [], 0
        while done < count:
            stop = done + call_size(count - done, alike, self.rows(area))
            found.append((done, stop))
            done = stop
        return found

    def measure(self, count: int, area: float, device: torch.device, ask: Ask) -> None:
        """Sets the size by what the first of `count` patches take, whose answers nobody is given."""
        if self.size is None:
            self._measure(count, area, device, ask, lambda start, stop, outputs: None)

    def halve(self, tried: int, area: float) -> None:
        """After `tried` patches were too many. Raises ValueError where that was one."""
        if tried < 2:
            raise ValueError("a single patch is too many")
        self._halve(tried, area)

    def rows(self, area: float) -> int:
        """How many patches of `area` native windows each the model may get at once; 1 where nothing is known yet."""
        size = self.size or 1
        return max(1, math.floor(size / area)) if self.automatic and area > 1 else size

    def largest(self, count: int, alike: int, area: float) -> int:
        """The most of `count` patches that the model gets at once; `alike` as in `call_size`."""
        return call_size(count, alike, self.rows(area))

    def _attempt(self, ask: Ask, take: Take, start: int, stop: int, area: float) -> bool:
        """Whether it was done. The error and all that hangs on its traceback is gone when this returns."""
        try:
            outputs = ask(start, stop)
        except Exception as error:
            if stop - start == 1 or not is_out_of_memory(error):
                raise
            error.__traceback__ = error.__context__ = error.__cause__ = None  # whoever keeps it, keeps no tensors
        else:
            take(start, stop, outputs)
            return True
        self._halve(stop - start, area)
        return False

    def _halve(self, tried: int, area: float) -> None:
        rows = tried // 2
        self.size = math.ceil(rows * area) if self.automatic and area > 1 else rows
        self.reduced = (self.reduced or (tried, rows))[0], self.size
        self.free()

    def _measure(self, count: int, area: float, device: torch.device, ask: Ask, take: Take) -> int:
        """Works on the first patches in small chunks, and sets the size. Answers how many it has done."""
        if count < sum(TRIAL):
            return 0
        done, peaks = 0, []
        for rows in TRIAL:
            measured = Measured(ask, device)
            if not self._attempt(measured if done else ask, take, done, done + rows, area):
                return done
            done += rows
            peaks.append(measured.peak)
        self.size = self._fitting(peaks, area)
        return done

    def _fitting(self, peaks: list[int], area: float) -> int:
        """The size for the bytes that the chunks of `TRIAL` took."""
        free = self.free_bytes()
        _, one, two = peaks
        if free is None or one <= 0 or two <= 0:
            return MODEST
        each = two - one if two > one else two  # a model that cuts its work up takes no more for two
        fixed = max(0, one - each)
        return max(1, min(PAYS, math.floor((SHARE * free - fixed) / (each / area))))


class Measured:
    """An `Ask` whose allocations on the device are counted. `peak` is 0 where they can't be."""

    def __init__(self, ask: Ask, device: torch.device):
        self.ask = ask
        self.device = device
        self.peak = 0

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        try:
            with LiveBytes(self.device) as live:
                outputs = self.ask(start, stop)
        except Exception as error:
            if is_out_of_memory(error):
                raise
        else:
            self.peak = live.peak
            return outputs
        # a model that can't be watched, or an error of its own, which then comes again
        return self.ask(start, stop)
