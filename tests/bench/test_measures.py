"""The laboratory's measures against pictures whose figures are known."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.quality.bars import bars
from bench.quality.geometry import Geometry
from bench.quality.measures import (
    BANDS,
    PatchProjections,
    band_levels,
    log_spectrum,
    psnr,
    shrunk,
    sliced_wasserstein,
)
from bench.quality.results import (
    LESS,
    MORE,
    Difference,
    Line,
    Results,
    as_json,
    cell,
    from_json,
    is_worse,
    markdown,
    mean_error,
    merged,
    ratio_error,
    share_error,
    tabulate,
)
from bench.quality.seams import GREY_LEVEL, Lines, lines_of, seam_ratio
from demofusion_lib.core import WindowGrid
from lab.scenes import Scene, render


def stripes(cycles: float, size: int = 256, amplitude: float = 0.2) -> torch.Tensor:
    """A grey wave of so many cycles a pixel."""
    wave = 0.5 + amplitude * torch.sin(2 * math.pi * cycles * torch.arange(size, dtype=torch.float32))
    return wave.expand(3, size, size).clone()


@pytest.mark.parametrize(
    ("cycles", "band"), [(0.045, "1/32-1/16"), (0.09, "1/16-1/8"), (0.18, "1/8-1/4"), (0.35, "1/4-1/2")]
)
def test_a_wave_lies_in_its_band(cycles: float, band: str) -> None:
    quiet, loud = band_levels(stripes(cycles, amplitude=0.1)), band_levels(stripes(cycles, amplitude=0.2))
    assert max(loud, key=lambda name: loud[name]) == band
    assert loud[band] - quiet[band] == pytest.approx(20 * math.log10(2), abs=0.01)
    assert set(loud) == set(BANDS)


def test_the_spectrum_finds_a_wave_too() -> None:
    spectrum = log_spectrum(stripes(0.25))
    edges = torch.logspace(math.log10(1 / 64), math.log10(1 / 2), len(spectrum) + 1)
    peak = int(spectrum.argmax())
    assert edges[peak] <= 0.25 <= edges[peak + 1]


WINDOWS = [(2, 0.5), (2, 0.25), (3, 0.25), (4, 0.25)]
HORIZON = 105.0
"""Farther from every line of theirs than a contour is left out."""


def grid(scale: int, overlap: float) -> WindowGrid:
    return WindowGrid(32 * scale, 32 * scale, (32, 32), overlap=overlap)


def scenery(scale: int, horizon: float = 128.0, grain: float = 0.0) -> torch.Tensor:
    """A true render at `scale`. grain: deviation in grey levels, of pixels, and half of it of latent cells."""
    picture = render(Scene("red", "disc", (256, 256), (64.0, 190.0), 40.0, horizon, (3.0, 5.0)), scale)
    generator, size = torch.Generator().manual_seed(scale), picture.shape[-1]
    cells = torch.randn(1, size // 8, size // 8, generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return picture + grain * GREY_LEVEL * (torch.randn(1, size, size, generator=generator) + cells / 2)


def seamed(picture: torch.Tensor, line: int, levels: float, upright: bool) -> torch.Tensor:
    """Brighter from `line` on by so many grey levels, over the 64 px behind it."""
    step = torch.zeros_like(picture)
    (step if upright else step.transpose(1, 2))[:, :, line : line + 64] = levels * GREY_LEVEL
    return picture + step


def seams(picture: torch.Tensor, lines: Lines) -> float:
    found = seam_ratio(picture, Geometry(picture), lines)
    assert found is not None
    return found


def test_lines_are_where_windows_begin_and_end() -> None:
    assert lines_of(grid(2, 0.5)) == ([128, 256, 384],) * 2
    assert lines_of(grid(2, 0.25)) == ([192, 256, 448],) * 2  # 0, 24 and 32 cells: the last is moved back
    wide = WindowGrid(48, 72, (24, 36), overlap=0.5, border="paper")
    assert lines_of(wide) == ([96, 192, 288], [144, 288, 432])


@pytest.mark.parametrize(("scale", "overlap"), WINDOWS)
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("grain", [0.0, 1.0])
def test_a_seam_of_two_grey_levels_is_seen(scale: int, overlap: float, upright: bool, grain: float) -> None:
    """Upright ones cross sky and weave; of the level ones the first lies in the sky, the last in the weave."""
    picture, lines = scenery(scale, HORIZON, grain), lines_of(grid(scale, overlap))
    assert seams(picture, lines) < 1.15
    for line in (lines[upright][0], lines[upright][-1]):
        assert seams(seamed(picture, line, 2, upright), lines) > 1.7
    assert seams(seamed(picture, lines[upright][0], 0.5, upright), lines) < 1.3


@pytest.mark.parametrize(("scale", "overlap"), WINDOWS)
def test_a_seam_in_the_sky_or_the_weave_alone_is_seen(scale: int, overlap: float) -> None:
    picture, lines = scenery(scale, HORIZON), lines_of(grid(scale, overlap))
    edge = round(HORIZON * scale)
    for part in (slice(0, edge), slice(edge, None)):
        planted = picture.clone()
        planted[:, part] = seamed(picture, lines[1][0], 2, upright=True)[:, part]
        assert seams(planted, lines) > 1.4


@pytest.mark.parametrize(("scale", "overlap"), WINDOWS)
def test_a_horizon_on_a_line_is_no_seam(scale: int, overlap: float) -> None:
    lines = lines_of(grid(scale, overlap))
    for line, away in zip(lines[0], (0, -3, 3)):
        assert seams(scenery(scale, (line + away) / scale), lines) < 1.05


def test_what_is_no_seam_either() -> None:
    picture, lines = scenery(2, HORIZON), lines_of(grid(2, 0.5))
    elsewhere = seamed(picture, 170, 8, upright=True)
    assert seams(elsewhere, lines) < 1.05
    for horizon in (200.0, 20.0):  # its left edge lies on the line at 128 px, before sky or before ground
        on_object = render(Scene("blue", "square", (256, 256), (98.0, 98.0), 40.0, horizon, (3.0, 5.0)), 2)
        assert seams(on_object, lines) < 1.05
    assert seam_ratio(picture, Geometry(picture), ([], [])) is None


def test_a_broken_picture_is_told_by_its_pieces() -> None:
    """However many grey levels: a step beyond 8 counts as 8."""
    picture, lines = scenery(2, HORIZON), lines_of(grid(2, 0.5))
    assert seams(seamed(picture, 128, 20, upright=True), lines) == pytest.approx(math.sqrt(65), rel=0.05)


def test_psnr_of_a_shrunk_picture() -> None:
    base = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
    large = base.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert psnr(shrunk(large, 4), base) == 99
    assert psnr(shrunk(large, 4) + 0.1, base) == pytest.approx(20, abs=1e-3)


def test_patches_are_told_apart() -> None:
    projections = PatchProjections()
    one, other = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    same = sliced_wasserstein(projections(one, 1), projections(other, 2))
    assert sliced_wasserstein(projections(one, 1), projections(one, 1)) == 0
    assert sliced_wasserstein(projections(one, 1), projections(0.5 * one, 1)) > 5 * same


def test_errors() -> None:
    assert mean_error([1.0, 2.0, 3.0]) == (2.0, pytest.approx(1 / math.sqrt(3)))
    assert share_error([True, True, False, False]) == (0.5, 0.25)
    ratio, error = ratio_error([0.5, 2.0])
    assert ratio == pytest.approx(1) and error == pytest.approx(math.log(2))
    share, error = share_error([True] * 9)
    assert share == 1 and error == pytest.approx(math.sqrt(0.1 * 0.9 / 9))
    assert cell("one object", 0.5, 0.051) == "0.50 ± 0.05"
    assert cell("band 1/8-1/4", 1.26, 0.1) == "+1.3 ± 0.1"
    assert cell("evaluations", 1240.0, math.nan) == "1240"
    assert cell("horizon", math.nan, math.nan) == ""


def figures(level: float, horizons: Sequence[float | None] = (0.5, 1.5), **changed: object) -> dict[str, Any]:
    image = {
        "objects": 1, "one_object": True, "right_colour": True, "psnr_to_base": 30.0, "seam_ratio": 1.0,
        "horizon_greatest_px": 2.0, "tilt_px": 0.2, "outline": 1.1, "grain": 0.2,
        "bands": dict.fromkeys(BANDS, level), "spectrum": [level] * 4, **changed,
    }  # fmt: skip
    return {
        "images": [{**image, "horizon_px": horizon} for horizon in horizons], "sizes": [1, 1], "wasserstein": [1.0, 3.0],
        "evaluations": [280], "units": [7.0], "seconds": [2.0],
    }  # fmt: skip


def test_the_table_is_taken_against_the_truth(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.add("2x square", "method", figures(-27))
    results.add("2x square", "truth", figures(-30, grain=0.1, outline=1.0))
    again = Results(tmp_path / "results.json")
    assert again.count("2x square", "method") == 2 and again.count("3x square", "method") == 0
    again.add("2x square", "method", figures(-27, (None, 1.0)))
    assert again.count("2x square", "method") == 4
    written = merged(tabulate(again), {})
    columns = written["2x square"]["method"].columns
    assert columns["log-spectral distance"][0] == columns["band 1/8-1/4"][0] == 3
    assert columns["grain"] == (pytest.approx(2), pytest.approx(0)) and columns["outline"][0] == pytest.approx(1.1)
    assert columns["horizon"][0] == pytest.approx(1)  # of the three that show it
    assert columns["measurable"][0] == 0.75 and columns["units"][0] == 7
    text = markdown(written)
    assert "paired, image by image" not in text and "| beside the method" not in text
    lines = text.splitlines()[text.splitlines().index("### 2x square") :]
    assert lines[4].startswith("| truth | 2 | ")
    assert lines[5].startswith("| method | 4 | 1.00 ± ") and "+3.0 ± 0.0" in lines[5] and "2.00 ± 0.58" in lines[5]
    assert lines[7] == "- holds: method: 1.00 ± 0.20 with one object, at least 0.90"
    table = json.loads(as_json(written))["2x square"]["method"]
    assert table["images"] == 4 and table["band 1/8-1/4"] == [3, 0] and table["evaluations"] == [280, None]


def test_an_outline_is_taken_against_its_own_shapes(tmp_path: Path) -> None:
    """Images 0 to 3 show discs, the next four squares; true triangles that weren't drawn are taken for exact."""
    results = Results(tmp_path / "results.json")
    truth, row = figures(-30, [0.1] * 8), figures(-30, [0.1] * 12)
    for number, image in enumerate(truth["images"]):
        image["outline"] = 1.0 if number < 4 else 0.9
    for number, image in enumerate(row["images"]):
        image["outline"] = (1.1, 0.99, 1.0)[number // 4]
    results.add("2x square", "truth", truth)
    results.add("2x square", "method", row)
    assert tabulate(results)["2x square"]["method"].columns["outline"][0] == pytest.approx((1.1 + 1.1 + 1.0) / 3)


def test_rows_are_paired_with_the_method(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.json")
    results.add("2x square", "truth", figures(-30, grain=0.1))
    results.add("2x square", "method", figures(-31, (0.5, 1.5, 0.1)))
    worse = figures(-30.5, (1.0, 2.2, None), psnr_to_base=29.0, grain=0.3, seam_ratio=1.5, wasserstein=None)
    results.add("2x square", "single jump", worse | {"wasserstein": [2.0, 3.5]})
    results.add("2x square", "Euler a, 20 steps", figures(-30.5))
    table = tabulate(results)["2x square"]
    line = table["single jump"]
    assert table["Euler a, 20 steps"].paired == table["truth"].paired == table["method"].paired == {}
    found = line.paired
    assert line.pairs == 3
    assert found["horizon"] == Difference(pytest.approx(0.6), pytest.approx(0.1), True)  # of 0.5 and 0.7
    assert found["PSNR to base"] == Difference(-1, 0, True) and found["one object"] == Difference(0, 0, False)
    assert found["grain"] == Difference(pytest.approx(1.5), pytest.approx(0, abs=1e-9), True)
    assert found["seam ratio"].value == pytest.approx(1.5) and found["seam ratio"].worse
    assert found["band 1/8-1/4"] == Difference(0.5, 0, False)  # nearer to the truth's
    assert found["sliced Wasserstein"] == Difference(0.75, 0.25, True)
    (row,) = [
        text for text in markdown({"2x square": table}).splitlines() if text.startswith("| single jump | 3 | 7.00 |")
    ]
    for text in (
        "**+0.600 ± 0.100**",
        "**×1.50 ± 0.00**",
        "| +0.50 ± 0.00 |",
        "**-1.00 ± 0.00**",
        "| +0.000 ± 0.000 |",
    ):
        assert text in row
    read = from_json(as_json({"2x square": table}))
    assert read["2x square"]["single jump"].paired["horizon"] == Difference(0.6, 0.1, True)
    assert markdown(read) == markdown({"2x square": table})


@pytest.mark.parametrize(
    ("row", "method", "right", "worse"),
    [
        (1.2, 1.0, LESS, True), (1.05, 1.0, LESS, False), (0.5, 1.0, LESS, False),
        (0.8, 1.0, MORE, True), (0.95, 1.0, MORE, False), (1.2, 1.0, MORE, False),
        (0.75, 1.2, 1.0, False), (0.6, 1.2, 1.0, True), (1.35, 1.2, 1.0, True), (1.1, 1.2, 1.0, False),
    ],
)  # fmt: skip
def test_what_is_worse(row: float, method: float, right: float, worse: bool) -> None:
    """By more than the error, 0.1."""
    assert is_worse(row, method, 0.1, right) is worse
    assert not is_worse(row, method, math.nan, right)


def test_a_row_of_more_images_stands_in_for_one_of_fewer() -> None:
    seconds = {"seconds": (2.0, math.nan)}
    one = {"2x square": {"method": Line(16, seconds), "direct": Line(96, seconds)}}
    other = {"2x square": {"truth": Line(96, {}), "method": Line(96, {}), "direct": Line(96, {})}, "2x 3:2": {}}
    table = merged(one, other)
    assert list(table) == ["2x 3:2", "2x square"] and list(table["2x square"]) == ["truth", "direct", "method"]
    assert table["2x square"]["method"] is other["2x square"]["method"]
    assert table["2x square"]["direct"] is one["2x square"]["direct"]


def test_a_written_table_can_be_read() -> None:
    table = {"2x square": {"truth": Line(96, {"objects": (1.02, 0.01), "evaluations": (552.0, math.nan)})}}
    read = from_json(as_json(table))
    assert as_json(read) == as_json(table) and math.isnan(read["2x square"]["truth"].columns["evaluations"][1])
    assert markdown(read) == markdown(table)


def test_the_table_in_the_documents_can_be_read() -> None:
    """It was written before there were lines, grain and pairs."""
    table = from_json((Path(__file__).parents[2] / "docs" / "quality" / "table.json").read_text(encoding="utf-8"))
    text = markdown(table)
    assert "- holds: without dilation: 0.96" in text
    line = table["2x square"]["without dilation"]
    assert line.paired["PSNR to base"].worse and line.pairs == line.images
    assert not table["2x square"]["Euler a, 20 steps"].paired


GOOD = {
    "method": 0.95, "direct": 0.3, "windows alone": 0.1, "without residual": 0.5, "without dilation": 0.6,
    "Euler, 50 steps": 0.96, "Euler a, 20 steps": 0.95, "DPM++ SDE, 50 steps": 0.95,
}  # fmt: skip


def columns(share: float, upper: float = 0.0, lost: float = 0.0) -> dict[str, tuple[float, float]]:
    return {"one object": (share, 0.03), "PSNR beside the method's": (-lost, 0.1), "band 1/8-1/4": (upper, 0.1)}


def failing(scale: int, **changed: dict[str, tuple[float, float]]) -> list[str]:
    rows = {name: columns(share) for name, share in GOOD.items()} | changed
    return [bar.text.split(":")[0] for bar in bars(rows, scale) if not bar.holds]


def test_what_must_come_out() -> None:
    assert failing(2) == failing(3) == failing(4) == []
    assert len(bars({name: columns(share) for name, share in GOOD.items()}, 2)) == 8
    assert "method" in failing(2, method=columns(0.85)) and "method" not in failing(4, method=columns(0.85))
    assert failing(4, method=columns(0.79))[0] == "method"
    assert failing(2, direct=columns(0.69)) == [] and failing(4, direct=columns(0.69)) == ["direct"]
    assert failing(3, **{"windows alone": columns(0.31)}) == ["windows alone"]
    assert failing(3, **{"without dilation": columns(0.92)}) == ["without dilation"]
    assert failing(3, **{"without dilation": columns(0.92, lost=0.19)}) == ["without dilation"]
    assert failing(3, **{"without dilation": columns(0.92, lost=0.21)}) == []
    the_same = columns(0.95) | {"PSNR beside the method's": (0.0, 0.0)}
    assert failing(3, **{"without dilation": the_same}) == ["without dilation"]
    assert failing(3, **{"Euler, 50 steps": columns(0.9)}) == ["Euler"]
    assert failing(3, **{"Euler a, 20 steps": columns(0.95, -1.6)}) == ["Euler a, 20 steps"]
