"""The rows of the judge of guidance, and its table."""

from __future__ import annotations

import argparse
import math

import pytest

from bench.quality.guidance_judge import ROWS, GuidedRow, table
from lab.toy2.judge import Subject2


def test_a_row_reads_settings_and_the_scale_of_guidance() -> None:
    row = GuidedRow.parse("low: guidance=low-pass start=601 dilated=False cfg=2.5")
    assert row == GuidedRow("low", {"guidance": "low-pass", "start": 601, "dilated": False}, 2.5)
    order = row.order([Subject2(0), Subject2(1)], 2)
    assert order.guidance == 2.5 and order.params.start == 601 and order.params.scale == 2
    assert list(order.prompts) == ["a red disc, woven", "a red disc, brushed"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no settings", "NAME: setting=value"),
        (": start=601", "NAME: setting=value"),
        ("a: start", "NAME: setting=value"),
        ("a: begin=601", "unknown setting 'begin'"),
        ("a: start=5000", "start is '5000', allowed"),
        ("a: cfg=much", "cfg is 'much', allowed: a number"),
    ],
)
def test_a_row_that_cant_be_used_is_told(text: str, told: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=told):
        GuidedRow.parse(text)


def test_the_rows_that_it_has_differ() -> None:
    rows = [GuidedRow.parse(text) for text in ROWS]
    assert len({row.name for row in rows}) == len({(str(row.settings), row.cfg) for row in rows}) == len(rows)


def test_differences_are_paired() -> None:
    """Pictures that differ much from each other but by the same from row to row: no error."""
    right = [0.1, 0.9, 0.4]
    kept = {
        "one": [{"right": value, "contrast_db": math.nan} for value in right],
        "other": [{"right": value + 0.05, "contrast_db": -1.0} for value in right],
    }
    lines = table(kept).splitlines()
    assert lines[0] == "| row | n | right | contrast_db | right, against the first |"
    assert lines[1] == "|---|---|---|---|---|"
    assert lines[2] == "| one | 3 | 0.47 ± 0.23 | - | +0.00 |"
    assert lines[3] == "| other | 3 | 0.52 ± 0.23 | -1.00 | +0.05 |"
