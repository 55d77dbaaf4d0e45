"""CFG scale, prompt and negative prompt of the phases' own."""

import importlib
import re

import pytest
import torch

from .test_families import SOLVERS, assert_close

PLAIN = {"scale": 2}


def asked(host, sampling):
    """What the model was asked with in a sampling: the numbers of its texts."""
    return {tuple(text.tolist()) for evaluation in sampling.evaluations for _, text in evaluation.patches}


def numbers(host, *texts):
    return {tuple(host.model.encode(text)[0].tolist()) for text in texts}


def events(host):
    """The extra networks that were activated, in order."""
    return [(kind, {name: [one.items for one in those] for name, those in data.items()})
            for kind, data in host.extra_networks._events]  # fmt: skip


def test_the_base_is_its_own_and_the_phases_are_those_of_the_other_prompts(host):
    outcome = host.txt2img({**PLAIN, "phase_prompt": "sea", "phase_negative": "fog", "phase_cfg": 5})
    plain = host.txt2img(PLAIN)
    base, phase = outcome.samplings
    assert asked(host, base) == numbers(host, "cat", "dog") and asked(host, phase) == numbers(host, "sea", "fog")
    assert torch.equal(phase.x, plain.phases[0].x)
    assert not torch.allclose(outcome.latents[0], plain.latents[0], atol=0.01)
    assert not host.swallowed


@pytest.mark.parametrize(
    "same",
    [{"phase_prompt": "cat"}, {"phase_negative": "dog"}, {"phase_cfg": 3}, {"phase_prompt": "cat", "phase_negative": "dog", "phase_cfg": 3.0}],
)  # fmt: skip
def test_the_base_images_own_change_nothing(host, same):
    plain, outcome = host.txt2img(PLAIN), host.txt2img({**PLAIN, **same})
    assert (
        torch.equal(outcome.latents[0], plain.latents[0]) and outcome.images[0].tobytes() == plain.images[0].tobytes()
    )
    assert "phase prompt" not in outcome.infotext and "phase negative" not in outcome.infotext


@pytest.mark.parametrize("few", [{}, {"preset": "draft"}], ids=["paper", "draft"])
@pytest.mark.parametrize("cfg", [0, 1, 5.5])
@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "UniPC", "LCM", "Heun"])
def test_phases_are_those_of_the_core_under_this_guidance(host, sampler, cfg, few):
    fields = {"sampler_name": sampler, "scheduler": "Uniform", "steps": 5, "batch_size": 2}
    settings = {**PLAIN, **few, "steps": 4, "phase_cfg": cfg, "enlarge": "latent"}
    own = {"phase_prompt": "sea", "phase_negative": "fog"}
    base = torch.cat(host.txt2img(None, **fields).latents)
    params = host.params.Params.from_names({"preset": "none", **settings})
    draw, solver = importlib.import_module("by_hand").draw, SOLVERS[sampler]
    expected = draw(host.model, base, params, solver, [5, 6], [("sea", "fog")] * 2, 4)[-1]
    drawn = torch.cat(host.txt2img({**settings, **own}, **fields).latents)
    assert_close(drawn, expected, 5e-5)  # guidance enlarges what rounding costs


@pytest.mark.parametrize("guidance", ["windows", "low-pass"])
@pytest.mark.parametrize("apart", [True, False])
def test_at_cfg_1_the_negative_prompt_is_not_asked(host, apart, guidance):
    host.opts.batch_cond_uncond = apart
    settings = {**PLAIN, "phase_cfg": 1, "guidance": guidance}
    outcome = host.txt2img(settings, batch_size=2)
    plan = host_plan(host, outcome.p, settings)
    base, phase = outcome.samplings
    assert asked(host, phase) == numbers(host, "cat") and asked(host, base) == numbers(host, "cat", "dog")
    assert sum(len(call.x) for call in phase.calls) == plan.evaluations(plan.phases[0])
    assert plan.base_evaluations == 2 * 2 * 4
    other = host.txt2img({**settings, "phase_negative": "fog"}, batch_size=2)
    assert all(torch.equal(one, two) for one, two in zip(outcome.latents, other.latents))


def host_plan(host, p, settings):
    planning = importlib.import_module("demofusion_lib.webui.planning")
    return planning.plan_of(p, host.params.Params.from_names({"enabled": True, "preset": "none", **settings}))


def test_cfg_1_draws_what_the_prompt_alone_does(host):
    """The host asks for the negative prompt at CFG 1 too, and takes it away again."""
    alone = host.txt2img({**PLAIN, "phase_cfg": 1}).latents[0]
    nearly = host.txt2img({**PLAIN, "phase_cfg": 1 + 1e-6}).latents[0]
    assert torch.allclose(alone, nearly, atol=1e-4)
    assert torch.equal(alone, host.txt2img({**PLAIN, "phase_cfg": 1, "phase_negative": "fog"}).latents[0])
    base_too = host.txt2img(PLAIN, cfg_scale=1)
    assert asked(host, base_too.phases[0]) == numbers(host, "cat")


@pytest.mark.parametrize(("prompt", "asks"), [("cat :0.5 AND sea :0.5", False), ("cat AND sea :0.5", True)])
def test_weights_that_do_not_add_up_need_the_negative_prompt_at_cfg_1(host, prompt, asks):
    phase = host.txt2img({**PLAIN, "phase_cfg": 1, "phase_prompt": prompt}).phases[0]
    assert asked(host, phase) == numbers(host, "cat", "sea", *(["dog"] if asks else []))


