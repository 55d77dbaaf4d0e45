"""The pictures of one command: its prompts, each as often as it is wanted, with their seeds."""

from __future__ import annotations

import os
import secrets
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..setting import PROMPT_CHARACTERS, quoted
from .errors import UserError

STDIN = "-"
ALLOWED = "a text file in UTF-8 with a prompt a line, or - for standard input"
RANDOM_SEEDS = 2**32
"""As the webui draws them."""


def check_series(args: Namespace) -> None:
    """Without reading anything. Raises UserError."""
    named = [name for name in ("prompts", "count", "batch", "overwrite") if getattr(args, name)]
    if args.resume and named:
        value = getattr(args, named[0])
        told = "given" if value is True else quoted(value)
        raise UserError(f"{named[0]} is {told}, allowed without resume alone: that goes on with one picture")
    if args.prompts is not None and args.prompt:
        raise UserError(f"prompts is {quoted(args.prompts)}, allowed without a prompt beside it")
    if args.prompts not in (None, STDIN) and not os.path.isfile(args.prompts):
        raise UserError(f"prompts is {quoted(args.prompts)}, which is no file, allowed: {ALLOWED}")
    if (args.batch or 1) > 1 and args.save_phases:
        raise UserError(f"batch is {args.batch}, allowed with save_phases: 1")


def read_prompts(args: Namespace) -> list[str]:
    """Raises UserError."""
    if args.prompts is None:
        return [args.prompt or ""]
    try:
        if args.prompts == STDIN:
            raw = b"" if sys.stdin is None else sys.stdin.buffer.read()
        else:
            raw = Path(args.prompts).read_bytes()
        lines = raw.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise UserError(
            f"prompts is {quoted(args.prompts)}, which can't be read ({reason}), allowed: {ALLOWED}"
        ) from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"prompts is {quoted(args.prompts)}, which has no prompt, allowed: {ALLOWED}")
    long = [line for line in prompts if len(line) > PROMPT_CHARACTERS]
    if long:
        raise UserError(f"prompts has a line of {len(long[0])} characters, allowed: {PROMPT_CHARACTERS} or fewer")
    return prompts


def chosen_seed(args: Namespace) -> int:
    """Of the first picture of a prompt."""
    seed: int = args.seed
    return secrets.randbelow(RANDOM_SEEDS) if seed < 0 else seed


def pictures(args: Namespace, prompts: Sequence[str]) -> list[Namespace]:
    """The command for each picture: its prompt and its seed."""
    count = args.count or 1
    seeds = [(args.seed + i) % 2**63 for i in range(count)]
    return [Namespace(**{**vars(args), "prompt": prompt, "seed": seed}) for prompt in prompts for seed in seeds]


def batches(commands: Sequence[Namespace], size: int) -> Iterator[Sequence[Namespace]]:
    """Those that are drawn at once."""
    for start in range(0, len(commands), size):
        yield commands[start : start + size]
