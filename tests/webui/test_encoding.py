"""How often prompts are encoded: anew for the phases only where what is encoded may differ there."""

import importlib

import pytest
import torch

SIZE = {"width": 64, "height": 64, "steps": 4}
FEW = {"scale": 3, "steps": 2}
"""Two phases, with another number of steps than the base image's."""


def encodings(host, settings, **fields):
    """How many texts are encoded in a run that finds none in the host's cache."""
    processing = host.processing.StableDiffusionProcessing
    processing.cached_c, processing.cached_uc = [None, None], [None, None]
    before = len(host.model.encoded)
    outcome = host.txt2img(settings, **SIZE, **fields)
    assert [len(phase.evaluations) for phase in outcome.phases] == [2] * len(outcome.phases)
    assert outcome.p.steps == 4
    return len(host.model.encoded) - before


@pytest.mark.parametrize("prompt", ["cat", "cat AND sea :0.5", "(cat:1.2) sea"])
def test_prompts_that_never_change_are_encoded_once(host, prompt):
    assert encodings(host, FEW, prompt=prompt) == encodings(host, None, prompt=prompt) > 0


@pytest.mark.parametrize(
    ("fields", "sdxl"),
    [({"prompt": "[cat:sea:0.5]"}, False), ({"negative_prompt": "[dog|sea]"}, False), ({"prompt": "cat"}, True)],
    ids=str,
)
def test_what_may_change_is_encoded_for_every_phase(host, fields, sdxl):
    host.install(sdxl=sdxl)
    assert encodings(host, FEW, **fields) == 3 * encodings(host, None, **fields) > 0


def test_the_phases_are_those_of_prompts_encoded_anew(host, monkeypatch):
    kept = host.txt2img(FEW, **SIZE, prompt="cat").latents[-1]
    monkeypatch.setattr(importlib.import_module("demofusion_lib.webui.sampling"), "may_change", lambda prompts: True)
    assert torch.equal(host.txt2img(FEW, **SIZE, prompt="cat").latents[-1], kept)
