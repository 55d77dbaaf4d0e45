"""What the plan foretells of a run, against the run, row for row."""

import importlib

import pytest
import torch

from .test_samplers import NAMES

SETTINGS = (
    {"scale": 2.5},
    {"scale": 2, "dilated": False, "steps": 22},
    {"scale": 2, "a2": 0.0, "steps": 36},
    {"scale": 3, "plan": "doubling", "a2": 10.0, "steps": 5},
    {"scale": 2, "preset": "fast", "steps": 5},
    {"scale": 3, "preset": "draft", "steps": 4},
)
"""All paths; no global path; no windows, and Restart's long run; a global path that soon has no weight, and few steps;
guidance in some steps; guidance by a pass of the base's size."""


def rows(sampling):
    return sum(len(call.x) for evaluation in sampling.evaluations for call in evaluation.calls)


def plan_of(host, p, settings):
    p.sd_model = host.model
    made = host.params.Params.from_names({"enabled": True, "preset": "none", **settings})
    return importlib.import_module("demofusion_lib.webui.planning").plan_of(p, made)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DPM adaptive"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_rows_of_every_sampler(host, name, settings):
    outcome = host.txt2img({"overlap": 0.25, **settings}, sampler_name=name, steps=6, batch_size=2)
    plan = plan_of(host, outcome.p, {"overlap": 0.25, **settings})
    foretold = [plan.base_evaluations, *map(plan.evaluations, plan.phases)]
    assert [rows(sampling) for sampling in outcome.samplings] == foretold
    assert plan.total_evaluations == sum(foretold)


@pytest.mark.parametrize("scheduler", ["Karras", "Exponential", "SGM Uniform", "KL Optimal", "Align Your Steps"])
def test_rows_of_every_kind_of_schedule(host, scheduler):
    settings = {"scale": 2, "a2": 4.0}
    outcome = host.txt2img(settings, sampler_name="DPM2 a", scheduler=scheduler, steps=7)
    plan = plan_of(host, outcome.p, settings)
    assert [rows(sampling) for sampling in outcome.samplings] == [
        plan.base_evaluations, plan.evaluations(plan.phases[0])
    ]  # fmt: skip


SCHEDULERS = (
    "Automatic", "Uniform", "Karras", "Exponential", "Polyexponential", "SGM Uniform", "KL Optimal", "Align Your Steps",
    "Simple", "Normal", "DDIM", "Beta",
)  # fmt: skip


def levels(sampling):
    return [float(evaluation.sigma[0]) for evaluation in sampling.evaluations]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["DPM2", "LCM"])
def test_a_late_start_with_every_schedule(host, scheduler, name):
    """As many steps as are asked for, from the start down, and none where nothing is left to draw."""
    for steps, start in ((3, 601),) if name == "LCM" else ((3, 601), (6, 300)):
        settings = {"scale": 2, "start": start, "steps": steps, "dilated": False}
        outcome = host.txt2img(settings, sampler_name=name, scheduler=scheduler, steps=4)
        plan = plan_of(host, outcome.p, settings)
        base, phase = outcome.samplings
        assert rows(phase) == plan.evaluations(plan.phases[0])
        seen = levels(phase)
        assert len(seen) == {"DPM2": 2 * steps - 1}.get(name, steps)
        assert seen == sorted(seen, reverse=True) and seen[0] < levels(base)[0]
        assert plan.phase_levels[0] == pytest.approx(start, abs=10)
        assert 0.5 * start / steps < plan.phase_levels[-1] < 2.5 * start / steps


@pytest.mark.parametrize("name", ["DDIM", "PLMS", "UniPC"])
def test_a_late_start_in_timesteps(host, name):
    settings = {"scale": 2, "start": 601, "steps": 3, "dilated": False}
    outcome = host.txt2img(settings, sampler_name=name, steps=4)
    seen = levels(outcome.phases[0])
    expected = [601, 401, 401, 200] if name == "PLMS" else [601, 401, 200]
    assert seen == pytest.approx(expected, abs=1)


def test_a_schedule_of_another_extension_is_cut(host):
    """`sampler_noise_scheduler_override` knows nothing of where a phase begins."""
    p = host.generation({"scale": 2, "start": 601, "steps": 3, "dilated": False}, steps=4)
    p.sampler_noise_scheduler_override = lambda steps: torch.linspace(6, 0, steps + 1)
    seen = levels(host.run(p).phases[0])
    first = float(
        importlib.import_module("k_diffusion.external").CompVisDenoiser(host.model).t_to_sigma(torch.tensor(601.0))
    )
    assert seen[0] == pytest.approx(first) and len(seen) == 3 and seen == sorted(seen, reverse=True)


def test_a_plan_leaves_nothing_on_the_run(host):
    p = host.generation({"scale": 2}, scheduler="Karras", sampler_name="DPM++ 2M")
    plan = plan_of(host, p, {"scale": 2})
    assert plan.units > 10
    assert p.extra_generation_params == {}
