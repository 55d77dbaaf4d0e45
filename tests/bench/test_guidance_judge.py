"""The judge of guidance: its rows, its arithmetic, and what it says of the presets' plan."""

from __future__ import annotations

import argparse
import math

import pytest

from bench.quality.guidance_judge import (
    HANDED_OVER,
    NONE,
    WAYS,
    WINDOWS,
    GuidedRow,
    Measured,
    Trial,
    gains,
    is_rejected,
    kept,
    kept_shares,
    table,
)
from lab.toy2.judge import Subject2, Texture

THREE_STEPS = {
    "start": 601,
    "steps": 3,
    "residual": "x0",
    "a1": 1.0,
    "dilated": False,
    "overlap": 0.25,
    "window_weight": "sin2",
}
"""What `fast` was when its ways to guide were judged."""


def measured(*right: float, units: float = 1.0) -> Measured:
    return Measured([Texture(value, 0.0, value) for value in right], units)


def test_a_row_reads_settings_on_top_of_its_plan() -> None:
    row = GuidedRow.parse("fast: guidance=low-pass start=401")
    assert (row.plan, row.way) == ("fast", "guidance=low-pass start=401")
    order = row.drawing(Trial(2, 200, 2, cfg=2.5), [Subject2(0), Subject2(1)]).order
    assert order.guidance == 2.5 and list(order.prompts) == ["a plain, woven", "a plain, brushed"]
    assert (order.params.guidance, order.params.start, order.params.residual) == ("low-pass", 401, "x0")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no settings", "PLAN: setting=value"),
        ("unknown: start=601", "PLAN one of whole method, fine"),
        ("fast: start", "PLAN: setting=value"),
        ("fast: begin=601", "unknown setting 'begin'"),
        ("fast: start=5000", "start is '5000', allowed"),
    ],
)
def test_a_row_that_cant_be_used_is_told(text: str, told: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=told):
        GuidedRow.parse(text)


def test_what_is_kept_is_a_share_of_the_gain_image_by_image() -> None:
    """Images that differ much, of which each gains the same: no error."""
    none, full = [0.1, 0.5, 0.3], [0.5, 0.9, 0.7]
    assert kept([0.2, 0.6, 0.4], none, full) == (pytest.approx(0.25), pytest.approx(0))
    share, error = kept([0.1, 0.7, 0.4], none, full)
    assert share == pytest.approx(0.25)
    # the gains are alike, so the ratio is a mean of (0, 0.5, 0.25) and its error that mean's
    assert error == pytest.approx(0.25 / math.sqrt(3))
    assert math.isnan(kept([0.2], [0.1], [0.5])[1])


def test_where_nothing_is_gained_nothing_is_kept() -> None:
    assert gains([0.8, 0.9], [0.5, 0.6]) and not gains([0.5, 0.9], [0.6, 0.5]) and not gains([0.5], [0.5])
    assert not gains([0.505, 0.605], [0.5, 0.6])  # told apart, and nothing to divide by
    flat, gained = measured(0.6, 0.6), measured(0.9, 0.9)
    assert kept_shares([flat, flat], [flat, flat], [flat, gained]) == {1: (pytest.approx(0), pytest.approx(0))}
    assert kept_shares([flat], None, [gained]) == {}


def test_a_rejection_is_beyond_two_errors() -> None:
    assert is_rejected(0.3, 0.05) and not is_rejected(0.45, 0.05) and not is_rejected(0.9, 0.0)


def test_the_table_says_which_are_rejected() -> None:
    found = {
        ("truth", ""): [measured(0.7, 0.7, units=0)] * 2,
        ("fast", NONE): [measured(0.5, 0.7), measured(0.5, 0.7)],
        ("fast", "one"): [measured(0.7, 0.9), measured(0.8, 1.0)],
        ("fast", "other"): [measured(0.8, 1.0), measured(0.6, 0.8)],
        ("fast", WINDOWS): [measured(0.8, 1.0, units=2), measured(0.8, 1.0, units=2)],
    }
    lines = table(found, [100, 200]).splitlines()
    assert lines[0] == "| plan | guidance | units | t = 100 | t = 200 | coarse | verdict |"
    assert lines[2] == "| truth |  | 0.00 | 70.0 ± 0.0%, +0.0 dB | 70.0 ± 0.0%, +0.0 dB | 70.0% |  |"
    cells = "80.0 ± 10.0%, kept 0.67 ± 0.00, +0.0 dB | 90.0 ± 10.0%, kept 1.00 ± 0.00, +0.0 dB"
    assert lines[4] == f"| fast | one | 1.00 | {cells} | 85.0% | stands |"
    assert lines[5].endswith("| **rejected** |") and lines[3].endswith("|  |") and lines[6].endswith("|  |")


def test_low_pass_and_an_early_end_lose_fine_texture_and_guided_last_steps_do_not() -> None:
    """Texture that is decided about t = 200, with steps at 601, 401 and 201."""
    trial = Trial(2, 200, 4)
    found = {way: trial.drawn(GuidedRow("fast", way, {**THREE_STEPS, **settings})) for way, settings in WAYS.items()}
    none, full = found[NONE].right, found[WINDOWS].right
    shares = {way: kept(one.right, none, full) for way, one in found.items()}
    assert gains(full, none) and min(full) > 0.96
    assert abs(shares["low-pass"][0]) < 0.05 and shares["windows until 300"][0] == pytest.approx(0.28, abs=0.04)
    assert shares[HANDED_OVER][0] > 0.9
    rejected = {way for way, share in shares.items() if is_rejected(*share)}
    assert rejected == {NONE, "low-pass", "low-pass until 300", "windows until 300"}
    # the base's 40 rows; 9 windows three times, the negative prompt's or a pass of two rows in each that is guided
    rows = {way: round(one.units * 40) for way, one in found.items()}
    assert rows == {
        NONE: 40 + 27,
        "low-pass until 300": 40 + 27 + 4,
        "low-pass": 40 + 27 + 6,
        "windows until 300": 40 + 27 + 18,
        HANDED_OVER: 40 + 27 + 4 + 9,
        WINDOWS: 40 + 54,
    }
