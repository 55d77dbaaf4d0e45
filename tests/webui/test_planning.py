"""What the plan foretells of a run, against the run, row for row."""

import importlib

import pytest

from .test_samplers import NAMES

SETTINGS = (
    {"scale": 2.5},
    {"scale": 2, "dilated": False, "steps": 22},
    {"scale": 2, "a2": 0.0, "steps": 36},
    {"scale": 3, "plan": "doubling", "a2": 10.0, "steps": 5},
)
"""All paths; no global path; no windows, and Restart's long run; a global path that soon has no weight, and few steps."""


def rows(sampling):
    return sum(len(call.x) for evaluation in sampling.evaluations for call in evaluation.calls)


def plan_of(host, p, settings):
    p.sd_model = host.model
    made = host.params.Params.from_names({"enabled": True, **settings})
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


def test_a_plan_leaves_nothing_on_the_run(host):
    p = host.generation({"scale": 2}, scheduler="Karras", sampler_name="DPM++ 2M")
    plan = plan_of(host, p, {"scale": 2})
    assert plan.units > 10
    assert p.extra_generation_params == {}
