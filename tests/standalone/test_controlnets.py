"""`--controlnet` and `--hint`: what they may be, what is told of them, and a run that goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from PIL import Image

from demofusion_lib import hints
from demofusion_lib.standalone import cli, names
from demofusion_lib.standalone.asked_controlnets import FLAGS
from demofusion_lib.standalone.controlnets import check_made_for, skips
from demofusion_lib.standalone.controls import Control
from demofusion_lib.standalone.drawing import Drawing
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.flags import parse
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.planned import memory_bytes

from .test_controls import net_for, order_of

Told = Callable[..., str]


@pytest.fixture(scope="module")
def nets(models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("nets")
    for name in ("sd", "sdxl"):
        net_for(models[name]).save_pretrained(str(folder / name))
    return {name: str(folder / name) for name in ("sd", "sdxl")}


@pytest.fixture
def hint(tmp_path: Path) -> str:
    file = tmp_path / "hint.png"
    picture = Image.new("L", (96, 96))
    picture.paste(255, (20, 30, 60, 70))
    picture.save(file)
    return str(file)


@pytest.fixture
def told(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Told:
    """What is said, in one line, of flags that can't be used."""

    def tell(*flags: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["a red disc", "--model", str(folders["sd"]), "--out", str(tmp_path / "out"), *flags])
        assert stopped.value.code == 2
        said = capsys.readouterr().err.removeprefix("demofusion: ")
        assert said.count("\n") == 1
        return said.strip()

    return tell


def test_the_flags_name_the_kinds_of_hints() -> None:
    assert tuple(hints.HOW) == names.HINTS


def test_each_has_its_own_or_all_have_the_same() -> None:
    args = parse(["x", "--controlnet=a", "--hint=1", "--controlnet=b", "--hint=2", "--controlnet-scale=0.5"])
    assert (args.controlnet, args.hint, args.controlnet_scale) == (["a", "b"], ["1", "2"], [0.5])
    assert all(getattr(parse(["x"]), name) is None for name in FLAGS)


def test_what_does_not_go_together(told: Told, nets: dict[str, str], hint: str, tmp_path: Path) -> None:
    net = ["--controlnet", nets["sd"]]
    assert told("--hint", hint).endswith("allowed with controlnet alone")
    assert told("--controlnet-end", "0.5") == "controlnet_end is 0.5, allowed with controlnet alone"
    assert told(*net).endswith("allowed with a hint for it alone")
    assert told(*net, *net, "--hint", hint) == "hint is given 1 times, allowed: once for each of the 2 controlnets"
    assert "controlnet_scale is given 2 times" in told(*net, "--hint", hint, *["--controlnet-scale=1"] * 2)
    begin_late = ["--controlnet-start", "0.6", "--controlnet-end", "0.5"]
    assert (
        told(*net, "--hint", hint, *begin_late)
        == "controlnet_start is 0.6, allowed: up to controlnet_end, which is 0.5"
    )
    assert "--controlnet-scale: is '3', allowed: 0 to 2" in told(*net, "--hint", hint, "--controlnet-scale=3")
    assert "--hint-kind: is 'line', allowed: auto, smooth, lines, labels" in told(
        *net, "--hint", hint, "--hint-kind=line"
    )
    assert "allowed with a strength above 0 alone" in told(*net, "--hint", hint, "--image", hint, "--strength", "0")
    assert told(*net, "--hint", "nowhere.png").startswith("hint is 'nowhere.png', which is not there, allowed: a PNG")
    (tmp_path / "text.png").write_text("no picture")
    assert "which is damaged or no picture" in told(*net, "--hint", str(tmp_path / "text.png"))


def test_what_is_no_controlnet_of_this_model(
    told: Told, nets: dict[str, str], folders: dict[str, Path], hint: str, tmp_path: Path
) -> None:
    def named(folder: Path | str) -> str:
        return told("--controlnet", str(folder), "--hint", hint)

    assert "which is no folder, allowed: toy, a diffusers folder of a ControlNetModel" in named("nowhere")
    assert "which is no folder" in named("")
    assert "which has no config.json (No such file or directory)" in named(folders["sd"])
    assert "which is a 'UNet2DConditionModel'" in named(folders["sd"] / "unet")
    empty, damaged = tmp_path / "empty", tmp_path / "damaged"
    empty.mkdir()
    (empty / "config.json").write_text((Path(nets["sd"]) / "config.json").read_text())
    assert "which has no weights of its empty, supported: .safetensors, .bin" in named(empty)
    damaged.mkdir()
    (damaged / "config.json").write_text("[1")
    assert "which has a config.json that can't be read" in named(damaged)
    (damaged / "config.json").write_text((empty / "config.json").read_text())
    (damaged / "diffusion_pytorch_model.safetensors").write_text("nothing")
    assert "which can't be loaded (" in named(damaged)
    assert "which was made for another UNet: its cross_attention_dim is 40, and sd's 16" in named(nets["sdxl"])
    assert "which was made for another UNet: it has layers of [64, " in named("toy")


