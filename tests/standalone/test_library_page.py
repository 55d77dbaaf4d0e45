"""docs/library.md: its examples run, and its table names what a call takes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demofusion_lib import DemoFusionPipeline

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other; the first, which fetches SDXL, is read alone."""
    first, *rest = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    compile(first, "docs/library.md", "exec")
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(rest), "docs/library.md", "exec"), {})
    assert [Image.open(tmp_path / f"phase{number}.png").size for number in (1, 2)] == [(128, 128), (256, 256)]
    red, green, _ = np.asarray(Image.open(tmp_path / "placed.png"), int).transpose(2, 0, 1)
    rows, cols = (red - green > 80).nonzero()
    # where the hint is white
    assert np.allclose([cols.min(), rows.min(), cols.max(), rows.max()], [30, 130, 120, 220], atol=8)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("phase 1, step 0") and told[-1].startswith(
        "phase 2, step 1, timestep 300, (1, 4, 32, 32)"
    )


def test_every_argument_is_told() -> None:
    table = PAGE.split("## What a call takes")[1].split("## Examples")[0]
    takes = set(inspect.signature(DemoFusionPipeline.__call__).parameters) - {"self", "settings"}
    names = set(re.findall(r"`(\w+)`", table))
    assert takes - {"callback_on_step_end_tensor_inputs"} <= names
