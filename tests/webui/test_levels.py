"""A level is looked up in the model's table of noise once, and a late schedule made once, however often they are asked for."""

import importlib

import pytest


@pytest.mark.parametrize("preset", ["fast", "draft"])
def test_a_phase_makes_its_schedule_and_looks_its_levels_up_once(host, monkeypatch, preset):
    families = importlib.import_module("demofusion_lib.webui.families")
    made, looked = [], []
    within, on_cpu = families.SigmaFamily._within, families.on_cpu

    def counted(base):
        levels = on_cpu(base)
        look_up = levels.sigma_to_t
        levels.__dict__["sigma_to_t"] = lambda sigma: (looked.append(float(sigma)), look_up(sigma))[1]
        return levels

    def making(family, *args):
        made.append((id(family), args[-2:]))
        return within(family, *args)

    monkeypatch.setattr(families, "on_cpu", counted)
    monkeypatch.setattr(families.SigmaFamily, "_within", making)
    host.install()
    phases = importlib.import_module("demofusion_lib.webui.sampling").PhaseSampler
    sample = phases._sample

    def alone(sampler, *args):
        made.clear()
        looked.clear()
        return sample(sampler, *args)

    monkeypatch.setattr(phases, "_sample", alone)
    outcome = host.txt2img({"scale": 2, "preset": preset}, width=64, height=64, steps=4)
    sigmas = {float(evaluation.sigma[0]) for evaluation in outcome.phases[-1].evaluations}
    assert len(made) == len(set(made)) > 0
    assert sigmas <= set(looked)
    assert len(looked) == len(set(looked))
