"""The laboratory's measures against pictures whose figures are known."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bench.quality.bars import bars
from bench.quality.measures import (
    BANDS,
    PatchProjections,
    band_levels,
    log_spectrum,
    psnr,
    seam_ratio,
    shrunk,
    sliced_wasserstein,
)
from bench.quality.results import (
    Line,
    Results,
    as_json,
    cell,
    from_json,
    markdown,
    mean_error,
    merged,
    ratio_error,
    share_error,
    summary,
    tabulate,
)


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


def test_seams() -> None:
    generator = torch.Generator().manual_seed(1)
    picture = 0.5 + 0.02 * torch.randn(3, 512, 512, generator=generator)
    assert seam_ratio(picture, (128, 128)) == pytest.approx(1, abs=0.1)
    seamed = picture.clone()
    seamed[:, :, 128:256] += 0.1
    assert seam_ratio(seamed, (128, 128)) > 2
    assert seam_ratio(seamed.transpose(1, 2), (128, 128)) == pytest.approx(seam_ratio(seamed, (128, 128)), rel=1e-4)
    elsewhere = picture.clone()
    elsewhere[:, :, 190:300] += 0.1
    assert seam_ratio(elsewhere, (128, 128)) == pytest.approx(1, abs=0.1)
    objects = picture.clone()
    objects[:, 200:300, 128:256] += 0.1  # an object whose edge happens to lie on a line is no seam
    assert seam_ratio(objects, (128, 128)) == pytest.approx(seam_ratio(picture, (128, 128)), abs=0.1)


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


def figures(level: float) -> dict[str, object]:
    image = {
        "objects": 1, "one_object": True, "right_colour": True, "psnr_to_base": 30.0, "seam_ratio": 1.0,
        "bands": dict.fromkeys(BANDS, level), "spectrum": [level] * 4,
    }  # fmt: skip
    return {"images": [image, image], "wasserstein": [1.0, 3.0], "evaluations": [280], "seconds": [2.0]}


def test_the_table_is_taken_against_the_truth(tmp_path) -> None:
    results = Results(tmp_path / "results.json")
    results.add("2x square", "method", figures(-27))
    results.add("2x square", "truth", figures(-30))
    columns = summary(figures(-27), figures(-30))
    assert columns["log-spectral distance"][0] == columns["band 1/8-1/4"][0] == 3
    again = Results(tmp_path / "results.json")
    assert again.count("2x square", "method") == 2 and again.count("3x square", "method") == 0
    again.add("2x square", "method", figures(-27))
    assert again.count("2x square", "method") == 4
    written = merged(tabulate(again), {})
    assert written["2x square"]["truth"].columns["PSNR beside the method's"] == (0, 0)
    lines = markdown(written).splitlines()
    assert lines[0] == "### 2x square"
    assert lines[4].startswith("| truth | 2 | ")
    assert lines[5].startswith("| method | 4 | 1.00 ± ") and "+3.0 ± 0.0" in lines[5] and "2.00 ± 0.58" in lines[5]
    assert lines[7] == "- holds: method: 1.00 ± 0.20 with one object, at least 0.90"
    table = json.loads(as_json(written))["2x square"]["method"]
    assert table["images"] == 4 and table["band 1/8-1/4"] == [3, 0] and table["evaluations"] == [280, None]


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
