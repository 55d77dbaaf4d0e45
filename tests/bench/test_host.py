"""What `bench.host` and `bench.beside` derive from what they are told out of the webui."""

from __future__ import annotations

import ast

import pytest

from bench.beside import OTHER, drawn, line, ways
from bench.host import (
    BOUNDS,
    SLOW_MS,
    Shares,
    code_for,
    median,
    parties,
    shares,
    told_waits,
    waits_of_host,
    waits_of_ours,
)

SECONDS = [
    ["base", "unet", 2.0, 1.0],
    ["base", "host: sampler", 0.5, 0.1],
    ["phases", "unet", 8.0, 4.0],
    ["phases", "ours: windows", 0.4, 0.1],
    ["phases", "ours: steps", 0.4, 0.02],
    ["phases", "host: guidance", 0.8, 0.08],
]
"""Section, party, on the wall, of the thread."""


def test_shares_are_of_the_units_time_in_the_same_section_by_the_same_clock() -> None:
    phases = shares(SECONDS, "phases", "wall")
    assert (phases.ours, phases.host, phases.whole) == pytest.approx((0.1, 0.1, 1.2))
    phases = shares(SECONDS, "phases", "thread")
    assert (phases.ours, phases.host, phases.whole) == pytest.approx((0.03, 0.02, 1.05))
    assert shares(SECONDS, "base", "wall").whole == pytest.approx(1.25)


def test_a_section_without_the_unet_says_what_there_was() -> None:
    with pytest.raises(ValueError, match=r"not seen in 'decode'; sections: \['base', 'phases'\]"):
        shares(SECONDS, "decode", "wall")


def test_repeats_are_told_by_their_medians() -> None:
    assert median([Shares(0.01, 0.5), Shares(0.9, 0.02), Shares(0.02, 0.03)]) == Shares(0.02, 0.03)
    slower = [[*row[:2], 2 * row[2], 2 * row[3]] for row in SECONDS]
    missing = [row for row in SECONDS if row[1] != "ours: steps"]
    found = parties([SECONDS, slower, missing], "phases", "wall")
    assert found == pytest.approx({"host: guidance": 0.1, "ours: windows": 0.05, "ours: steps": 0.05})
    assert next(iter(found)) == "host: guidance"


def test_the_bounds_are_the_issues() -> None:
    assert BOUNDS == {0.0: 1.05, SLOW_MS: 1.02} and SLOW_MS == 20


WAITS = [
    ["/a/sd/demofusion_lib/webui/denoiser.py:181 forward", "cpu", True, 6],
    ["/a/sd/demofusion_lib/webui/sampling.py:10 begin", "tolist", False, 1],
    ["/a/k_diffusion/sampling.py:123 sample_euler", "bool", False, 12],
]


def test_waits_are_told_an_evaluation_and_by_whose_they_are() -> None:
    assert waits_of_ours(WAITS, 6) == {"webui/denoiser.py:181 forward (cpu)": 1.0}
    assert waits_of_host(WAITS, 6) == {"k_diffusion/sampling.py:123 sample_euler (bool)": 2.0}
    with pytest.raises(ValueError, match="no evaluation"):
        told_waits(WAITS, 0)


def test_what_is_sent_is_a_program() -> None:
    """The webui indents it into a function of its own."""
    code = code_for("return 1")
    ast.parse("def sent():\n  " + code.replace("\n", "\n  "))
    assert "count_of" in code


def test_rows_are_of_native_size_and_the_first_sampling_is_the_bases() -> None:
    calls = [[1, 2, 36, 24, 0.1], [1, 2, 36, 24, 0.1], [2, 4, 24, 24, 0.3], [3, 3, 36, 24, 0.5]]
    answer = {"calls": calls, "samplings": [0.25, 0.5, 0.75], "seconds": 2.0}
    one = drawn(answer, [(192, 288), (384, 576)], (36, 24))
    assert one.base_rows == 4
    assert one.rows == pytest.approx(4 * 24 / 36 + 3)
    assert one.patches == {(24, 24): 4, (36, 24): 3}
    assert (one.unet_s, one.sampling_s, one.whole_s) == pytest.approx((1.0, 1.5, 2.0))


def test_a_line_is_in_ratios_to_the_run_that_was_made_in_turn() -> None:
    call = {"calls": [[1, 2, 24, 24, 1.0], [2, 10, 24, 24, 1.0]], "samplings": [2.0, 2.0], "seconds": 8.0}
    slower = {"calls": [[1, 2, 24, 24, 3.0], [2, 10, 24, 24, 3.0]], "samplings": [2.0, 4.0], "seconds": 4.0}
    one, by = drawn(slower, [(192, 192), (384, 384)], (24, 24)), drawn(call, [(384, 384)], (24, 24))
    assert line("it", (384, 384), [one], [by]) == "| it | 10 | 5.0 | 3.00 | 1.50 | 0.50 | 192x192, 384x384 | yes |"
    assert line("it", (384, 768), [one], [by]).endswith("| no |")


def test_the_other_scripts_windows_are_the_shorter_side_and_overlap_by_half() -> None:
    args = ways(192, 288, 3)["its own"]["alwayson_scripts"][OTHER]["args"]
    assert (args[0], args[3], args[4], args[6], len(args)) == (True, 24, 12, 3, 22)
