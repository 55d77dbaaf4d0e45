"""Phases of few steps on the command line's models: where they begin, what holds them, how they are guided."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import cosine_factor, upsample
from demofusion_lib.standalone.drawing import Drawing
from demofusion_lib.standalone.guidance import EpsForm, Guided, SigmaForm, SizeTold
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import SAMPLERS, SCHEDULERS
from demofusion_lib.standalone.prompts import encode
from demofusion_lib.standalone.samplers import Schedule, Solver

from .test_drawing import draw, error, order

EVEN = [601.0, 401.0, 200.0]


def solver(model: Model, name: str, steps: int, start: float | None, scheduler: str = "Uniform") -> Solver:
    return Solver(SAMPLERS[name], Schedule(model.alphas_cumprod), scheduler, steps, start)


@pytest.mark.parametrize("name", ["Euler", "DDIM", "UniPC"])
def test_steps_are_spread_evenly_from_the_start(name: str, models: dict[str, Model]) -> None:
    made = solver(models["sd"], name, 3, 601.0)
    assert made.levels_t() == pytest.approx(EVEN, abs=1)
    alpha, sigma = made.schedule.alpha_sigma(601)
    assert made.start.sigma / made.start.alpha == pytest.approx(sigma / alpha, rel=1e-5)


@pytest.mark.parametrize("scheduler", SCHEDULERS[1:])
def test_every_schedule_begins_at_the_start_and_ends_a_step_above_nothing(
    scheduler: str, models: dict[str, Model]
) -> None:
    made = solver(models["sd"], "Euler", 4, 500.0, scheduler)
    levels = made.levels_t()
    assert levels[0] == pytest.approx(500, abs=0.1) and levels[-1] == pytest.approx(125, abs=0.1)
    assert len(levels) == 4 and levels == sorted(levels, reverse=True) and float(made.levels[-1]) == 0


@pytest.mark.parametrize("settings", [{"preset": "fast"}, {"preset": "draft"}, {"start": 300}], ids=str)
def test_ddim_and_euler_go_the_same_way(settings: dict[str, object], models: dict[str, Model]) -> None:
    """They are one solver in two forms; DDIM stops at the schedule's last level, and its timesteps are whole."""
    settings = {**settings, "skip_residual": "preset" in settings, "dilated": False, "steps": 5}
    base = draw(models["sd"], order("Euler"))[0].latent
    latents = []
    for name in ("Euler", "DDIM"):
        drawing = Drawing(models["sd"], replace(order(name, **settings), guidance=3.0))
        drawing._encode()
        phase = drawing.plan.phases[0]
        latents.append(drawing._phase(phase, upsample(base, phase.height_lat, phase.width_lat), base))
    assert error(latents[1], latents[0]) < 0.02
    assert error(latents[1], upsample(base, *latents[1].shape[-2:])) > 0.05


def test_a_step_is_what_the_formulas_say(models: dict[str, Model]) -> None:
    """One step of Euler from the start: windows without a negative prompt, guided and held by hand."""
    model = models["sd"]
    wanted = replace(order(preset="draft", steps=1, start=601, overlap=0.0, jitter=False), guidance=3.0)
    drawing = Drawing(model, wanted)
    drawing._encode()
    phase, base = drawing.plan.phases[0], draw(model, order())[0].latent
    previous = upsample(base, phase.height_lat, phase.width_lat)
    got = drawing._phase(phase, previous, base)

    schedule, weight = Schedule(model.alphas_cumprod), cosine_factor(601)
    sigma = schedule.level(601)
    x = previous + sigma * drawing._noise(phase.height_lat, phase.width_lat, phase.number)
    told = SizeTold((128, 128), (128, 128))

    def asked(part: torch.Tensor, text: str, level: float) -> torch.Tensor:
        guided = Guided(model, encode(model, [text]), encode(model, [text]), 1.0, told)
        return guided(part, schedule.t(level), SigmaForm(level, model.prediction))

    prompt = wanted.prompts[0]
    rows = [torch.cat([asked(x[..., i : i + 8, j : j + 8], prompt, sigma) for j in (0, 8)], dim=-1) for i in (0, 8)]
    q = F.avg_pool2d(x, 2)
    difference = asked(q, prompt, sigma / 2) - asked(q, "", sigma / 2)
    denoised = torch.cat(rows, dim=-2) + 2.0 * F.interpolate(difference, scale_factor=2, mode="bicubic")
    held = denoised + weight * F.interpolate(base - F.avg_pool2d(denoised, 2), scale_factor=2, mode="bicubic")
    assert error(got, held) < 1e-4
    assert error(got, denoised) > 1e-2


def test_less_noise_in_both_forms(models: dict[str, Model]) -> None:
    schedule = Schedule(models["sd"].alphas_cumprod)
    t, form = schedule.shrunk(SigmaForm(2.0, "epsilon"), 0.25)
    assert form == SigmaForm(0.5, "epsilon") and t == schedule.t(0.5)
    t, small = schedule.shrunk(EpsForm(0.6, 0.8, "epsilon"), 0.5)
    assert isinstance(small, EpsForm)
    assert small.sigma / small.alpha == pytest.approx(
        0.5 * 0.8 / 0.6
    ) and small.alpha**2 + small.sigma**2 == pytest.approx(1)
    assert t == pytest.approx(schedule.t(0.5 * 0.8 / 0.6))


def test_without_a_negative_prompt_there_is_nothing_to_guide_by(models: dict[str, Model]) -> None:
    plain, low = (draw(models["sd"], order(preset="draft", guidance=g))[-1] for g in ("windows", "low-pass"))
    assert torch.equal(plain.latent, low.latent) and plain.evaluations == low.evaluations
