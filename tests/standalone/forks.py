"""Ranks on this machine: forked, so that models which are loaded already are theirs, and joined by gloo."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from demofusion_lib.ranks import Ranks

Work = Callable[[Ranks | None], Any]
LIMIT = 240
"""Seconds."""


def forked(ranks: int, folder: Path, work: Work) -> list[Any]:
    """What `work` answers in each of so many processes, which are one group; 0: in one process without a group."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(max(1, ranks))]
    processes = [
        context.Process(target=_rank, args=(rank, ranks, folder / "store", work, pipe[1]), daemon=True)
        for rank, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, end in pipes:
        end.close()
    try:
        answers = [_answer(pipe) for pipe, _ in pipes]
    finally:
        for process in processes:
            process.join(10)
            process.kill()
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


def _rank(rank: int, ranks: int, file: Path, work: Work, pipe: Any) -> None:
    torch.set_num_threads(1)  # a fork has none of its parent's
    try:
        group = None
        if ranks:
            store = dist.FileStore(str(file), ranks)
            dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=LIMIT))
            group = Ranks()
            group.use(torch.device("cpu"))
        pipe.send(work(group))
        if group is not None:
            group.end()
    except BaseException:
        pipe.send(Failed(f"rank {rank} of {ranks}:\n{traceback.format_exc()}"))
    pipe.close()
    os._exit(0)