def test_a_sampler_that_steps_along_the_negative_prompts_noise_asks_for_it_at_cfg_1(host):
    settings = {**PLAIN, "phase_cfg": 1, "phase_sampler": "DDIM CFG++"}
    outcome = host.txt2img(settings)
    plan = host_plan(host, outcome.p, settings)
    assert asked(host, outcome.phases[0]) == numbers(host, "cat", "dog")
    assert sum(len(call.x) for call in outcome.phases[0].calls) == plan.evaluations(plan.phases[0])


def test_a_batch_of_other_prompts_follows_each_where_the_phases_have_none(host):
    fields = {"prompt": ["cat", "sun"], "negative_prompt": ["dog", "fog"], "batch_size": 2}
    one = host.txt2img({**PLAIN, "phase_negative": "rain"}, **fields)
    assert asked(host, one.phases[0]) == numbers(host, "cat", "sun", "rain")
    both = host.txt2img({**PLAIN, "phase_prompt": "sea"}, **fields)
    assert asked(host, both.phases[0]) == numbers(host, "sea", "dog", "fog")


def test_the_infotext_of_each_image_tells_of_prompts_that_are_not_its_own(host):
    fields = {"prompt": ["cat", "sea"], "negative_prompt": ["dog", "dog"], "n_iter": 2}
    outcome = host.txt2img({**PLAIN, "phase_prompt": "sea", "phase_cfg": 2, "keep_phases": True}, **fields)
    told = ["DemoFusion phase prompt: sea" in text for text in outcome.processed.infotexts]
    assert told == [True, False, True, False]
    assert all("DemoFusion phase cfg: 2" in text for text in outcome.processed.infotexts)


@pytest.mark.parametrize("text", ['"red"', "a, b\nc: d", "[sun:sea:0.5] AND fog :0.5", "<lora:x:0.5>sea", "64x64"])
def test_pasting_brings_the_prompts_back(host, text):
    outcome = host.txt2img({**PLAIN, "phase_prompt": text, "phase_negative": text})
    params = host.infotext_utils.parse_generation_parameters(outcome.infotext)
    pasted = host.params.Params.from_infotext(params)
    assert (pasted.phase_prompt, pasted.phase_negative) == (text, text)


def test_times_in_the_phases_prompt_are_those_of_all_prompts(host):
    """A share below 1 is the same in each phase; from 1 on it waits for the phases."""
    for time, counts in (("0.5", [3, 1]), ("1.25", [2, 2])):
        phase = host.txt2img({**PLAIN, "phase_prompt": f"[sea:sun:{time}]"}).phases[0]
        words = [numbers(host, "sea") <= {tuple(text.tolist()) for _, text in e.patches} for e in phase.evaluations]
        assert [words.count(True), words.count(False)] == counts


def test_styles_are_added_as_to_every_prompt_and_taken_off_when_pasted(host):
    host.shared.prompt_styles.styles["old"] = host.styles.PromptStyle("old", "oil", "photo")
    outcome = host.txt2img({**PLAIN, "phase_prompt": "sea", "phase_negative": "fog"}, styles=["old"])
    assert asked(host, outcome.phases[0]) == numbers(host, "sea, oil", "fog, photo")
    assert 'DemoFusion phase prompt: "sea, oil"' in outcome.infotext
    found = host.infotext_utils.parse_generation_parameters(outcome.infotext)
    read = importlib.import_module("demofusion_lib.webui.pasting").read
    for styles, texts in (([], ("sea, oil", "fog, photo")), (["old", "gone"], ("sea", "fog"))):
        values, errors = read({**found, "Styles array": styles})
        assert (values["phase_prompt"], values["phase_negative"]) == texts and not errors


def test_extra_networks_of_the_phases(host):
    outcome = host.txt2img({**PLAIN, "phase_prompt": "sea<lora:b:1>"}, prompt="cat<lora:a:1>")
    a, b = {"lora": [["a", "1"]]}, {"lora": [["b", "1"]]}
    assert events(host) == [("activate", a), ("activate", b), ("activate", a), ("deactivate", a)]
    assert asked(host, outcome.phases[0]) == numbers(host, "sea", "dog")
    assert outcome.p.prompts == ["cat"] or outcome.p.prompts == ["cat<lora:a:1>"]
    assert 'DemoFusion phase prompt: "sea<lora:b:1>"' in outcome.infotext


def test_the_base_images_networks_stay_where_the_phases_have_no_prompt(host):
    host.txt2img({**PLAIN, "phase_negative": "fog"}, prompt="cat<lora:a:1>")
    a = {"lora": [["a", "1"]]}
    assert events(host) == [("activate", a), ("deactivate", a)]


def test_the_base_images_networks_come_back_after_a_fault(host):
    calls = []

    def fail(n):
        calls.append(n)
        if n > 8:
            raise RuntimeError("no")

    host.model.hooks.on_call = fail
    host.txt2img({**PLAIN, "phase_prompt": "sea<lora:b:1>"}, prompt="cat<lora:a:1>")
    assert [data for kind, data in events(host) if kind == "activate"][-1] == {"lora": [["a", "1"]]}


def test_kept_phases_tell_of_the_networks_in_their_prompts(host):
    outcome = host.txt2img({"scale": 3, "keep_phases": True}, prompt="cat<lora:a:1>")
    assert all(re.match("cat<lora:a:1>\n", text) for text in outcome.processed.infotexts[1:])


def test_everything_that_a_phase_sets_is_put_back(host):
    outcome = host.txt2img({**PLAIN, "phase_prompt": "sea", "phase_negative": "fog", "phase_cfg": 5})
    assert (outcome.p.cfg_scale, outcome.p.is_hr_pass) == (3.0, False)
    assert "CFG scale: 3.0" in outcome.infotext and outcome.infotext.startswith("cat\nNegative prompt: dog\n")
