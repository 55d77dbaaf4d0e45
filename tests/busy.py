"""Whether this machine had other work while something was timed: a bound on times shows nothing where it had."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

PROC = Path("/proc")
QUIET = 0.15
"""Of one processor: what others may take on a machine that counts as quiet."""


class Watch:
    """From its making on. port: of the server, on this machine, whose work is not others'; nor is this process's, nor
    what it has started.
    """

    def __init__(self, port: int | None = None):
        self.server = () if port is None else tuple(listeners(port))
        self.began, self.others_at_first = monotonic(), self._others()

    def share(self) -> float | None:
        """What others have taken, in processors. None where nobody counts it."""
        others = self._others()
        if others is None or self.others_at_first is None:
            return None
        return max(0.0, others - self.others_at_first) / max(monotonic() - self.began, 1e-9)

    def hold(self, kept: bool, told: str) -> None:
        """Of a bound on times: skips the test where it is missed and others ran too, or it can't be known whether they did."""
        if kept:
            return
        share = self.share()
        if share is None or share > QUIET:
            others = "nobody knows how much" if share is None else f"{share:.0%} of a processor"
            pytest.skip(f"missed, but other programs had {others} meanwhile: {told}")
        raise AssertionError(told)

    def _others(self) -> float | None:
        """Seconds of processors since the machine's start."""
        try:
            own = sum(seconds(pid) for pid in family((os.getpid(), *self.server)))
            user, nice, system, _, _, *interrupts = map(int, (PROC / "stat").read_text().split("\n")[0].split()[1:9])
            return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") - own
        except (OSError, ValueError, IndexError):
            return None


def fields(pid: int) -> list[str]:
    """Of a process, from its state on: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def seconds(pid: int) -> float:
    try:
        return sum(map(int, fields(pid)[11:15])) / os.sysconf("SC_CLK_TCK")
    except OSError:  # it has ended
        return 0.0


def pids() -> Iterator[int]:
    return (int(path.name) for path in PROC.iterdir() if path.name.isdigit())


def family(heads: tuple[int, ...]) -> set[int]:
    """With all that they have started."""
    parents = {}
    for pid in pids():
        try:
            parents[pid] = int(fields(pid)[1])
        except OSError:
            continue
    found = set(heads)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listeners(port: int) -> Iterator[int]:
    """Processes of this machine that listen at a port."""
    try:
        rows = [line.split() for line in (PROC / "net" / "tcp").read_text().splitlines()[1:]]
    except OSError:
        return
    sockets = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port}
    for pid in pids():
        try:
            opened = {os.readlink(path) for path in (PROC / str(pid) / "fd").iterdir()}
        except OSError:
            continue
        if opened & sockets:
            yield pid
