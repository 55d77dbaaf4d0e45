"""Phases that begin from pixels: diffusers' own decoder, a cubic, diffusers' own encoder."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib import vae
from demofusion_lib.saved import read
from demofusion_lib.standalone import cli, decoding
from demofusion_lib.standalone.decoding import Way, latent_of, pixels_of
from demofusion_lib.standalone.models import Model, load_model

from .conftest import CPU
from .test_drawing import draw, error, order

Run = Callable[..., int]


def by_hand(model: Model, latent: torch.Tensor, height_lat: int, width_lat: int) -> torch.Tensor:
    """diffusers' parts, in one piece, in the way its own pipelines call them."""
    factor = model.vae.config.scaling_factor
    with torch.no_grad():
        picture = model.vae.decode(latent / factor).sample.clamp(-1, 1)
        larger = F.interpolate(picture, size=(8 * height_lat, 8 * width_lat), mode="bicubic").clamp(-1, 1)
        return model.vae.encode(larger).latent_dist.mean * factor


@pytest.mark.parametrize("mode", ["auto", "host"])
@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_phase_begins_from_the_enlarged_picture(
    name: str, mode: str, models: dict[str, Model], given: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    wanted = replace(order(enlarge="pixels", vae=mode, scale=3), prompts=["a red disc", "blue fog"], seeds=[7, 8])
    draw(models[name], wanted)
    assert [tuple(previous.shape) for previous, _ in given] == [(2, 4, 16, 16), (2, 4, 24, 24)]
    for previous, before in given:
        right = torch.cat([by_hand(models[name], one[None], *previous.shape[-2:]) for one in before])
        assert error(previous, right) < 1e-4


def test_it_is_another_picture_for_the_same_evaluations(models: dict[str, Model]) -> None:
    _, latent = draw(models["sd"], order(preset="fast", enlarge="latent"))
    _, pixels = draw(models["sd"], order(preset="fast", enlarge="pixels"))
    assert latent.evaluations == pixels.evaluations and error(pixels.latent, latent.latent) > 0.01


def test_a_mean_and_deviation_of_the_vaes_own(models: dict[str, Model]) -> None:
    """What was taken off for the decoder is put back behind the encoder."""
    model = copy.deepcopy(models["sd"])
    latent = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.scaled(model.unscaled(latent)), latent)
    model.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[0.5, 1.5, 2.5, 3.5])
    torch.testing.assert_close(model.scaled(model.unscaled(latent)), latent)
    assert float((model.unscaled(latent) - latent).abs().max()) > 1


def test_a_picture_that_overflows_is_encoded_in_float32(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, told, real = load_model(str(folders["sd"]), CPU, torch.bfloat16), list[str](), vae.encode

    def encode(*args: object, dtype: torch.dtype | None = None, **options: object) -> torch.Tensor:
        if dtype is None:
            raise vae.NotFinite("a layer")
        return real(*args, dtype=dtype, **options)  # type: ignore[arg-type]

    picture = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(1)).mul(2).sub(1)
    monkeypatch.setattr(decoding.vae, "encode", encode)
    latent = latent_of(model, picture, Way("auto", told.append))
    assert len(told) == 1 and "encoded again in float32" in told[0]
    with torch.no_grad():
        right = model.vae.float().encode(picture).latent_dist.mean * model.vae.config.scaling_factor
    assert error(latent, right) < 1e-4
    assert pixels_of(model, latent, Way("auto")).shape == picture.shape


def test_a_vae_that_nobody_can_read_is_diffusers_business(models: dict[str, Model]) -> None:
    model, told = copy.deepcopy(models["sd"]), list[str]()
    model.vae.encoder.register_forward_hook(lambda module, given, made: made)
    picture = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(1)).mul(2).sub(1)
    latent = latent_of(model, picture, Way("auto", told.append))
    assert len(told) == 1 and "encoded in one piece by diffusers" in told[0]
    assert error(latent, latent_of(models["sd"], picture, Way("auto"))) < 1e-4


def test_a_run_goes_on_to_the_same_bytes(run: Run, tmp_path: Path) -> None:
    """What a phase begins from is made anew of the latent in the file."""
    common = ["--preset", "fast", "--enlarge", "pixels", "--scale", "4"]
    assert run(*common, "--no-decode", "--keep-phases", "--out", str(tmp_path / "whole")) == 0
    file = str(tmp_path / "whole/phase2.safetensors")
    whole, second = (read(str(tmp_path / "whole" / f"{name}.safetensors")) for name in ("final", "phase2"))
    assert cli.main(["--resume", file, "--no-decode", "--out", str(tmp_path / "rest")]) == 0
    assert torch.equal(read(str(tmp_path / "rest/final.safetensors")).latent, whole.latent)
    assert second.number == 2 and whole.number == 3


def test_a_stop_while_a_picture_is_enlarged_keeps_the_phase(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding.vae, "encode", interrupted)
    common = ["--preset", "fast", "--enlarge", "pixels", "--json"]
    assert run(*common, "--out", str(tmp_path)) == 130
    report = json.loads(capsys.readouterr().out)
    assert report["final"]["phase"] == 1 and report["stopped"] == "interrupted"
