"""Ranks on this machine: forked, so that models which are loaded already are theirs, and joined by gloo."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from demofusion_lib.ranks import Ranks

Work = Callable[[Ranks | None], Any]
LIMIT = 240
"""Seconds."""
FORKS = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="models are handed on by fork")


def forked(ranks: int, folder: Path, work: Work, *, lost: Sequence[int] = (), uses: bool = True) -> list[Any]:
    """What `work` answers in each of so many processes, which are one group; 0: in one process without a group.

    lost: ranks whose answer nobody waits for. uses: or `work` says which device it is that ranks have.
    """
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    beats: Any = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=20)) if ranks else None
    port = beats.port if ranks else 0
    pipes = [context.Pipe(duplex=False) for _ in range(max(1, ranks))]
    processes = [
        context.Process(target=_rank, args=(rank, ranks, folder / "store", port, work, uses, pipe[1]), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, end in pipes:
        end.close()
    try:
        answers = [_answer(pipe) for rank, (pipe, _) in enumerate(pipes) if rank not in lost]
    finally:
        for rank, process in enumerate(processes):
            process.join(0 if rank in lost else 10)
            process.kill()
            process.join()
    for answer in answers:
        if isinstance(answer, Failed):
            raise AssertionError(answer.text)
    return answers


class Failed:
    def __init__(self, text: str):
        self.text = text


def _answer(pipe: Any) -> Any:
    if not pipe.poll(LIMIT):
        return Failed(f"no answer in {LIMIT} seconds")
    try:
        return pipe.recv()
    except EOFError:
        return Failed("the process has gone")


def _rank(rank: int, ranks: int, file: Path, port: int, work: Work, uses: bool, pipe: Any) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's
    try:
        group = None
        if ranks:
            limit = timedelta(seconds=LIMIT)
            dist.init_process_group(
                "gloo", store=dist.FileStore(str(file), ranks), rank=rank, world_size=ranks, timeout=limit
            )
            group = Ranks(store=dist.TCPStore("127.0.0.1", port, None, False, timedelta(seconds=20)))
            if uses:
                group.use(torch.device("cpu"))
        pipe.send(work(group))
        if group is not None and group.broken is None:
            group.end()
    except BaseException:
        pipe.send(Failed(f"rank {rank} of {ranks}:\n{traceback.format_exc()}"))
    pipe.close()
    os._exit(0)
