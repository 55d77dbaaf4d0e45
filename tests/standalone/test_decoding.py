"""Pictures through the VAE's tiles: diffusers' own but for rounding, and what happens where they can't be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from demofusion_lib import vae
from demofusion_lib.standalone import cli, decoding
from demofusion_lib.standalone.decoding import BAND_PX, NotFinitePixels, Way, decode, to_image
from demofusion_lib.standalone.models import Model, load_model

from .conftest import CPU

Run = Callable[..., int]
MODES = ("auto", "exact", "estimated", "host")


@pytest.fixture
def model(folders: dict[str, Path]) -> Model:
    return load_model(str(folders["sd"]), CPU, torch.float32)


def latent(height: int = 24, width: int = 40, images: int = 1) -> torch.Tensor:
    return torch.randn(images, 4, height, width, generator=torch.Generator().manual_seed(4)).mul(0.2)


def theirs(model: Model, given: torch.Tensor) -> Image.Image:
    """diffusers' own, with its own way to bytes."""
    from diffusers.image_processor import VaeImageProcessor

    with torch.no_grad():
        pixels = model.vae.decode(given / model.vae.config.scaling_factor).sample
    return VaeImageProcessor().postprocess(pixels, output_type="pil")[0]


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.mark.parametrize("mode", MODES)
def test_every_way_is_diffusers_own(mode: str, model: Model) -> None:
    given, told = latent(images=2), []
    right = [theirs(model, one[None]) for one in given]
    tiles: list[tuple[int, int]] = []
    pictures = decode(model, given, Way(mode, told.append, lambda done, total: tiles.append((done, total))))
    for ours, wanted in zip(pictures, right):
        assert ours.size == (320, 192)
        if mode == "estimated":
            assert 0 < np.abs(np.asarray(ours).astype(int) - np.asarray(wanted)).mean() < 5
        else:
            assert difference(ours, wanted) <= (0 if mode == "host" else 1)
    assert bool(tiles) == (mode != "host")
    assert len(told) == (2 if mode == "estimated" else 0) and all("estimated" in text for text in told)


def test_bytes_are_made_band_by_band() -> None:
    pixels = torch.rand(3, 2 * BAND_PX + 3, 5).mul(4).sub(2)
    whole = pixels.add(1).div(2).clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(to_image(pixels)), (255 * whole).round().astype(np.uint8))
    pixels[1, -1, 2] = torch.nan
    with pytest.raises(NotFinitePixels, match="holds NaNs"):
        to_image(pixels)


@pytest.mark.parametrize("mode", ["exact", "host"])
def test_what_overflows_in_half_precision_is_decoded_again(
    mode: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As SDXL's first VAE does. A CPU has no float16, and bfloat16 does not overflow: a layer of it answers infinity."""
    real = torch.nn.functional.conv2d
    model.vae.to(torch.bfloat16)
    right = theirs(replace(model, vae=copy.deepcopy(model.vae).float()), latent())

    def conv2d(x: torch.Tensor, weight: torch.Tensor, *given: object, **named: object) -> torch.Tensor:
        answer = real(x, weight, *given, **named)  # type: ignore[arg-type]
        return answer if x.dtype == torch.float32 else answer.fill_(torch.inf)

    monkeypatch.setattr(torch.nn.functional, "conv2d", conv2d)
    told: list[str] = []
    (picture,) = decode(model, latent(), Way(mode, told.append))
    assert difference(picture, right) <= 1
    (note,) = told
    assert note.startswith("decoded again in float32, as in bfloat16 the ") and note.count("\n") == 0
    assert ("layer" in note) == (mode == "exact")
    assert model.vae.dtype == (torch.bfloat16 if mode == "exact" else torch.float32)


@pytest.mark.parametrize("mode", ["exact", "host"])
def test_nan_in_single_precision_is_the_end(mode: str, model: Model) -> None:
    model.vae.decoder.mid_block.resnets[0].conv1.bias.data[3] = torch.nan
    told: list[str] = []
    with pytest.raises((vae.NotFinite, NotFinitePixels)):
        decode(model, latent(), Way(mode, told.append))
    assert not told


def test_a_vae_that_cannot_be_read_is_diffusers_business(model: Model) -> None:
    torch.manual_seed(1)
    tiny = AutoencoderTiny(
        latent_channels=4, encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4,
        num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4,
    )  # fmt: skip
    told: list[str] = []
    (picture,) = decode(replace(model, vae=tiny.eval()), latent(8, 8), Way("auto", told.append))
    assert picture.size == (64, 64)
    assert len(told) == 1 and told[0].startswith("decoded in one piece by diffusers, as the VAE can't be read (")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The VAE answers a NaN for latents of more than 16 cells."""
    real = decoding.vae.decode

    def decode(module: torch.nn.Module, given: torch.Tensor, **named: object) -> torch.Tensor:
        if given.shape[-1] > 16:
            raise vae.NotFinite("decoder.conv_in")
        return real(module, given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding.vae, "decode", decode)
    yield
    monkeypatch.undo()


def test_nan_in_the_vae_leaves_the_phase_before(
    broken: None, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the latent, for a run that mends it."""
    assert run("--scale", "3", "--json", "--save-phases") == 1
    report = json.loads(capsys.readouterr().out)
    reason = "NotFinite: the VAE's layer decoder.conv_in gave values that are not finite"
    assert report["error"] == report["stopped"] == f"decoding phase 3 failed: {reason}"
    assert report["final"]["phase"] == 2 and Image.open(tmp_path / "out" / "final.png").size == (128, 128)
    assert cli.main(["--resume", report["resume"]["file"], "--vae", "host"]) == 0
    assert Image.open(tmp_path / "out" / "final.png").size == (192, 192)


def test_what_is_told_stands_in_the_report(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--vae", "estimated") == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["error"] is None and report["notes"] and len(set(report["notes"])) == len(report["notes"])
    for note in report["notes"]:
        assert "estimated" in note and f"demofusion: {note}\n" in said.err


def test_layers_are_laid_beside_the_pictures(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory is short; nothing is left. A folder that is gone is no reason to fail."""
    real, told, asked = vae.Memory.find, [], []

    def find(device: torch.device, folder: str | None = None) -> vae.Memory:
        asked.append(folder)
        return replace(real(device, folder), host=1000)

    monkeypatch.setattr(vae.Memory, "find", find)
    (picture,) = decode(model, latent(), Way("exact", told.append, folder=tmp_path))
    assert difference(picture, theirs(model, latent())) <= 1
    assert len(told) == 1 and "in a file" in told[0] and not list(tmp_path.iterdir())
    decode(model, latent(), Way("exact", told.append, folder=tmp_path / "gone"))
    assert asked == [str(tmp_path), None]
