"""The ranks of a `torch.distributed` group that draw one picture."""

from __future__ import annotations

import math
import os
import pickle
import platform
import zlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from time import perf_counter
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..core import Call, Share, SharedOutOfMemory, is_out_of_memory
from ..core.sharing import assigned
from .beats import Beats
from .errors import RankError, RankLost
from .room import Room
from .wire import Wire, Word

WELL, STOPPED, NO_MEMORY, FAILED = range(4)
"""States of a rank where they meet."""
FOR_EVER = timedelta(days=7)
"""Nobody knows how long a phase takes: whether ranks are alive is told by their beats, and by the connections to them."""
RISES = 1.25
"""By how much at once a rank is taken to be slower than it was. It is believed to be faster at once: what else a machine has
to do only ever makes it slower."""
FORGETS = 0.9
"""What becomes of the time that a rank is said to take where it is given nothing: it shall not stay without work for ever."""
Made = TypeVar("Made")


class Ranks(Share):
    """One picture's calls of the model and tiles of the VAE, divided over the ranks by how fast each has been.

    Every rank runs the same program and calls the same methods in the same order. What an evaluation's calls answer is the
    same tensors in all of them. group: one of `torch.distributed`, all of it if None. store: for signs of life (`beats`);
    None for none.

    asked: whether its user wants the run to end: all ranks then raise KeyboardInterrupt where they next meet. heeds: or not.
    on_others: told how many rows other ranks have evaluated.
    knows: whether it knows the ranks' devices (`use`).
    rows: how many the model was given by each rank. broken: why nothing can be shared any more, or None. unlike: whether
    the ranks' devices are of more than one kind. beside: how many of them are on this rank's machine, itself too.
    """

    alone = False

    def __init__(self, *, group: Any = None, store: Any = None):
        self.members = members_of(group)
        control = dist.new_group(
            self.members, backend="gloo", timeout=FOR_EVER, use_local_synchronization=group is not None
        )
        self.rank, self.ranks = dist.get_rank(control), dist.get_world_size(control)
        self.device, self.knows, self.unlike, self.beside = torch.device("cpu"), False, False, 1
        self.beats = Beats(store, self.rank, self.ranks)
        self.wire = Wire(control, lambda: self.beats.lost)
        self.asked: Callable[[], bool] = lambda: False
        self.heeds = True
        self.on_others: Callable[[int], None] = lambda rows: None
        self.broken: str | None = None
        self.rows = [0] * self.ranks
        self.seconds: list[float | None] = [None] * self.ranks
        self.warm: set[int] = set()
        self.sees = False
        self.room: Room | None = None
        self.turn = 0
        self._agreed: BaseException | None = None
        self.beats.begin()
        self.meet("begin")

    def use(self, device: torch.device) -> None:
        """device: this rank's. Raises ValueError for ranks that can't draw one picture."""
        kinds = [(word.text, word.value) for word in self.meet("kinds", value=number(kind(device)), text=device.type)]
        places = {word.value for word in self.meet("places", value=number(place(device)))}
        machines = [word.value for word in self.meet("machines", value=number(platform.node()))]
        self.beside = machines.count(machines[self.rank])
        self.sees = device.type == "cpu" and self.ranks == self.beside > 1 and hasattr(os, "memfd_create")
        types = sorted({text for text, _ in kinds})
        if len(types) > 1:
            raise ValueError(f"the ranks' devices are {' and '.join(types)}, allowed: all of one kind")
        self.device, self.knows, self.unlike = device, True, len(set(kinds)) > 1
        if device.type == "cuda" and dist.is_nccl_available() and len(places) == self.ranks:
            torch.cuda.set_device(device)
            self.wire.data = dist.new_group(self.members, backend="nccl")
            self.wire.device, self.wire.on_device = device, True

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def speeds(self) -> list[float]:
        """Of each rank, in rows of the native size a second; of those never measured, the others' mean."""
        known = [seconds for seconds in self.seconds if seconds is not None]
        mean = sum(known) / len(known) if known else 1.0
        return [1 / (mean if seconds is None else seconds) for seconds in self.seconds]

    def outputs(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        owners = assigned([call.cost for call in calls], self.speeds)
        mine = [call for call, owner in zip(calls, owners) if owner == self.rank]
        cost, begun = sum(call.cost for call in mine), perf_counter()
        made, error = self._asked(mine, cost)
        word = {"rows": sum(call.rows for call in mine), "cost": cost, "seconds": perf_counter() - begun}
        tried = mine[len(made)].rows if error is not None and len(made) < len(mine) else 0
        words = self.meet("calls", error, value=tried, **word)
        self._learn(words)
        return self._exchanged(calls, owners, made)

    def _asked(self, mine: Sequence[Call], cost: float) -> tuple[list[torch.Tensor], BaseException | None]:
        made: list[torch.Tensor] = []
        known = self.seconds[self.rank]
        try:
            with self.beats.work(None if known is None else known * cost):
                for call in mine:
                    made.append(call.ask())
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
        except BaseException as error:
            return made, error
        return made, None

    def _learn(self, words: Sequence[Word]) -> None:
        for rank, word in enumerate(words):
            self.rows[rank] += word.rows
            known = self.seconds[rank]
            if word.cost == 0:
                self.seconds[rank] = None if known is None else known * FORGETS
                continue
            if rank not in self.warm:  # the first call prepares what the next ones find
                self.warm.add(rank)
                continue
            found = max(word.seconds, 1e-9) / word.cost
            self.seconds[rank] = found if known is None else min(found, known * RISES)
        others = sum(word.rows for rank, word in enumerate(words) if rank != self.rank)
        if others:
            self.on_others(others)

    def _exchanged(
        self, calls: Sequence[Call], owners: Sequence[int], made: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """All answers, from every rank's own, which go round in pieces of one size."""
        sizes = [math.prod(call.shape) * call.dtype.itemsize for call in calls]
        most = max(sum(size for size, owner in zip(sizes, owners) if owner == rank) for rank in range(self.ranks))
        sides = self._sides(most)
        own = torch.empty(most, dtype=torch.uint8, device=self.device) if sides is None else sides[self.rank]
        at = 0
        for values in made:
            flat = values.contiguous().view(-1).view(torch.uint8)
            own[at : at + flat.numel()] = flat
            at += flat.numel()
        if sides is None:
            gathered = self._guarded(lambda: self.wire.gather(own))
        else:
            gathered = sides
            self.wire.shared += most * (self.ranks - 1)
            self.meet("written")
        ends = [0] * self.ranks
        found = []
        for call, owner, size in zip(calls, owners, sizes):
            part = gathered[owner][ends[owner] : ends[owner] + size]
            ends[owner] += size
            found.append(aligned(part, call.dtype).view(call.shape))
        return found

    def _sides(self, most: int) -> list[torch.Tensor] | None:
        """Memory that all ranks see, where they are on one machine and reckon on its processor; else None."""
        if not self.sees:
            return None
        if self.room is None or self.room.size < most:
            self._close()
            self.room = Room(most * 5 // 4)  # shares shift from step to step
            names = [word.text for word in self.meet("room", text=self.room.named)]
            self.sees = bool(self.least(int(self.room.see(names))))
        return self.room.sides(most) if self.sees else None

    def _close(self) -> None:
        if self.room is not None:
            self.room.close()
            self.room = None

    def least(self, value: int) -> int:
        return min(word.value for word in self.meet("least", value=value))

    def swap(self, to: Sequence[tuple[int, torch.Tensor]], of: Sequence[tuple[int, torch.Tensor]]) -> None:
        """Sends values to ranks, and writes what they send into the tensors `of`. Every rank calls it, and knows of all."""
        self._guarded(lambda: self.wire.swap(to, of))

    def lists(self, values: torch.Tensor) -> torch.Tensor:
        """Every rank's float64 `(n, columns)` on the CPU, one below the other; those of no rows may have any columns."""
        words = self.meet("lists", value=len(values), rows=0, cost=0.0)
        lengths = [word.value for word in words]
        columns = -self.least(-values.shape[1])
        padded = torch.zeros(max(lengths), columns, dtype=torch.float64)
        padded[: len(values)] = values if len(values) else padded[:0]
        gathered = self._guarded(lambda: self.wire.gather_words(padded))
        return torch.cat([one[:length] for one, length in zip(gathered, lengths)])

    def agree_(self, x: torch.Tensor) -> None:
        """The first rank's, where the ranks are unlike."""
        if self.unlike:
            x.copy_(self.of_first(x))

    def of_first(self, values: torch.Tensor) -> torch.Tensor:
        """The first rank's values in all of them; of the others' the shape and the type count."""
        return self._guarded(lambda: self.wire.broadcast(values, 0))

    def together(self, work: Callable[[], Made], name: str = "work") -> Made:
        """What every rank does for itself. Where one fails, all do: its own error there, RankError in the others."""
        made: list[Made] = []
        error: BaseException | None = None
        try:
            made.append(work())
        except BaseException as caught:
            if isinstance(caught, RankLost) or caught is self._agreed:
                raise
            error = caught
        self.meet(name, error)
        return made[0]

    def first_does(self, work: Callable[[], Made], name: str = "work") -> Made | None:
        """What the first rank does alone, for all: where it fails, all do. None in the others."""
        if self.broken is not None:
            return work() if self.is_first else None
        return self.together(lambda: work() if self.is_first else None, name)

    def told(self, make: Callable[[], Made]) -> Made:
        """What the first rank makes, of anything that can be pickled, in all of them."""
        made = self.first_does(lambda: pickle.dumps(make()), "tell") or b""
        length = max(word.value for word in self.meet("length", value=len(made)))
        data = torch.frombuffer(bytearray(made.ljust(length, b"\0")), dtype=torch.uint8)
        found: Made = pickle.loads(bytes(self.of_first(data.to(self.device)).tolist()))
        return found

    def made_once(self, make: Callable[[], torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """What the first rank makes, in all of them; it is of the shape, type and device of `like`."""
        made = self.first_does(make, "make")
        return self.of_first(like if made is None else made.to(like))

    def meet(self, name: str, error: BaseException | None = None, **word: Any) -> list[Word]:
        """Waits for all ranks. Raises `error` again, or what tells of another's."""
        self.turn += 1
        told = {"text": self._told(error)} if error is not None else {}
        mine = Word(number(f"{name} {self.turn}"), self._state(error), **{**word, **told})
        try:
            words = self._guarded(lambda: self.wire.meet(mine))
        except RankLost:
            if error is not None and not isinstance(error, KeyboardInterrupt):
                raise error from None
            raise
        try:
            self._judge(words, error)
        except BaseException as agreed:
            self._agreed = agreed
            raise
        return words

    def _state(self, error: BaseException | None) -> int:
        if isinstance(error, KeyboardInterrupt) or (error is None and self.heeds and self.asked()):
            return STOPPED
        if error is None:
            return WELL
        return NO_MEMORY if is_out_of_memory(error) else FAILED

    @staticmethod
    def _told(error: BaseException) -> str:
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

    def _judge(self, words: Sequence[Word], error: BaseException | None) -> None:
        states = [word.state for word in words]
        if FAILED in states:
            rank = states.index(FAILED)
            if error is not None and self._state(error) == FAILED:
                raise error
            raise RankError(f"rank {rank} failed ({words[rank].text})")
        if STOPPED in states:
            raise KeyboardInterrupt
        if NO_MEMORY in states:
            rows = [word.value for word in words if word.state == NO_MEMORY]
            if error is not None and min(rows) < 2:
                raise error
            raise SharedOutOfMemory(min(rows))
        if len({word.at for word in words}) > 1:
            self.broken = "the ranks are not at the same work"
            raise RankLost(self.broken)

    def _guarded(self, work: Callable[[], Made]) -> Made:
        if self.broken is not None:
            raise RankLost(self.broken)
        try:
            return work()
        except RankLost as error:
            self.broken = str(error)
            raise

    def end(self) -> None:
        """All ranks are done."""
        try:
            if self.broken is None:
                self.heeds = False
                self.meet("end")
        finally:
            self._close()
            self.beats.end()


def aligned(part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes as values: a copy, where they begin between two."""
    return (part if part.storage_offset() % dtype.itemsize == 0 else part.clone()).view(dtype)


def members_of(group: Any) -> list[int]:
    known: Any = dist
    return list(range(dist.get_world_size())) if group is None else known.get_process_group_ranks(group)


def number(text: str) -> int:
    """Of a text, for those that need only know whether theirs are the same."""
    return zlib.crc32(text.encode())


def place(device: torch.device) -> str:
    """Which card it is, of all machines."""
    return f"{platform.node()} {os.environ.get('CUDA_VISIBLE_DEVICES', '')} {device}"


def kind(device: torch.device) -> str:
    """What decides on the last bits of a result, as far as it can be told."""
    if device.type == "cuda":
        return f"{torch.__version__} {torch.cuda.get_device_name(device)}"
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    return f"{torch.__version__} {platform.machine()} {capability} {torch.get_num_threads()}"
