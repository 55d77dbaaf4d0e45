"""What other extensions do in every evaluation: it ends where it fails, begins anew with each phase, and is told of."""

import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

SETTINGS = {"preset": "none", "scale": 3}


def self_attention(host, seen):
    """Reads a map of one size, then guides by what it has read, or has read before: two callbacks of one file."""
    held = {}

    def read(params):
        held["now"] = params.x[:1].clone()
        if held["now"].shape[-1] != 16:
            raise RuntimeError("a map of another size")

    def guide(params):
        seen.append(params.x.shape[-1])
        params.x = params.x + 1

    host.script_callbacks.on_cfg_denoised(read)
    host.script_callbacks.on_cfg_after_cfg(guide)


def test_a_guest_that_fails_in_a_phase_is_left_out_of_it(host):
    """Or it would guide by what it holds of an earlier picture."""
    seen = []
    self_attention(host, seen)
    host.txt2img(SETTINGS)
    assert seen == [16] * 4  # the base image's evaluations
    assert len(host.swallowed) == 2  # once a phase, not once an evaluation


def test_then_the_phase_is_drawn_as_without_it(host):
    picture = Image.effect_noise((128, 128), 60).convert("RGB")
    alone = host.run(host.of_picture(picture, {**SETTINGS, "scale": 2}))
    self_attention(host, [])
    both = host.run(host.of_picture(picture, {**SETTINGS, "scale": 2}))
    assert host.swallowed and np.array_equal(both.images[0], alone.images[0])


def test_what_a_guest_raises_is_the_webuis_to_report(host):
    self_attention(host, [])
    host.txt2img({**SETTINGS, "scale": 2})
    ((_, error),) = host.swallowed
    assert str(error) == "a map of another size"


def test_its_callbacks_are_its_own_again_also_after_a_fault(host):
    self_attention(host, [])
    kinds = ("callbacks_cfg_denoised", "callbacks_cfg_after_cfg", "callbacks_cfg_denoiser")
    before = [each.callback for kind in kinds for each in host.script_callbacks.callback_map[kind]]
    host.txt2img(SETTINGS)
    host.model.hooks.on_call = lambda number: (_ for _ in ()).throw(ValueError("gone")) if number > 5 else None
    assert "gone" in host.txt2img(SETTINGS).infotext
    assert [each.callback for kind in kinds for each in host.script_callbacks.callback_map[kind]] == before


def test_a_count_of_evaluations_begins_anew_with_each_phase(host, monkeypatch):
    """FreeU's, which is at work in the first so many of a batch: the base image's alone, else."""
    counter, counts = types.SimpleNamespace(current_sampling_step=0), []
    monkeypatch.setitem(sys.modules, "lib_free_u.global_state", counter)

    def count(params):
        counts.append(counter.current_sampling_step)
        counter.current_sampling_step += 1

    host.script_callbacks.on_cfg_after_cfg(count)
    host.txt2img({**SETTINGS, "steps": 3})
    assert counts == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]


def own_sampler(host):
    """A script that puts a sampler of its own in the place of the one asked for, as dynamic thresholding does."""

    class Puts(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def process_batch(self, p, *args, **kwargs):
            config = host.sd_samplers.find_sampler_config(p.sampler_name)

            def constructor(model):
                sampler = config.constructor(model)
                forward = sampler.model_wrap_cfg.forward
                sampler.model_wrap_cfg.forward = lambda *args, **kwargs: forward(*args, **kwargs) * 0.5
                return sampler

            common = host.sd_samplers_common
            p.sampler_name = f"{p.sampler_name}_own"
            data = common.SamplerData(p.sampler_name, constructor, config.aliases, config.options)
            host.sd_samplers.all_samplers_map[p.sampler_name] = data

    return Puts()


@pytest.mark.parametrize(("asked", "left"), [("same", False), ("Euler", True), ("DPM++ 2M", True)])
def test_an_extensions_own_sampler_that_the_phases_leave_is_named(host, asked, left):
    settings = {**SETTINGS, "scale": 2, "phase_sampler": asked}
    outcome, plain = host.txt2img(settings, scripts=(own_sampler(host),)), host.txt2img(settings)
    told = "another extension (test_guests.py) draws in the base image only, as the phases have a sampler of their own"
    assert (told in outcome.infotext) == left and "a sampler of their own" not in plain.infotext
    first, unmoved = outcome.phases[0].evaluations[0], plain.phases[0].evaluations[0]
    assert not torch.equal(outcome.base.evaluations[0].guided, first.guided)
    assert unmoved.guided.shape == first.guided.shape


def lays(host, name, values):
    members = {"show": lambda self, is_img2img: host.scripts.AlwaysVisible}
    script = type(name, (host.scripts.Script,), members)()
    p = host.generation({**SETTINGS, "scale": 2})
    p.scripts._add(script, values)
    p.script_args = tuple(p.scripts.inputs)
    return host.run(p)


ON = [[{"enabled": True}], [True, "other"]]
OFF = [[{"enabled": False}], [{}], [None], [], [False, True]]


@pytest.mark.parametrize("values", [*ON, *OFF])
@pytest.mark.parametrize("name", ["ICLightScript", "OtherScript"])
def test_a_picture_laid_beneath_the_whole_is_refused_by_name(host, name, values):
    outcome = lays(host, name, values)
    if name == "ICLightScript" and values in ON:
        assert "IC-Light is on, allowed: the one or the other" in str(outcome.error) and not outcome.calls
    else:
        assert outcome.error is None and outcome.sizes == [(256, 256)]
