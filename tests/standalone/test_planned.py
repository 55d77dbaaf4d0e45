"""`--plan-only`: what it foretells is what a run does, and nothing is drawn for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from demofusion_lib.params import Params
from demofusion_lib.standalone import cli, planned
from demofusion_lib.standalone.decoding import Way, decode
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.planned import plan_report, settled

from ..live_bytes import LiveBytes

Run = Callable[..., int]


def order(sampler: str = "Euler", images: int = 1, guidance: float = 5.0, **settings: object) -> Order:
    params = Params.from_names({"enabled": True, "preset": "none", "keep_phases": True, **settings})
    prompts, seeds = ["a red disc"] * images, list(range(images))
    return Order(prompts, seeds, 64, 64, params, steps=3, sampler=sampler, guidance=guidance)


def measured(drawing: Drawing, decodes: bool) -> list[int]:
    """The most that was alive at once in each phase and while its picture was decoded."""
    peaks = []
    with LiveBytes() as live:
        for phase in drawing.phases():
            if decodes:
                decode(drawing.model, phase.latent, Way("exact"))
            peaks.append(live.peak)
            live.restart()
    return peaks


@pytest.mark.parametrize("decodes", [False, True])
@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sd", order(scale=3, window_batch=5)), ("sd", order("DPM++ 2M", scale=2)),
        ("sdxl", order("Heun", images=2, scale=2, window_batch=7)),
        ("sd", order(scale=4, plan="direct", window_batch=1, guidance=1.0)), ("sd", order(a2=0.0, window_batch=3)),
    ],
    ids=["sd", "automatic", "batch of sdxl", "one by one", "global alone"],
)  # fmt: skip
def test_memory_is_foretold_within_a_quarter(name: str, wanted: Order, decodes: bool, models: dict[str, Model]) -> None:
    drawing = Drawing(models[name], wanted)
    told = [phase["memory_bytes"] for phase in plan_report(drawing, decodes=decodes)["phases"]]
    assert told == pytest.approx(measured(drawing, decodes), rel=0.25)


def test_latents_count_where_they_are_large(models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that takes next to nothing, at 36 times its own size: what is left is what code and sampler hold."""

    class Small(torch.nn.Module):
        config, dtype, device = models["sd"].unet.config, torch.float32, torch.device("cpu")

        def forward(self, x: torch.Tensor, *given: object, **named: object) -> tuple[torch.Tensor]:
            return (x * 0.5,)

    for sampler, guidance in (("Euler", 1.0), ("Euler", 5.0), ("DPM++ 2M SDE", 5.0), ("Heun", 5.0), ("DDIM", 5.0)):
        wanted = order(sampler, guidance=guidance, scale=6, plan="direct", window_batch=1)
        drawing = Drawing(replace(models["sd"], unet=Small()), wanted)
        told = plan_report(drawing, decodes=False)["phases"][-1]["memory_bytes"]
        assert told == pytest.approx(measured(drawing, False)[-1], rel=0.25), (sampler, guidance)


def test_an_automatic_batch_is_foretold(models: dict[str, Model]) -> None:
    batch = Drawing(models["sd"], order()).batch
    for free, size in ((None, 4), (10**12, 16), (10_000, 6), (10, 1)):
        batch.free_bytes = lambda free=free: free  # type: ignore[misc]
        assert settled(batch, 1000).size == size and batch.size is None
    assert settled(Drawing(models["sd"], order(window_batch=3)).batch, 1000).size == 3


def planned_by(capsys: pytest.CaptureFixture[str], run: Run, *flags: str) -> dict[str, Any]:
    assert run("--plan-only", "--json", *flags) == 0
    said = capsys.readouterr()
    assert said.out.count("\n") == 1
    return json.loads(said.out)


def test_nothing_is_drawn(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[tuple[int, ...]] = []
    real = UNet2DConditionModel.forward

    def forward(self: UNet2DConditionModel, x: torch.Tensor, *given: object, **named: object) -> object:
        rows.append(tuple(x.shape))
        return real(self, x, *given, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", forward)
    monkeypatch.setattr("diffusers.AutoencoderKL.decode", lambda *given: 1 / 0)
    report = planned_by(capsys, run, "--scale", "3", "--width", "128")
    assert rows == [(1, 4, 8, 16)]
    assert not (tmp_path / "out").exists()
    sizes = [(phase["width"], phase["height"]) for phase in report["phases"]]
    assert sizes == [(128, 64), (256, 128), (384, 192)]
    assert report["units"] == pytest.approx(sum(p["evaluations"] for p in report["phases"]) / 6, abs=1e-3)
    assert all(phase["windows"] > 0 and phase["memory_bytes"] > 0 for phase in report["phases"])


def test_a_run_does_what_was_planned(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned_by(capsys, run, "--scale", "3", "--a2", "3")
    assert run("--scale", "3", "--a2", "3", "--json") == 0
    drawn = json.loads(capsys.readouterr().out)["phases"]
    keys = ("phase", "width", "height", "evaluations")
    assert [[phase[key] for key in keys] for phase in plan["phases"]] == [[p[key] for key in keys] for p in drawn]


def test_a_line_for_each_phase(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]
) -> None:
    monkeypatch.setattr(planned, "memory_bytes", lambda *given: 3 << 29)
    assert run("--plan-only", "--out", "/proc/nowhere") == 0  # which is left alone
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "phase 1: 64x64, whole, 6 evaluations, 1.50 GiB",
        "phase 2: 128x128, 9 windows + 4 sub-images, 70 evaluations, 1.50 GiB",
        "all: 76 evaluations, 12.667 times the base image's",
    ]
    model = ["--model", str(folders["sd"]), "--device", "cpu", "--sampling-steps", "3", "--preset", "none"]
    assert cli.main(["--plan-only", *model]) == 0  # nor is a prompt needed
    assert capsys.readouterr().out.splitlines() == lines


def test_pictures_that_are_not_decoded_take_no_memory(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    whole = [p["memory_bytes"] for p in planned_by(capsys, run, "--window-batch", "1")["phases"]]
    last = [p["memory_bytes"] for p in planned_by(capsys, run, "--window-batch", "1", "--no-keep-phases")["phases"]]
    none = [p["memory_bytes"] for p in planned_by(capsys, run, "--window-batch", "1", "--no-decode")["phases"]]
    assert whole[0] > last[0] == none[0] and whole[1] == last[1] > none[1]


def test_what_can_not_be_counted_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("--plan-only", "--sampler", "DPM adaptive", "--json")
    assert json.loads(capsys.readouterr().out)["exact"] is False
    run("--plan-only", "--sampler", "DPM adaptive")
    assert "all: about " in capsys.readouterr().out
    run("--plan-only", "--json")
    assert json.loads(capsys.readouterr().out)["exact"] is True
