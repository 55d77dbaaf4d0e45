"""Ctrl-C, and what a system sends in its place."""

from __future__ import annotations

import signal
import threading
from time import monotonic
from types import FrameType, TracebackType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
ONE_PRESS = 1.0
"""Seconds."""


class Stops:
    """Answers SIGINT, SIGTERM and SIGHUP while it is entered; those that the process was told to ignore stay ignored.

    Each raises KeyboardInterrupt on the spot. While `gentle`, the first one is only noted, for `check`: what a decoder
    or a file has cost is not thrown away; and those that follow at once count as one with it, since a key is pressed
    more than once and a parent passes on what the terminal has sent already. While `deaf`, none does anything.
    """

    def __init__(self) -> None:
        self.asked = self.gentle = self.deaf = False
        self._before: dict[int, Any] = {}
        self._last = -ONE_PRESS

    def __enter__(self) -> Stops:
        if threading.current_thread() is threading.main_thread():  # no other may set them
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._answer)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self.deaf:
            return
        now, before = monotonic(), self._last
        first, self.asked, self._last = not self.asked, True, now
        if not self.gentle or not (first or now - before < ONE_PRESS):
            raise KeyboardInterrupt

    def end(self) -> None:
        """None does anything from here to the end of the process, where Python puts the system's own answers back."""
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def check(self) -> None:
        """Raises KeyboardInterrupt if one has come."""
        if self.asked:
            raise KeyboardInterrupt
