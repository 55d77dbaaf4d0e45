"""Forge Classic, which has part of webui 1.8: no schedules beside its samplers' names, callbacks that are tuples, infotexts as
JSON, and a first evaluation without the negative prompt."""

import contextlib
import importlib
import json
import sys
import types
from collections import namedtuple

import pytest
import torch

from .test_pictures import alike, both

KIND = "Forge Classic"
SIZE = {"width": 64, "height": 64, "steps": 4}


@pytest.mark.parametrize(
    "fields", [{}, {"sampler_name": "DDIM"}, {"prompt": "cat AND dog :0.5", "batch_size": 2}], ids=str
)
def test_it_draws_what_the_first_host_draws(host, as_forge, fields):
    host.opts.skip_early_cond = -1.0  # which the first host's condition holds of no step either
    alike(*both(host, as_forge, {"scale": 2}, KIND, **fields)[:2])


@pytest.mark.parametrize(("share", "alone"), [(0.0, 1), (0.5, 3), (-1.0, 0)])
def test_phases_are_guided_from_the_first_evaluation(host, as_forge, share, alone):
    """Where its setting is 0, which says so; where a user has set it, it is heeded in the phases too."""
    as_forge(KIND)
    host.opts.skip_early_cond = share
    outcome = host.txt2img({"scale": 2, "dilated": False, "steps": 4}, **SIZE)
    assert host.opts.skip_early_cond == share
    base, phase = ([call.x.shape[0] for call in sampling.calls] for sampling in outcome.samplings)
    assert base == [1] * alone + [2] * (4 - alone)
    windows = len(phase) // 4
    assert sum(phase[:windows]) == (sum(phase[-windows:]) if alone < 2 else sum(phase[-windows:]) / 2)
    plan = importlib.import_module("demofusion_lib.webui.planning").plan_of(
        outcome.p, host.params.Params.from_names({"enabled": True, "scale": 2, "dilated": False, "steps": 4})
    )
    if share <= 0:
        assert [sum(base), sum(phase)] == [plan.base_evaluations, plan.evaluations(plan.phases[0])]


@pytest.fixture
def without_schedules(host, monkeypatch):
    """Each name of sampler and schedule is a sampler's."""
    samplers, karras = host.sd_samplers, "DPM++ 2M Karras"
    whole = samplers.find_sampler_config("DPM++ 2M")
    monkeypatch.setitem(samplers.all_samplers_map, karras, whole._replace(name=karras))
    monkeypatch.delattr(sys.modules["modules"], "sd_schedulers")
    monkeypatch.setitem(sys.modules, "modules.sd_schedulers", None)
    schedules = importlib.import_module("demofusion_lib.webui.schedules")
    importlib.reload(schedules)
    assert schedules.sd_schedulers is None
    choices = importlib.import_module("demofusion_lib.webui.choices")
    monkeypatch.setattr(choices, "schedulers", schedules.schedulers)
    return choices


def test_a_host_without_schedules(host, without_schedules):
    choices, params = without_schedules, host.params
    by_name = importlib.import_module("demofusion_lib.params").BY_NAME
    assert choices.offered(by_name["phase_scheduler"]) == ["same"]
    named = {"enabled": True, "phase_sampler": "DPM++ 2M", "phase_scheduler": "Karras"}
    found, error = choices.readable([named])
    assert error is None and (found.phase_sampler, found.phase_scheduler) == ("DPM++ 2M Karras", "same")
    p = host.generation({"scale": 2}, **SIZE)
    del p.scheduler
    assert choices.names_in_phases(p, params.Params.from_names({})) == ("Euler", "Automatic")
    assert choices.names_in_phases(p, found) == ("DPM++ 2M Karras", "Automatic")
    outcome = host.run(host.generation({"scale": 2, "phase_scheduler": "Karras"}, **SIZE))
    assert str(outcome.error) == "DemoFusion: phase_scheduler is 'Karras', allowed: same, Automatic"
    schedules = sys.modules["demofusion_lib.webui.schedules"]
    assert schedules.sampler_and_schedule("DDIM", "Karras") == ("DDIM", "Automatic")
    assert schedules.sampler_and_schedule("none", None)[0] == host.sd_samplers.all_samplers[0].name


def test_levels_between_whole_timesteps(host):
    """Where the host's own model knows the nearest whole one alone."""
    families = importlib.import_module("demofusion_lib.webui.families")
    assert host.model is not None
    found = []
    for quantized in (False, True):
        host.opts.enable_quantization = quantized
        family = families.family_of(host.sd_samplers.create_sampler("Euler", host.model))
        found.append(family.level(torch.tensor([2.34]))[0])
        late = families.Shortened(family.base, 601.5)
        assert float(late.sigma_to_t(late.sigma_max.reshape(1))) == pytest.approx(601.5, abs=1e-3)
    assert found[0] % 1 and found[0] == pytest.approx(found[1], abs=1e-4)


def test_callbacks_that_are_tuples(host):
    """What fails is not called again in that phase, nor is another of its file; the next phase begins anew."""
    guests = importlib.import_module("demofusion_lib.webui.guests")
    kind, called = namedtuple("ScriptCallback", ["script", "callback"]), []

    def failing(params):
        called.append("failing")
        raise RuntimeError("broken")

    calls = host.script_callbacks.callback_map["callbacks_cfg_denoiser"]
    own = [kind("a.py", failing), kind("a.py", lambda params: called.append("same file")), kind("b.py", called.append)]
    calls.extend(own)
    for _ in range(2):
        with guests.of_phase():
            for each in calls[-3:]:
                with contextlib.suppress(RuntimeError):
                    each.callback("other file")
    assert called == ["failing", "other file"] * 2
    assert all(each is before for each, before in zip(calls[-3:], own, strict=True))


def test_what_is_told_can_be_written_as_json(host):
    """As its `Processed.js` does, which knows no functions."""
    p = host.generation({"scale": 2, "phase_prompt": "owl", "phase_negative": "fog"}, **SIZE)
    outcome = host.run(p)
    told = json.loads(json.dumps(p.extra_generation_params))
    assert told["DemoFusion phase prompt"] == "owl" and told["DemoFusion phase negative"] == "fog"
    assert "DemoFusion phase prompt: owl" in outcome.infotext


def test_after_a_refiner_the_levels_are_made_by_its_loader(host, monkeypatch):
    made = []
    original = host.sd_models.apply_alpha_schedule_override
    monkeypatch.delattr(host.sd_models, "apply_alpha_schedule_override")
    loader = types.SimpleNamespace(apply_alpha_schedule_override=lambda *args: made.append(args) or original(*args))
    monkeypatch.setitem(sys.modules, "modules_forge.forge_loader", loader)
    sampling = importlib.import_module("demofusion_lib.webui.sampling")
    p = types.SimpleNamespace(sd_model=host.model, refiner_checkpoint_info=host.model.sd_checkpoint_info,
                              disable_extra_networks=True, tiling=False)  # fmt: skip
    assert sampling.back_to_base_model(p)
    assert made == [(p.sd_model, p)]
