"""The laboratory in small: what the method does to pictures of the committed toy, with bounds that a broken part fails.

Each bound lies between what was measured with the engine whole and with one part broken:

- whole: 11 of 12 with one object, 25.61 dB to the base image, seams 1.03; windows alone 0 of 12, seams 1.14;
- the residual never applied: 1 of 12, 10.81 dB;
- the global path left out: 10 of 12, 24.98 dB; put back one row too high: 24.72 dB;
- windows put back one row too high: 1 of 12, 17.61 dB, seams 1.19; the last window instead of the mean: 25.49 dB;
    without overlap: seams 1.26, of windows alone 11.3;
- no jitter: 25.54 dB, seams of windows alone 1.49.

Another number of threads or another attention moves these figures by 0.001 dB.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean

import pytest
import torch
from PIL import Image

from bench.quality.__main__ import main
from bench.quality.drawn import Studio, batches, passes
from bench.quality.measures import Measured, measure
from bench.quality.results import Line, as_json
from bench.quality.rows import Case, Row, Subject
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import load_model

CASE = Case("square", 2)
IMAGES, STEPS = 12, 10


def drawn(**settings: object) -> list[Measured]:
    keep_freed_memory()
    studio = Studio(load_model("toy", torch.device("cpu"), torch.float32))
    ((_, subjects),) = batches({CASE: 0}, IMAGES, IMAGES)
    ((_, pictures),) = studio.draw(Row("small", settings, steps=STEPS), [CASE], subjects)
    return [
        measure(final, base, CASE.scale, subject.colour, CASE.pitch_px)
        for subject, final, base in zip(subjects, pictures.finals, pictures.bases)
    ]


@pytest.fixture(scope="module")
def method() -> list[Measured]:
    return drawn()


@pytest.fixture(scope="module")
def windows() -> list[Measured]:
    """Windows alone: what the jitter does shows only where nothing else holds the windows together."""
    return drawn(skip_residual=False, dilated=False)


def test_the_method_draws_one_object(method: list[Measured]) -> None:
    assert sum(one.one_object for one in method) >= 10
    assert all(one.right_colour for one in method)


def test_windows_alone_repeat_it(windows: list[Measured]) -> None:
    assert sum(one.one_object for one in windows) <= 2
    assert mean(one.objects for one in windows) > 2


def test_the_picture_is_the_one_before(method: list[Measured]) -> None:
    assert mean(one.psnr_to_base for one in method) > 25.57


def test_there_are_no_seams(method: list[Measured], windows: list[Measured]) -> None:
    assert mean(one.seam_ratio for one in method) < 1.15
    assert mean(one.seam_ratio for one in windows) < 1.3


def test_a_climb_is_drawn_once_for_all_its_sizes() -> None:
    keep_freed_memory()
    studio = Studio(load_model("toy", torch.device("cpu"), torch.float32))
    sizes = [Case("square", 2), Case("square", 3)]
    ((_, subjects),) = batches({sizes[0]: 0}, 1, 1)
    row = Row("few steps", steps=2)
    rows = []
    hook = studio.model.unet.register_forward_pre_hook(lambda unet, given: rows.append(len(given[0])))
    together = dict(studio.draw(row, sizes, subjects))
    hook.remove()
    assert list(together) == sizes and sum(rows) == together[sizes[1]].evaluations
    for case in sizes:
        ((_, alone),) = studio.draw(row, [case], subjects)
        assert torch.equal(together[case].finals, alone.finals) and torch.equal(together[case].bases, alone.bases)
        assert together[case].evaluations == alone.evaluations
        assert together[case].finals.shape[-2:] == case.size_px


def test_a_single_jump_passes_no_other_size() -> None:
    row, subjects = Row("jump", {"plan": "direct"}), [Subject(0)]
    small, large = (row.order(Case("square", scale), subjects) for scale in (2, 4))
    assert not passes(large, small) and passes(large, large)
    every = Row("every")
    assert passes(every.order(Case("3:2", 4), subjects), every.order(Case("3:2", 2), subjects))
    assert not passes(every.order(Case("3:2", 2), subjects), every.order(Case("3:2", 4), subjects))


def test_cases_catch_up_with_each_other() -> None:
    few, more = Case("square", 4), Case("square", 2)
    drawn = [(cases, [s.number for s in subjects]) for cases, subjects in batches({more: 3, few: 0}, 6, 2)]
    assert drawn == [([few], [0, 1]), ([few], [2]), ([more, few], [3, 4]), ([more, few], [5])]
    assert list(batches({more: 6}, 6, 2)) == []


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    def run(images: int, *more: str) -> dict[str, dict[str, object]]:
        names = "truth;bicubic of the base"
        main(
            [
                "--out",
                str(tmp_path),
                "--images",
                str(images),
                "--scales",
                "2",
                "--shapes",
                "3:2",
                "--rows",
                names,
                *more,
            ]
        )
        return json.loads((tmp_path / "table.json").read_text())["2x 3:2"]

    assert {name: row["images"] for name, row in run(1).items()} == {"truth": 1, "bicubic of the base": 1}
    kept = json.loads((tmp_path / "results.json").read_text())["2x 3:2"]["truth"]["images"]
    other = tmp_path / "other.json"
    other.write_text(as_json({"2x 3:2": {"method": Line(96, {"one object": (0.98, 0.01)})}}))
    rows = run(2, "--beside", str(other))
    assert {name: row["images"] for name, row in rows.items()} == {"truth": 2, "bicubic of the base": 2, "method": 96}
    assert json.loads((tmp_path / "results.json").read_text())["2x 3:2"]["truth"]["images"][:1] == kept
    assert "holds: method: 0.98 ± 0.01" in (tmp_path / "table.md").read_text()
    with Image.open(tmp_path / "sheet-2x-3x2.jpg") as sheet:
        assert sheet.width == 6 * 288
