"""How the laboratory goes about its work: what it draws, in which order, and what it keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from k_diffusion.external import DiscreteSchedule
from PIL import Image

from bench.quality import drawn, otherwise
from bench.quality.__main__ import main
from bench.quality.drawn import Studio, batches, passes
from bench.quality.measures import psnr, shrunk
from bench.quality.otherwise import feather, hires
from bench.quality.results import Line, as_json
from bench.quality.rows import UNIT, Case, Row, Subject
from demofusion_lib.params import SETTINGS
from demofusion_lib.standalone.memory import keep_freed_memory
from demofusion_lib.standalone.models import load_model
from demofusion_lib.standalone.samplers import Schedule
from lab.scenes import render


@pytest.fixture(scope="module")
def studio() -> Studio:
    keep_freed_memory()
    return Studio(load_model("toy", torch.device("cpu"), torch.float32))


def test_a_climb_is_drawn_once_for_all_its_sizes(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    # pictures of 768 px take the autoencoder most of a minute, and what they are is asked elsewhere
    monkeypatch.setattr(studio, "decode", lambda latents: F.interpolate(latents[:, :3], scale_factor=8))
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


def test_doublings_pass_twice_the_size_but_not_three_times() -> None:
    row, subjects = Row("doublings", {"plan": "doubling"}), [Subject(0)]
    two, three, four = (row.order(Case("square", scale), subjects) for scale in (2, 3, 4))
    assert passes(four, two) and passes(three, two) and not passes(four, three)


def test_a_row_can_have_any_setting() -> None:
    values = {s.name: s.default for s in SETTINGS} | {"overlap": 0.25, "steps": 3, "window_batch": 5}
    del values["scale"], values["enabled"]
    params = Row("any", values).order(Case("square", 8), [Subject(0)]).params
    assert (params.scale, params.overlap, params.steps, params.window_batch) == (8, 0.25, 3, 5)


def test_seams_are_looked_for_where_the_rows_own_windows_meet(studio: Studio) -> None:
    case, subjects = Case("square", 2), [Subject(0)]
    wide = Row("wide", {"overlap": 0.25, "steps": 1, "skip_residual": False, "dilated": False}, steps=1)
    ((_, pictures),) = studio.draw(wide, [case], subjects)
    assert pictures.lines == ([192, 256, 448],) * 2
    ((_, pictures),) = studio.draw(Row("bicubic of the base", kind="bicubic", steps=1), [case], subjects)
    assert pictures.lines == ([128, 256, 384],) * 2


def test_what_hires_fix_and_tiles_cost(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    """In rows, prompt and negative prompt, and in native pictures: at 2x its pass has four times the area."""
    monkeypatch.setattr(otherwise, "TILES_STEPS", 2)
    case, subjects = Case("square", 2), [Subject(0)]
    ((_, whole),) = studio.draw(Row("hires", kind="hires", steps=6, strength=0.5, phase_steps=4), [case], subjects)
    assert (whole.evaluations, whole.units) == (12 + 8, (12 + 4 * 8) / UNIT)
    ((_, tiled),) = studio.draw(Row("tiles", kind="tiles", steps=6), [case], subjects)
    assert (tiled.evaluations, tiled.units) == (12 + 9 * 4, (12 + 9 * 4) / UNIT)
    assert tiled.lines == ([192, 256, 448],) * 2
    assert torch.equal(whole.bases, tiled.bases)
    for pictures in (whole, tiled):
        assert pictures.finals.shape[-2:] == case.size_px
        assert psnr(shrunk(pictures.finals[0], 2), pictures.bases[0]) > 20


class Recorded:
    """A redrawer that only tells where it would begin."""

    def __init__(self, studio: Studio):
        self.schedule, self.given = Schedule(studio.model.alphas_cumprod), []

    def __call__(self, latent: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
        self.given.append((latent, sigmas))
        return latent


@pytest.mark.parametrize(("strength", "whole"), [(0.5, 40), (0.7, 28)])
def test_hires_fix_takes_all_its_steps_at_the_end_of_a_longer_schedule(
    studio: Studio, strength: float, whole: int
) -> None:
    """As `setup_img2img_steps` of the webui reckons: 20 steps are the last 20 of `int(20 / strength)`."""
    redraw, base = Recorded(studio), torch.arange(16.0).view(1, 1, 4, 4)
    hires(redraw, base, (8, 8), strength, 20)
    ((latent, sigmas),) = redraw.given
    levels = DiscreteSchedule(redraw.schedule.log_sigmas.exp(), True).get_sigmas(whole)
    assert torch.allclose(sigmas, levels[whole - 20 :].float(), rtol=1e-5) and len(sigmas) == 21
    assert latent[0, 0, 0, :3].tolist() == [0, 0.25, 0.75]  # bilinear


def test_a_tile_fades_over_the_overlap_towards_its_neighbours() -> None:
    first, middle = feather(slice(0, 8), 20), feather(slice(6, 14), 20)
    assert first.tolist() == [1, 1, 1, 1, 1, 1, 0.75, 0.25]
    assert middle.tolist() == [0.25, 0.75, 1, 1, 1, 1, 0.75, 0.25]
    assert torch.equal(feather(slice(12, 20), 20), first.flip(0))


def test_large_pictures_pass_the_autoencoder_by_tiles(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(5)
    picture = render(subject.scene((256, 256), 1), 1)[None]
    undivided = studio.through_autoencoder(picture)
    latent = studio.encode(picture)
    monkeypatch.setattr(drawn, "UNDIVIDED_PX", 255 * 256)
    monkeypatch.setattr(studio.model.vae, "decode", None)
    monkeypatch.setattr(studio.model.vae, "encode", None)
    assert torch.allclose(studio.encode(picture), latent, atol=1e-3)
    assert torch.allclose(studio.through_autoencoder(picture), undivided, atol=1e-3)


def test_cases_catch_up_with_each_other() -> None:
    few, more = Case("square", 4), Case("square", 2)
    order = [(cases, [s.number for s in subjects]) for cases, subjects in batches({more: 3, few: 0}, 6, 2)]
    assert order == [([few], [0, 1]), ([few], [2]), ([more, few], [3, 4]), ([more, few], [5])]
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
