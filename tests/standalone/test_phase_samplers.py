"""A sampler and a scheduler of the phases' own on the command line and in the library."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from k_diffusion import sampling

from demofusion_lib.core import statistics, upsample, with_statistics
from demofusion_lib.params import Params
from demofusion_lib.standalone import cli
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import SAMPLERS, find_phase_sampler
from demofusion_lib.standalone.planned import memory_bytes

from .test_cli import infotext
from .test_drawing import EVALUATIONS, draw, error, order

Run = Callable[..., int]
PAIRS = [
    ("Euler", "DPM++ 2M"),
    ("Euler", "UniPC"),
    ("Euler", "Euler a"),
    ("DDIM", "Heun"),
    ("UniPC", "DDIM"),
    ("DPM++ SDE", "Euler"),
]
FEW = {"preset": "fast", "steps": 3}


def begun_from(drawing: Drawing, base: Finished, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What its phases make of another's base image."""
    monkeypatch.setattr(drawing, "_base", lambda: base)
    return list(drawing.phases())[-1].latent


@pytest.mark.parametrize("settings", [{}, FEW], ids=["paper", "few steps"])
@pytest.mark.parametrize(("base", "phase"), PAIRS)
def test_the_base_is_the_ones_and_the_phases_the_others(
    base: str, phase: str, settings: dict[str, object], models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: the base that the one draws alone, and the phases that the other draws of it."""
    drawn = draw(models["sd"], order(base, phase_sampler=phase, **settings))
    alone = draw(models["sd"], order(base, **settings))
    assert torch.equal(drawn[0].latent, alone[0].latent)
    other = begun_from(Drawing(models["sd"], order(phase, **settings)), alone[0], monkeypatch)
    assert torch.equal(drawn[-1].latent, other)
    assert error(drawn[-1].latent, alone[-1].latent) > 1e-3


@pytest.mark.parametrize("phase", [name for name in SAMPLERS if name in EVALUATIONS])
def test_evaluations_foretold_are_those_run(phase: str, models: dict[str, Model]) -> None:
    base = "Euler" if phase == "Heun" else "Heun"
    drawing = Drawing(models["sd"], order(base, phase_sampler=phase, dilated=False))
    first, second = drawing.phases()
    assert first.evaluations == EVALUATIONS[base] == drawing.plan.base_evaluations
    assert second.evaluations == 9 * EVALUATIONS[phase] == drawing.plan.evaluations(drawing.plan.phases[0])
    assert drawing.plan.is_exact


@pytest.mark.parametrize("phase", ["DPM++ SDE", "UniPC", "Heun"])
def test_the_residual_enters_where_the_phases_solver_begins_a_step(phase: str, models: dict[str, Model]) -> None:
    """At full strength in every step a phase ends at the enlarged base latent, as `test_drawing` has it."""
    base, last = draw(models["sd"], order("Euler", phase_sampler=phase, a1=0.0, a2=10.0))
    assert error(last.latent, with_statistics(upsample(base.latent, 16, 16), *statistics(base.latent))) < 0.1


@pytest.mark.parametrize("start", [1000, 601])
@pytest.mark.parametrize("scheduler", ["Karras", "Exponential", "Polyexponential"])
def test_the_schedule_of_the_phases(scheduler: str, start: int, models: dict[str, Model]) -> None:
    settings = {"phase_sampler": "DPM++ 2M", "phase_scheduler": scheduler, "start": start, "steps": 5}
    drawing = Drawing(models["sd"], replace(order("Euler", **settings), scheduler="Uniform"))
    schedule = drawing.schedule
    high, low = (999.0, 0.0) if start == 1000 else (601.0, 601 / 5)
    make = getattr(sampling, f"get_sigmas_{scheduler.lower()}")
    expected = make(5, schedule.level(low), schedule.level(high))[:-1].tolist()
    assert drawing.plan.phase_levels == pytest.approx([schedule.t(sigma) for sigma in expected], rel=1e-4, abs=1e-3)
    even = [schedule.t(float(sigma)) for sigma in schedule.sigmas(8, "Uniform")[:-1]]
    assert drawing.plan.levels(8, None) == pytest.approx(even)


@pytest.mark.parametrize(
    ("base", "settings", "name", "scheduler"),
    [
        (("Euler", "Automatic"), {}, "Euler", "Uniform"),
        (("Euler", "Karras"), {"phase_sampler": "LMS"}, "LMS", "Karras"),
        (("DPM++ 2M Karras", "Automatic"), {"phase_sampler": "Euler"}, "Euler", "Karras"),
        (("Euler", "Karras"), {"phase_sampler": "DDIM"}, "DDIM", "Uniform"),
        (("DDIM", "Automatic"), {"phase_sampler": "DPM++ 2M"}, "DPM++ 2M", "Karras"),
        (("Euler", "Uniform"), {"phase_sampler": "DPM++ 2M", "phase_scheduler": "Automatic"}, "DPM++ 2M", "Karras"),
        (("Euler", "Uniform"), {"phase_scheduler": "Exponential"}, "Euler", "Exponential"),
        (("Euler", "Uniform"), {"phase_sampler": "DPM++ 2M SDE Karras"}, "DPM++ 2M SDE", "Karras"),
        (("LMS Karras", "Automatic"), {"phase_sampler": "DPM2 a Exponential"}, "DPM2 a", "Exponential"),
    ],
)
def test_what_same_and_automatic_mean(
    base: tuple[str, str], settings: dict[str, str], name: str, scheduler: str
) -> None:
    found = find_phase_sampler(Params.from_names(settings), *base)
    assert (found[0].name, found[1]) == (name, scheduler)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"phase_sampler": "LCM"}, "phase_sampler is 'LCM', allowed: same, DPM++ 2M, "),
        ({"phase_scheduler": "Beta"}, "phase_scheduler is 'Beta', allowed: same, Automatic, Uniform, Karras, "),
        (
            {"phase_sampler": "LMS Karras", "phase_scheduler": "Exponential"},
            "phase_sampler is 'LMS Karras', allowed: same, DPM++ 2M, ",
        ),
        (
            {"phase_sampler": "DDIM", "phase_scheduler": "Karras"},
            "phase_scheduler is 'Karras', allowed with DDIM: same, Automatic",
        ),
    ],
    ids=str,
)
def test_what_is_refused_in_the_library(settings: dict[str, object], message: str, models: dict[str, Model]) -> None:
    with pytest.raises(UserError) as raised:
        Drawing(models["sd"], order(**settings))
    assert str(raised.value).startswith(message)


def test_few_steps_of_the_phases_do_not_bind_the_bases_sampler(models: dict[str, Model]) -> None:
    drawn = draw(models["sd"], order("UniPC", phase_sampler="Euler", steps=1, dilated=False))
    assert [phase.evaluations for phase in drawn] == [8, 9]


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("settings", [{"preset": "draft"}, {"start": 1000}], ids=str)
@pytest.mark.parametrize("phase", ["Euler a", "DDIM", "DPM++ 2M"])
def test_few_step_models(phase: str, settings: dict[str, object], steps: int, models: dict[str, Model]) -> None:
    """Without guidance, 1 to 4 steps a phase: a row for each window and step, and the sub-images of those with a weight."""
    wanted: Order = order("Heun", **{**settings, "steps": steps, "phase_sampler": phase})
    drawing = Drawing(models["sd"], replace(wanted, steps=2))
    base, last = drawing.phases()
    assert (base.evaluations, last.evaluations) == (3, drawing.plan.evaluations(drawing.plan.phases[0]))
    assert len(drawing.plan.phase_levels) == steps and last.evaluations >= 9 * steps
    assert torch.isfinite(last.latent).all()


def test_an_sde_of_the_phases_takes_its_memory(models: dict[str, Model]) -> None:
    """4 latents of the phase's size, of the 4 bytes that a number has, more than Euler."""
    plain, sde = (Drawing(models["sd"], order(phase_sampler=name)) for name in ("same", "DPM++ SDE"))
    base, phase = (
        memory_bytes(sde, p, 0, False) - memory_bytes(plain, p, 0, False) for p in (None, plain.plan.phases[0])
    )
    assert (base, phase) == (0, 4 * 4 * 16 * 16 * 4)


# The command line


@pytest.mark.parametrize("flags", [["DPM++ 2M", "--phase-scheduler=Karras"], ["DPM++ 2M Karras"]], ids=str)
def test_flags_and_infotext(flags: list[str], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the old name of both, too, as `--sampler` has it."""
    assert run("--json", "--phase-sampler", *flags) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["settings"]["phase_sampler"], report["settings"]["phase_scheduler"]) == ("DPM++ 2M", "Karras")
    told = infotext(tmp_path / "out" / "final.png")
    assert "Sampler: Euler, Schedule type: Uniform, " in told
    assert "DemoFusion phase sampler: DPM++ 2M, DemoFusion phase scheduler: Karras" in told


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--phase-sampler=LCM"], ["--phase-sampler", "'LCM'", "allowed: same, DPM++ 2M"]),
        (["--phase-sampler=LCM Karras"], ["--phase-sampler", "'LCM Karras'", "allowed: same, DPM++ 2M"]),
        (["--phase-scheduler=Beta"], ["--phase-scheduler", "'Beta'", "allowed: same, Automatic"]),
        (["--phase-sampler=DDIM", "--phase-scheduler=Karras"], ["phase_scheduler is 'Karras'", "allowed with DDIM"]),
    ],
    ids=str,
)
def test_bad_flags(flags: list[str], words: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--model=nowhere", *flags)  # before anything is loaded
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and all(word in said for word in words)


def test_a_run_that_goes_on_has_the_same_phases(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, real = tmp_path / "out" / "resume.safetensors", Drawing._phase

    def phase(self: Drawing, wanted: object, previous: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        if wanted.number == 3:  # type: ignore[attr-defined]
            raise MemoryError
        return real(self, wanted, previous, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Drawing, "_phase", phase)
        assert run("--save-phases", "--scale=3", "--phase-sampler=Heun", "--phase-scheduler=Karras") == 1
    for flag in ("--phase-sampler=Euler", "--phase-scheduler=same"):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main(["--resume", str(file), flag])
        assert f"made with another {flag[2:].partition('=')[0].replace('-', '_')}" in capsys.readouterr().err
    assert cli.main(["--resume", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["phase_sampler"] == "Heun"
    assert [(p["phase"], p["evaluations"]) for p in report["phases"]][1:] == [(3, 2 * (5 * 25 + 3 * 9))]  # two at t = 0
