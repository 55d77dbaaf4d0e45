"""Times in prompts, `[from:to:when]`, as the phases read them.

The host's first pass reads a `when` below 1 as a share of its steps and a whole number as a step; its second pass counts
on, so that 1.5 is the middle of the second pass. In every phase the picture is drawn anew from noise, so here times that
lie within the first pass mean the same in each phase as in the base image; later ones wait for the phases, where they
count from 1, or from the base image's number of steps, as in the second pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

TIME = re.compile(r"(?<=:)(\s*)([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(?=\s*\])")
"""A number between a colon and a closing bracket: in the prompt language it can be nothing else."""


def in_phases(prompt: str, base_steps: int) -> str:
    """The prompt with each time that lies behind the base image moved to the place in a phase that it means."""

    def moved(match: re.Match[str]) -> str:
        space, text = match.groups()
        time, start = float(text), 1 if "." in text else base_steps
        if time < start:
            return match[0]
        return f"{space}{time - start:.6f}" if "." in text else f"{space}{int(time) - start}"

    return TIME.sub(moved, prompt)


def may_change(prompts: Iterable[str]) -> bool:
    """Whether what is encoded may depend on the number of steps: all that switches or alternates stands in brackets."""
    return any("[" in prompt for prompt in prompts)
