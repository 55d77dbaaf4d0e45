"""What goes between ranks, counted, and waited for with an eye on whether they are alive."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from .errors import RankLost

SPIN, LONGEST_PAUSE = 200, 0.002
"""How often a rank looks at once whether the others are done, and seconds between two looks after that."""


@dataclass(frozen=True)
class Word:
    """What every rank tells all others when they meet.

    at: a number for what it is at, which is the same for all. state: one of the states in `group`. rows, cost, seconds: the
    model's that it has done since they last met, and how long that took. value: whatever is asked for. text: why it failed.
    """

    at: int
    state: int = 0
    rows: int = 0
    value: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    text: str = ""

    FORM: ClassVar[str] = "<4q2d"
    SIZE: ClassVar[int] = 256

    def packed(self) -> torch.Tensor:
        numbers = struct.pack(self.FORM, self.at, self.state, self.rows, self.value, self.cost, self.seconds)
        text = self.text.encode()[: self.SIZE - len(numbers)]
        return torch.tensor(list((numbers + text).ljust(self.SIZE, b"\0")), dtype=torch.uint8)

    @classmethod
    def unpacked(cls, values: torch.Tensor) -> Word:
        data = bytes(values.tolist())
        split = struct.calcsize(cls.FORM)
        at, state, rows, value, cost, seconds = struct.unpack(cls.FORM, data[:split])
        return cls(at, state, rows, value, cost, seconds, data[split:].rstrip(b"\0").decode(errors="ignore"))


class Wire:
    """control: a group of gloo's. lost: why the ranks can't be counted on, or None.

    data: the group that tensors go through, from `device`; on_device: whether that is a card. calls, sent, received: how
    many collective operations and bytes there have been, of this rank; shared: bytes seen where they are (`room`).
    """

    def __init__(self, control: Any, lost: Callable[[], str | None]):
        self.control, self.data, self.lost = control, control, lost
        self.device, self.on_device = torch.device("cpu"), False
        self.rank, self.ranks = dist.get_rank(control), dist.get_world_size(control)
        self.calls = self.sent = self.received = self.shared = 0

    def meet(self, word: Word) -> list[Word]:
        """Everybody's words, by rank."""
        return [Word.unpacked(values) for values in self._gathered(word.packed(), self.control)]

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Everybody's values `(bytes,)`, of one size and on this rank's own device."""
        there = values.to(self.device)
        return [one.to(values.device) for one in self._gathered(there, self.data)]

    def broadcast(self, values: torch.Tensor, source: int) -> torch.Tensor:
        """The source's values; of the others their shape and type alone are looked at."""
        there = values.contiguous().to(self.device)
        flat = there.view(-1).view(torch.uint8)
        flat = flat.clone() if flat.data_ptr() == values.data_ptr() else flat
        self._count(flat.numel() if self.rank == source else 0, 0 if self.rank == source else flat.numel())
        self._do(lambda: dist.broadcast(flat, dist.get_global_rank(self.data, source), group=self.data, async_op=True))
        return flat.view(values.dtype).view(values.shape).to(values.device)

    def gather_words(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Everybody's values on the CPU, of one shape."""
        return self._gathered(values, self.control)

    def swap(self, to: Sequence[tuple[int, torch.Tensor]], of: Sequence[tuple[int, torch.Tensor]]) -> None:
        """Sends values to ranks and writes theirs into the tensors `of`; all contiguous, and on their way at once."""
        coming = [(rank, self._there(torch.empty_like(values))) for rank, values in of]
        going = [(rank, self._there(values)) for rank, values in to]
        if not coming and not going:
            return
        self._count(sum(nbytes(values) for _, values in to), sum(nbytes(values) for _, values in of))
        if self.on_device:  # in one go, else sends that wait for each other stand in each other's way
            operations = [dist.P2POp(dist.irecv, values, self._global(rank), self.data) for rank, values in coming]
            operations += [dist.P2POp(dist.isend, values, self._global(rank), self.data) for rank, values in going]
            begin: Any = dist.batch_isend_irecv
            works = list(begin(operations))
        else:
            works = [dist.irecv(values, self._global(rank), group=self.data) for rank, values in coming]
            works += [dist.isend(values, self._global(rank), group=self.data) for rank, values in going]
        self._wait(All(works) if self.on_device else Waited(works))
        for (_, values), (_, target) in zip(coming, of):
            target.view(-1).view(torch.uint8).copy_(values)

    def _there(self, values: torch.Tensor) -> torch.Tensor:
        """Its bytes where they go from or come to."""
        flat = values.view(-1).view(torch.uint8)
        return flat.to(self.device)

    def _global(self, rank: int) -> int:
        return dist.get_global_rank(self.data, rank)

    def _gathered(self, values: torch.Tensor, group: Any) -> list[torch.Tensor]:
        found = [torch.empty_like(values) for _ in range(self.ranks)]
        self._count(nbytes(values), nbytes(values) * (self.ranks - 1))
        self._do(lambda: dist.all_gather(found, values, group=group, async_op=True))
        return found

    def _count(self, sent: int, received: int) -> None:
        self.calls += 1
        self.sent += sent
        self.received += received

    def _do(self, begin: Callable[[], Any]) -> None:
        """Raises RankLost."""
        try:
            work = begin()
        except RuntimeError as error:
            raise gone(error) from error
        self._wait(work)

    def _wait(self, work: Any) -> None:
        looks = 0
        while not work.is_completed():
            lost = self.lost()
            if lost is not None:
                raise RankLost(lost)
            looks += 1
            time.sleep(0 if looks < SPIN else LONGEST_PAUSE)
        try:
            work.wait()
        except RuntimeError as error:
            raise gone(error) from error


class All:
    """Several works as one."""

    def __init__(self, works: Sequence[Any]):
        self.works = works

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self.works)

    def wait(self) -> None:
        for work in self.works:
            work.wait()


class Waited(All):
    """Of sends and receipts of gloo's, which don't tell before they are waited for: a thread does."""

    def __init__(self, works: Sequence[Any]):
        super().__init__(works)
        self.error: RuntimeError | None = None
        self.thread = threading.Thread(target=self._run, name="swap", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            super().wait()
        except RuntimeError as error:
            self.error = error

    def is_completed(self) -> bool:
        return not self.thread.is_alive()

    def wait(self) -> None:
        self.thread.join()
        if self.error is not None:
            raise self.error


def gone(error: RuntimeError) -> RankLost:
    return RankLost(f"a rank has gone ({(str(error).splitlines() or ['no reason'])[0][:120]})")


def nbytes(values: torch.Tensor) -> int:
    return values.numel() * values.element_size()
