"""Which of an evaluation's calls of the model are whose, where several processes draw one picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Call(NamedTuple):
    """One call of the model.

    ask: makes it. rows: how many it has. shape, dtype: of its answer, `(rows, channels, height, width)`. cost: what it
    takes, in rows of the native window's size.
    """

    ask: Callable[[], torch.Tensor]
    rows: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    cost: float


class SharedOutOfMemory(RuntimeError):
    """Memory ran out in one process of several, at a call of so many `rows`: all of them are to ask for fewer at once."""

    def __init__(self, rows: int):
        self.rows = rows
        super().__init__(f"out of memory at {rows} rows")


class Share:
    """All calls are this process's own. Others divide them, and answer alike in every process that takes part.

    alone: whether there are no others. ranks: how many processes draw this picture.
    """

    alone = True
    ranks = 1

    def outputs(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        """The answers to all calls, in their order; to be read before the next are asked for. Raises SharedOutOfMemory where several processes are at it."""
        return [call.ask() for call in calls]

    def agree_(self, x: torch.Tensor) -> None:
        """Makes `x` the same in every process, in place, where they may come to others in the last bits."""

    def least(self, value: int) -> int:
        """Of what every process gives."""
        return value


ALONE = Share()


def assigned(costs: Sequence[float], speeds: Sequence[float]) -> list[int]:
    """Whose each call is, so that all are done as early as can be: each in turn, the dearest first, to whoever would have
    done it first; of several, to the lowest rank.

    costs: of the calls. speeds: of the ranks, in cost per second, above 0. Equal where equal numbers are given: every rank
    comes to the same answer by itself.
    """
    owners, loads = [0] * len(costs), [0.0] * len(speeds)
    for call in sorted(range(len(costs)), key=lambda call: -costs[call]):
        rank = min(range(len(speeds)), key=lambda rank: ((loads[rank] + costs[call]) / speeds[rank], rank))
        owners[call] = rank
        loads[rank] += costs[call]
    return owners


FIXED_COST = 0.5
"""What a call takes beside its rows, in rows: a batch of 5 draws 11 % slower than one of 16, one of 8 by 4 % (the toy on a
CPU, `python -m bench.window_batch`), and a small GPU batch leaves more of the card idle."""


def balanced_size(most: int, counts: Sequence[int], ranks: int) -> int:
    """Up to how many patches a call should have, at most `most`, for so many ranks to be done first.

    counts: the patches of each group of calls that an evaluation has. The largest size of those that are as good.
    """

    def busy(size: int) -> float:
        calls = [part + FIXED_COST for count in counts for part in split(count, size)]
        loads = [0.0] * ranks
        for call, rank in zip(calls, assigned(calls, [1.0] * ranks)):
            loads[rank] += call
        return max(loads)

    return min(range(most, 0, -1), key=busy)


def split(count: int, most: int) -> list[int]:
    """A count in the fewest parts of at most `most`, which differ by one at most."""
    parts = -(-count // most)
    return [count * (i + 1) // parts - count * i // parts for i in range(parts)]
