"""`--image`: a given picture in place of the base image, and how far a run departs from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image

from demofusion_lib.core import statistics
from demofusion_lib.standalone import cli
from demofusion_lib.standalone.decoding import pixels_of
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import SAMPLERS

from .test_drawing import draw, order

Run = Callable[..., int]
FINE = {"preset": "fine", "vae": "host", "window_batch": 16}


def smooth(height: int, width: int) -> torch.Tensor:
    """`(3, height, width)` in [-1, 1]: waves, another in each channel."""
    rows, columns = torch.linspace(0, 6, height)[:, None], torch.linspace(0, 9, width)[None, :]
    return torch.stack([(rows + columns).sin(), (rows * columns / 9).cos(), (rows - columns).sin() / 2]) * 0.8


def wanted(
    height: int = 64, width: int = 64, strength: float = 0.5, sampler: str = "Euler", **settings: object
) -> Order:
    return replace(order(sampler, **{**FINE, **settings}), picture=smooth(height, width), strength=strength)


def result(model: Model, wanted: Order) -> torch.Tensor:
    drawing = Drawing(model, wanted)
    last = list(drawing.phases())[-1]
    return last.picture if last.picture is not None else drawing.held(pixels_of(model, last.latent))


def encoded(model: Model, picture: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        mean: torch.Tensor = model.vae.encode(picture[None]).latent_dist.mean
    return mean * model.vae.config.scaling_factor


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize("size", [(64, 64), (128, 64), (203, 157), (24, 16)], ids=str)
def test_the_picture_is_phase_1_and_the_next_one_begins_with_its_pixels(
    size: tuple[int, int], models: dict[str, Model], given: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    model, picture = models["sd"], smooth(*size)
    first, *rest = draw(model, wanted(*size, scale=2))
    height, width = (length // 8 * 8 for length in size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    part = picture[:, top : top + height, left : left + width]
    assert (first.number, first.evaluations) == (1, 0) and torch.equal(first.picture[0], part)
    own = encoded(model, part)
    assert error(first.latent, own) < 1e-5 and torch.equal(first.anchor[0], statistics(first.latent)[0])
    previous, before = given[0]
    larger = F.interpolate(part[None], size=[8 * n for n in previous.shape[-2:]], mode="bicubic").clamp(-1, 1)
    assert error(previous, encoded(model, larger[0])) < 1e-5 and torch.equal(before, first.latent)
    assert rest[-1].size_px == (2 * width, 2 * height)


def test_with_enlarge_latent_the_next_phase_begins_with_its_latent(
    models: dict[str, Model], given: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    first, _ = draw(models["sd"], wanted(enlarge="latent"))
    assert torch.allclose(given[0][0], F.interpolate(first.latent, size=(16, 16), mode="bicubic"), atol=1e-5)


def test_strength_0_is_bicubic_interpolation_and_asks_no_model(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing is drawn")

    for part, method in ((AutoencoderKL, "encode"), (AutoencoderKL, "decode"), (UNet2DConditionModel, "forward")):
        monkeypatch.setattr(part, method, never)
    right = F.interpolate(smooth(64, 64)[None], scale_factor=2, mode="bicubic").clamp(-1, 1)
    assert torch.equal(result(models["sd"], wanted(strength=0.0)), right)
    assert Drawing(models["sd"], wanted(strength=0.0)).plan.total_evaluations == 0


@pytest.mark.parametrize("settings", [{}, {"preset": "paper", "steps": 4}], ids=["fine", "paper"])
def test_the_result_departs_steadily_with_strength(settings: dict[str, Any], models: dict[str, Model]) -> None:
    picture, apart = smooth(64, 64), []
    for strength in (0.0, 0.01, 0.3, 0.6, 1.0):
        drawn = result(models["sd"], wanted(strength=strength, **settings))
        apart.append(float((F.avg_pool2d(drawn, 2)[0] - picture).square().mean()))
    assert apart == sorted(apart) and len(set(apart)) == len(apart)
    assert apart[0] < 4e-4  # 40 dB of a range of 2
    assert apart[1] < 0.01 * apart[-1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_begins_where_the_strength_says(sampler: str, models: dict[str, Model]) -> None:
    model = models["sd"]
    half, tiny = (Drawing(model, wanted(sampler=sampler, strength=value)) for value in (0.5, 0.001))
    assert half.plan.phase_levels[0] == pytest.approx(300.5, abs=20)
    assert max(half.plan.phase_levels) < 330
    started = result(model, wanted(sampler=sampler, strength=0.001))
    assert torch.isfinite(started).all() and max(tiny.plan.phase_levels) < 2.01


def test_strength_1_is_what_the_phases_make_of_a_base_image(models: dict[str, Model]) -> None:
    """Of one that is the picture's latent, but for where the first phase begins: with `enlarge` latent, from the same."""
    model, whole = models["sd"], wanted(strength=1.0, enlarge="latent")
    first, last = draw(model, whole)
    drawing = Drawing(model, replace(whole, picture=None))
    drawing._base = lambda: first  # type: ignore[method-assign]
    assert torch.equal(list(drawing.phases())[-1].latent, last.latent)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("size", [(24, 16), (128, 72)], ids=str)
