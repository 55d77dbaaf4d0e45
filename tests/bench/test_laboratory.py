"""How the laboratory goes about its work: what it draws, in which order, and what it keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from bench.quality.__main__ import main
from bench.quality.drawn import Studio, batches, passes
from bench.quality.results import Line, as_json
from bench.quality.rows import Case, Row, Subject
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import load_model


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
        settings = f"--images {images} --scales 2 --shapes 3:2".split()
        main(["--out", str(tmp_path), "--rows", "truth;bicubic of the base", *settings, *more])
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


@pytest.mark.parametrize("text", [None, "no table"])
def test_a_table_that_cannot_be_read_is_named(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), "--beside", str(path)])
    assert f"--beside: {str(path)!r} can't be read as a table.json" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
