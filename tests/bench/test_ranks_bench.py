"""The table of docs/ranks.md."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bench import ranks
from tests.standalone.forks import FORKS

DOCS = Path(__file__).parents[2] / "docs" / "ranks.md"


def test_on_paper() -> None:
    """49 windows and 16 sub-images of 4096 px, with prompt and negative prompt; 17 of 130 rows on the busiest of 8 ranks."""
    method, two, fine = ranks.CASES
    assert ranks.patches(method, 4096) == [98, 32] and ranks.patches(fine, 4096) == [50]
    assert ranks.on_paper([98, 32], 1, 8) == pytest.approx(130 / 8 / 17) and ranks.on_paper([98, 32], 1, 1) == 1
    assert ranks.on_paper([98, 32], two.window_batch, 8) == pytest.approx(130 / 8 / 18)


@FORKS
def test_two_processes() -> None:
    """Two collective calls a step, and half of the answers from the other rank: 18 + 8 rows of 4 x 128 x 128 floats."""
    given = argparse.Namespace(size=2048, milliseconds=2.0, steps=2)
    method = ranks.together(2, given)[0]
    assert method.calls <= 4 and 0.3 < method.megabytes / (26 * 4 * 128 * 128 * 4 / 1e6) < 1
    assert method.own > 0.02


def test_the_docs_have_its_rows() -> None:
    rows = [
        line.split("|")
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if line.startswith(("| the m", "| preset"))
    ]
    for name, batch, total, count, paper in ((row[1].strip(), *(row[i].strip() for i in (2, 3, 4, 8))) for row in rows):
        case = next(one for one in ranks.CASES if one.name == name and one.window_batch == int(batch))
        counts = ranks.patches(case, 4096)
        assert sum(counts) == int(total) and f"{ranks.on_paper(counts, int(batch), int(count)):.2f}" == paper
    eight = [
        float(row[7])
        for row in rows
        if row[1].strip() == "the method" and row[2].strip() == "1" and row[4].strip() == "8"
    ]
    assert len(rows) == 12 and eight[0] >= 0.9
