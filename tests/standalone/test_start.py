"""The command's first moments, in processes of their own: what is answered before torch is loaded."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from demofusion_lib import core
from demofusion_lib.params import BY_NAME

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(["torch", "diffusers", "transformers", "numpy", "PIL", "safetensors", "k_diffusion"]))
from demofusion_lib.standalone.__main__ import main
sys.argv = ["demofusion", *{flags!r}]
sys.exit(main())
"""


def started(*flags: str) -> subprocess.CompletedProcess[str]:
    """Where an import of what is slow to load fails."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(flags=list(flags))], capture_output=True, text=True, cwd=ROOT
    )


def test_help_needs_no_torch_and_less_than_a_second() -> None:
    begun = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = started("--help")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0 and "--phase-negative" in run.stdout, run.stderr
    assert ended.ru_utime + ended.ru_stime - begun.ru_utime - begun.ru_stime < 1  # of a processor, whoever else has it


EARLY = {
    "--scale": ("9", "allowed: 1 to 8"),
    "--sampler": ("Eulr", "sampler is 'Eulr', allowed: DPM++ 2M"),
    "--phase-sampler": ("Eulr", "allowed: same, DPM++ 2M"),
    "--model": ("nowhere.safetensors", "which is no file"),
    "--config": ("sd1", "config is 'sd1', allowed for a single .safetensors file"),
    "--dtype": ("float8", "allowed: auto, float32"),
    "--controlnet": ("nowhere", "allowed with a hint for it alone"),
    "--out": ("/proc/nowhere", "which can't be written to"),
    "--nothing": ("1", "unrecognized arguments"),
}


@pytest.mark.parametrize("flag", EARLY)
def test_mistakes_are_told_before_torch_is_loaded(flag: str) -> None:
    value, words = EARLY[flag]
    run = started("a red disc", f"{flag}={value}")
    assert run.returncode == 2 and words in run.stderr and run.stderr.count("\n") == 1
    assert run.stdout == ""


def test_the_table_names_what_the_core_has() -> None:
    """It is read without the core, which needs torch."""
    theirs = {
        "plan": core.PLANS, "border": core.BORDERS, "residual": core.RESIDUALS, "guidance": core.GUIDANCES,
        "window_weight": core.WINDOW_WEIGHTS, "enlarge": core.ENLARGEMENTS,
    }  # fmt: skip
    assert {name: BY_NAME[name].choices for name in theirs} == theirs
