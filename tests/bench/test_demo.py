"""The demo in small: an exact denoiser, and an engine that comes near the exact answer with the residual, not without.

Dilated sampling hardly matters to this model; its arithmetic is tested in tests/core.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bench.analytic import CropPrior, NoiseSchedule
from bench.climbing import Run, draw_base, enlarge
from bench.demo import main
from bench.model import SceneModel
from bench.scenes import matching
from demofusion_lib.core import Weights
from demofusion_lib.params import Params

WINDOW = 5


def pictures(size: int, seed: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_denoiser_is_the_mean_over_every_crop() -> None:
    whole, large = pictures(WINDOW, 1), pictures(9, 2)
    prior = CropPrior([(whole, 0.25), (large, 0.75)], WINDOW)
    crops = large.unfold(2, WINDOW, 1).unfold(3, WINDOW, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, WINDOW, WINDOW)
    every = torch.cat([whole, crops])
    weights = torch.cat([torch.full((len(whole),), 0.25 / len(whole)), torch.full((len(crops),), 0.75 / len(crops))])
    x = crops[7] + 2.5 * pictures(WINDOW, 3)[0]
    for sigma in (0.3, 2.5, 20.0):
        logits = weights.log() - (every - x).square().sum((1, 2, 3)) / (2 * sigma**2)
        mean = (logits.softmax(0).view(-1, 1, 1, 1) * every).sum(0)
        assert torch.allclose(prior.denoise(x[None], sigma)[0], mean, atol=1e-4)


def test_without_noise_a_picture_of_the_distribution_stays_itself() -> None:
    large = pictures(9, 4)
    crop = large[1:, :, 2 : 2 + WINDOW, 3 : 3 + WINDOW]
    assert torch.allclose(CropPrior([(large, 1.0)], WINDOW).denoise(crop, 0.01), crop, atol=1e-4)


@pytest.fixture(scope="module")
def scores() -> dict[str, float]:
    """PSNR to the exact answer at 2x, in dB."""
    model = SceneModel(matching("triangle"), 2)
    run = Run(NoiseSchedule(2.0), "euler", 10, 1)
    base = draw_base(run, model.native).picture
    exact = model.exact(model.nearest(base), 2)
    params = Params.from_names({"enabled": True, "preset": "none", "scale": 2})
    ways = {"all": Weights(), "no residual": Weights(a1=math.inf), "windows alone": Weights(a1=math.inf, a2=math.inf)}
    drawn = {name: next(enlarge(run, model.windows, base, params, weights)) for name, weights in ways.items()}
    large = torch.nn.functional.interpolate(base, scale_factor=2, mode="bicubic")
    return {"bicubic": model.psnr(large, exact), **{name: model.psnr(d.picture, exact) for name, d in drawn.items()}}


def test_the_engine_comes_near_the_exact_answer(scores: dict[str, float]) -> None:
    assert scores["all"] > scores["bicubic"] + 6


def test_windows_alone_do_not(scores: dict[str, float]) -> None:
    assert scores["windows alone"] < scores["bicubic"]


def test_the_residual_is_needed(scores: dict[str, float]) -> None:
    assert scores["no residual"] < scores["all"] - 6


def test_the_demo_writes_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = main(["--out", str(tmp_path), "--scale", "2", "--steps", "4", "--prompt", "disc"])
    assert {path.name for path in tmp_path.iterdir()} == {"phase1.png", "phase2.png", "exact.png", "sheet.png"}
    assert [row.size for row in rows] == [128]
    # 9 windows and 4 dilated sub-images a step; at the last step's noise level the global path has no weight
    assert rows[0].evaluations == 4 * 13 - 4
    assert str(rows[0]) in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--scale", "5"], ["--steps", "0"], ["--prompt", "lighthouse"], ["--seed", "x"]])
def test_bad_flags_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
    assert flags[1] in capsys.readouterr().err
