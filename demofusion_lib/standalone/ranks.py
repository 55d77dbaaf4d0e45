"""Several processes that draw one picture: started by torchrun, or by a program that has joined them itself."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..ranks import RankError, RankLost, Ranks
from ..saved import ResumeError, SavedPhase, read
from .errors import UserError, first_line
from .keeping import own_file
from .started import NEEDED, is_one_of_several

JOINING, STORE = timedelta(minutes=5), timedelta(seconds=20)
"""As long as ranks wait for each other at the beginning, and for an answer of the store that their signs of life are in."""
FAILED = 1
Made = TypeVar("Made")


def run_joined(work: Callable[[Ranks | None], int]) -> int:
    """The exit code of `work`, which is given the ranks, or None. What the others say goes nowhere, but for a fault of theirs.

    Raises UserError where ranks can't be joined.
    """
    if not is_one_of_several():
        return work(None)
    ranks, code = join(), FAILED
    with contextlib.nullcontext() if ranks.is_first else silent():
        try:
            code = work(ranks)
            ranks.end()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else FAILED
        except (RankLost, RankError):
            pass  # the one that failed tells why
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
    ranks.beats.end()
    if ranks.broken is not None:  # what would be waited for never comes
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)
    dist.destroy_process_group()
    return code


def join() -> Ranks:
    """By what torchrun has told. Raises UserError."""
    try:
        if not dist.is_available():
            raise RuntimeError("this torch is built without torch.distributed")
        dist.init_process_group("gloo", timeout=JOINING)
        return Ranks(store=store())
    except (RuntimeError, ValueError) as error:
        raise UserError(f"ranks are {os.environ['WORLD_SIZE']}, which can't be joined ({first_line(error)})") from error


def of_program() -> Ranks | None:
    """Of a program that has called `torch.distributed.init_process_group`; None where there are no others."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() < 2:
        return None
    return _of_group(id(dist.group.WORLD))


@functools.lru_cache(maxsize=1)
def _of_group(key: int) -> Ranks:
    """One for all pictures: ranks that are joined once stay so."""
    return Ranks(store=store())


def store() -> Any:
    """A connection of its own to where the ranks have met; None where that is no TCP store."""
    told, known = os.environ, vars(dist)
    if not all(told.get(name) for name in NEEDED):
        return None
    try:
        made = known["TCPStore"](told["MASTER_ADDR"], int(told["MASTER_PORT"]), None, False, STORE)
    except (RuntimeError, ValueError):
        return None
    return known["PrefixStore"](f"demofusion {told.get('TORCHELASTIC_RESTART_COUNT', 0)}", made)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def together(ranks: Ranks | None, work: Callable[[], Made]) -> Made:
    """What all ranks do, or none."""
    return work() if ranks is None else ranks.together(work)


def told(ranks: Ranks | None, make: Callable[[], Made]) -> Made:
    """What the first process finds, for all."""
    return make() if ranks is None else ranks.told(make)


def each(ranks: Ranks | None, made: Iterator[Made]) -> Iterator[Made]:
    """What comes, one by one: where it fails in one rank, it does in all."""
    end = object()
    while True:
        found: Any = together(ranks, lambda: next(made, end))
        if found is end:
            return
        yield found


def device_of(name: str, ranks: Ranks | None) -> str:
    """Each rank's own card, of those on its machine. Raises UserError for one that all would take."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if ranks is None:
        return name
    if name.startswith("cuda:") and local > 1:
        raise UserError(
            f"device is {name!r}, allowed with {local} ranks on a machine: auto, cuda (a card for each), cpu"
        )
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return name


def use(ranks: Ranks | None, device: torch.device) -> None:
    """Raises UserError for devices that can't draw one picture."""
    if ranks is not None and not (ranks.knows and ranks.device == device):
        try:
            ranks.use(device)
        except ValueError as error:
            raise UserError(str(error)) from error


def check_shared(ranks: Ranks | None, samplers: Mapping[str, str]) -> None:
    """samplers: each one's function, by name. Raises UserError for what unlike devices can't draw together."""
    if ranks is None or not ranks.unlike:
        return
    for name, solver in samplers.items():
        if solver == "sample_dpm_adaptive":
            raise UserError(
                f"sampler is {name!r}, whose steps depend on the last bits of a picture: with unlike ranks (devices, "
                "numbers of threads or versions of torch) any other is allowed"
            )


def left_behind(
    ranks: Ranks | None, folder: Path, made_of: Callable[[], Mapping[str, str]]
) -> tuple[Path, SavedPhase] | None:
    """What the same ranks had saved before torchrun started them again; None where this is their first start."""
    if ranks is None or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        return None
    return ranks.told(lambda: _read(own_file(folder, made_of())))


def _read(path: Path) -> tuple[Path, SavedPhase] | None:
    try:
        return (path, read(path)) if path.exists() else None
    except ResumeError:
        return None