def test_layers_of_a_unet_are_those_that_its_own_controlnet_has(models: dict[str, Model]) -> None:
    for model in models.values():
        net = ControlNetModel.from_unet(model.unet)
        assert skips(model.unet.config) == [layer.out_channels for layer in net.controlnet_down_blocks]
        check_made_for(net, model)
    with pytest.raises(UserError, match="was made for another UNet: its addition_embed_type is None"):
        net = net_for(models["sd"])
        net.register_to_config(cross_attention_dim=40)
        check_made_for(net, models["sdxl"])


def run(*flags: str) -> int:
    return cli.main([*flags, "--json", "--preset", "none", "--sampling-steps", "2", "--window-batch", "16"])


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_run_tells_of_them_and_goes_on_with_them(
    nets: dict[str, str], folders: dict[str, Path], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, twice = tmp_path / "out", ["--controlnet", nets["sd"], "--hint", hint, "--controlnet-scale", "0.5"]
    wide = tmp_path / "wide.png"
    Image.new("RGB", (128, 64), "teal").save(wide)
    flags = ["a red disc", "--model", str(folders["sd"]), "--scale", "3", "--out", str(out)]
    flags += [*twice, "--controlnet", nets["sd"], "--hint", str(wide), "--controlnet-scale", "1", "--no-decode"]
    assert run(*flags) == 0
    whole = report(capsys)
    assert [(one["kind"], one["scale"], one["end"]) for one in whole["controlnets"]] == [
        ("lines", 0.5, 1),
        ("labels", 1, 1),
    ]
    assert whole["notes"] == ["of the hint's 128x64 px the middle 64x64 are used: the picture's shape"]
    last = (out / "final.safetensors").read_bytes()
    assert b"Module: none, Model: sd, Weight: 0.5, Guidance Start: 0, Guidance End: 1" in last

    file = str(out / "phase2.safetensors")
    assert cli.main(["--resume", file, "--json", "--no-decode", "--out", str(tmp_path / "again")]) == 0
    assert [one["scale"] for one in report(capsys)["controlnets"]] == [0.5, 1]
    assert latent_of(tmp_path / "again") == latent_of(out)
    moved = Path(hint).rename(tmp_path / "moved.png")
    with pytest.raises(SystemExit):
        cli.main(["--resume", file])
    assert "hint is" in capsys.readouterr().err
    there = ["--hint", str(moved), "--hint", str(wide), "--no-decode", "--out", str(tmp_path / "third")]
    assert cli.main(["--resume", file, *there]) == 0
    assert latent_of(tmp_path / "third") == latent_of(out)
    capsys.readouterr()
    hints = there[:4]
    for other, words in (
        (["--hint", str(wide), "--hint", str(wide)], "was made with another hints' values"),
        ([*hints, "--controlnet-scale", "1"], "was made with another controlnet_scale"),
        ([*hints, "--controlnet", nets["sd"], "--controlnet", nets["sd"], "--hint-kind=lines"], "another hint_kind"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["--resume", file, *other])
        assert words in capsys.readouterr().err
    trained_further(Path(nets["sd"]), tmp_path / "sd")
    with pytest.raises(SystemExit):
        cli.main(["--resume", file, *hints, "--controlnet", str(tmp_path / "sd"), "--controlnet", str(tmp_path / "sd")])
    assert "was made with another model's weights" in capsys.readouterr().err


def trained_further(folder: Path, target: Path) -> None:
    net = ControlNetModel.from_pretrained(str(folder))
    net.conv_in.weight.data.mul_(1.01)
    net.save_pretrained(str(target))


def latent_of(folder: Path) -> list[float]:
    from safetensors.torch import load_file

    values: list[float] = load_file(str(folder / "final.safetensors"))["latent"].flatten().tolist()
    return values


def test_the_plan_counts_them(
    nets: dict[str, str], folders: dict[str, Path], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["x", "--model", str(folders["sd"]), "--scale", "2", "--plan-only", "--no-decode"]
    assert run(*flags) == 0
    without = report(capsys)
    assert run(*flags, "--controlnet", nets["sd"], "--hint", hint) == 0
    for one, other in zip(report(capsys)["phases"], without["phases"], strict=True):
        assert one["memory_bytes"] > other["memory_bytes"] and one["evaluations"] == other["evaluations"]


def test_a_phase_holds_each_hint_at_its_size(models: dict[str, Model]) -> None:
    control = Control(net_for(models["sd"]), torch.zeros(1, 3, 64, 64))
    drawings = [Drawing(models["sd"], order_of(controls)) for controls in ([], [control, control])]
    phase = drawings[0].plan.phases[-1]
    without, with_two = (memory_bytes(drawing, phase, 1, False) for drawing in drawings)
    plane = control.plane((8, 8), (8, 8), (phase.height_lat, phase.width_lat))
    assert with_two - without == 2 * plane.numel() * plane.itemsize