def test_what_is_foretold_is_done(size: tuple[int, int], strength: float, models: dict[str, Model]) -> None:
    drawing = Drawing(models["sd"], wanted(*size, strength=strength))
    foretold = [phase["evaluations"] for phase in drawing.plan.report()["phases"]]
    done = [phase.evaluations for phase in drawing.phases()]
    assert done == foretold and done[0] == 0
    assert drawing.evaluations_left == sum(done)


def test_a_batch_draws_what_single_runs_draw(models: dict[str, Model]) -> None:
    both = replace(wanted(), prompts=["a red disc", "fog"], seeds=[7, 9])
    together = draw(models["sd"], both)[-1].latent
    alone = draw(models["sd"], replace(both, prompts=["fog"], seeds=[9]))[-1].latent
    assert torch.allclose(together[1:], alone, atol=1e-4)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "given.png"
    values = smooth(67, 64).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(values).save(path)
    return path


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_the_command(run: Run, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--image", str(picture), "--strength", "0.3", "--json", "--preset", "fine") == 0
    report = report_of(capsys)
    assert {name: report["image"][name] for name in ("file", "width", "height", "strength")} == {
        "file": str(picture), "width": 64, "height": 67, "strength": 0.3,
    }  # fmt: skip
    assert report["notes"] == ["of the picture's 64x67 px the middle 64x64 px are enlarged"]
    first, final = (Image.open(tmp_path / "out" / name) for name in ("phase1.png", "final.png"))
    assert np.array_equal(np.asarray(first), np.asarray(Image.open(picture))[1:65])
    assert final.size == (128, 128)
    assert "Size: 64x64" in final.info["parameters"] and "Denoising strength: 0.3," in final.info["parameters"]


def test_rounding_is_of_the_pictures_size(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (96, 72), "red").save(tmp_path / "wide.png")
    assert run("--image", str(tmp_path / "wide.png"), "--strength", "0", "--scale", "1.05", "--json") == 0
    assert report_of(capsys)["notes"][0].startswith("scale 1.05 of 96x72 px gives 104x72 px")


def test_the_plan(run: Run, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--image", str(picture), "--plan-only", "--preset", "fine") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("phase 1: 64x64, the picture, 0 evaluations, ")
    assert told[1].startswith("phase 2: 128x128, 9 windows, ")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strength", "0.5"], "strength is 0.5, allowed with image alone"),
        (["--strength", "1.5"], "argument --strength: is '1.5', allowed: 0 to 1"),
        (["--image", "GIVEN", "--width", "64"], "width is 64, allowed without image alone: a picture has its own size"),
        (["--image", "GIVEN", "--strength", "0", "--no-decode"], "no_decode is given, allowed with a strength above 0 alone"),
        (["--image", ""], "image is '', which is not there, allowed: a PNG, "),
        (["--image", "none.png"], "image is 'none.png', which is not there, allowed: a PNG, "),
        (["--image", "GIVEN", "--target-width", "32"], "target_width is 32, allowed: 0, or 64 to 512 for this base image"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused(
    flags: list[str], message: str, run: Run, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*[str(picture) if flag == "GIVEN" else flag for flag in flags])
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_a_run_goes_on_with_the_same_picture_alone(
    run: Run, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--image", str(picture), "--scale", "4", "--preset", "fine", "--save-phases"]
    assert run(*flags) == 0
    right, out = (tmp_path / "out" / "final.png").read_bytes(), tmp_path / "out"
    whole = Drawing._phase

    def broken(self: Drawing, phase: Any, *rest: Any) -> torch.Tensor:
        if phase.number == 3:
            raise RuntimeError("no more")
        return whole(self, phase, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Drawing, "_phase", broken)
        assert run(*flags) == 1
    file, elsewhere = str(out / "resume.safetensors"), tmp_path / "moved.bmp"
    Image.open(picture).save(elsewhere)
    other = smooth(67, 64).flip(1).add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(other).save(picture)
    for given, why in (
        (["--resume", file], "was made with another picture"),
        (["--resume", file, "--image", str(elsewhere), "--strength", "0.4"], "was made with another strength"),
    ):
        with pytest.raises(SystemExit):
            cli.main(given)
        assert why in capsys.readouterr().err
    picture.unlink()
    with pytest.raises(SystemExit):
        cli.main(["--resume", file])
    assert "which is not there" in capsys.readouterr().err
    assert cli.main(["--resume", file, "--image", str(elsewhere)]) == 0
    assert (out / "final.png").read_bytes() == right
