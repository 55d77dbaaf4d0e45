"""Whether the other ranks are alive: each counts on in a store that all can read, and looks whether the others do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

EVERY, SILENCE = 2.0, 25.0
"""Seconds between two beats, and without one until a rank is given up."""
PATIENCE = 30.0
"""Seconds at the least that a rank gives its own work, before it takes itself for hung and falls silent."""
TIMES = 10.0
"""As many times as long as its work is likely to take."""


class Beats:
    """A thread beside the work. `lost` says why the others can't be counted on any more; None as long as they can.

    store: a `torch.distributed` store that all ranks reach. None: nobody is watched.
    """

    def __init__(self, store: Any, rank: int, ranks: int):
        self.store, self.rank, self.ranks = store, rank, ranks
        self.lost: str | None = None
        self._due: float | None = None
        self._ended = threading.Event()
        self._seen = {other: (b"", monotonic()) for other in range(ranks) if other != rank}
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def begin(self) -> None:
        if self.store is not None:
            self._beat(0)
            self._thread.start()

    def end(self) -> None:
        self._ended.set()

    @contextmanager
    def work(self, seconds: float | None) -> Iterator[None]:
        """Work that is likely to take so long; None where nobody knows, and it may take for ever."""
        self._due = None if seconds is None else monotonic() + max(PATIENCE, TIMES * seconds)
        try:
            yield
        finally:
            self._due = None

    def _run(self) -> None:
        count = 0
        while not self._ended.wait(EVERY) and self.lost is None:
            count += 1
            try:
                if self._due is None or monotonic() < self._due:
                    self._beat(count)
                self._look(list(self._seen))
            except Exception as error:  # a store's own kinds of error
                if not self._ended.is_set():
                    self.lost = f"the ranks' store can't be reached ({str(error).splitlines()[0][:120]})"

    def _beat(self, count: int) -> None:
        self.store.set(f"beat {self.rank}", str(count))

    def _look(self, others: Sequence[int]) -> None:
        beats = self.store.multi_get([f"beat {other}" for other in others])
        now = monotonic()
        for other, beat in zip(others, beats):
            before, since = self._seen[other]
            if beat != before:
                self._seen[other] = beat, now
            elif now - since > SILENCE:
                self.lost = f"rank {other} has given no sign of life for {SILENCE:g} seconds"
