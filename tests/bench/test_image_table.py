"""The table of strengths: bands against the true scenes' mean, likeness with its error."""

from __future__ import annotations

from bench.quality.image import TRUTH, row_names, table
from bench.quality.measures import BANDS


def figures(psnr: float, one: bool, level: float) -> dict[str, object]:
    return {"psnr": psnr, "one": one, "bands": dict.fromkeys(BANDS, level)}


def test_rows_are_told_against_the_truth() -> None:
    results = {
        TRUTH: {"0": figures(9, True, -30), "1": figures(9, True, -20)},
        "strength 0.5": {"0": figures(30, True, -27), "1": figures(34, False, -27)},
    }
    lines = table(results, row_names([0.5])).splitlines()
    assert lines[2] == "| truth | 2 |  | 2 of 2 | +0.00 | +0.00 | +0.00 | +0.00 |"
    assert lines[3] == "| strength 0.5 | 2 | 32.00 ± 2.00 | 1 of 2 | -2.00 | -2.00 | -2.00 | -2.00 |"
    assert len(lines) == 4
