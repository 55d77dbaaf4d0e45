"""Settings on their way from the API into a generation and from there into its infotext."""

import importlib
import re

import pytest
import torch

from demofusion_lib.params import SETTINGS

BAD = {
    "unknown name": ({"scael": 4}, ["scael", "scale", "keep_phases"]),
    "above the range": ({"scale": 9}, ["scale", "9", "1 to 8"]),
    "below the range": ({"blur": -0.5}, ["blur", "-0.5", "0 to 5"]),
    "of another type": ({"scale": "4"}, ["scale", "'4'", "1 to 8"]),
    "not whole": ({"steps": 2.5}, ["steps", "2.5", "whole numbers 0 to 150"]),
    "not a truth": ({"jitter": "no"}, ["jitter", "'no'", "true or false"]),
    "not a choice": ({"plan": "tripling"}, ["plan", "'tripling'", "every, doubling, direct"]),
    "not a number": ({"a1": float("nan")}, ["a1", "nan", "0 to 10"]),
    "target off the grid": ({"target_width": 1001}, ["target_width", "1001", "multiples of 8"]),
    "target below the base": ({"target_width": 64}, ["target_width", "64", "128 to 1024"]),
    "target far above the base": ({"target_height": 2048}, ["target_height", "2048", "128 to 1024"]),
    "too many values": ([True, 2.0] + [None] * 60, ["62 arguments", f"at most {len(SETTINGS)},"]),
    "not what it should be, by place": ([True, "big"], ["scale", "'big'", "1 to 8"]),
    "several at once": (
        {"scale": 9, "blur": -1, "scael": 4},
        ["scael", "scale is 9", "blur is -1", "0 to 5"],
    ),
    "two targets": (
        {"target_width": 64, "target_height": 2048},
        ["target_width is 64", "target_height is 2048"],
    ),
    "near an allowed one": (
        {"target_width": 1351},
        ["target_width is 1351", "128 to 1024 for this base image, multiples of 8 (the nearest is 1024)"],
    ),
    "near two allowed ones": (
        {"target_width": 1e300, "target_height": 515.5},
        ["target_width is 1e+300", "nearest is 1024", "target_height is 515.5", "nearest is 512"],
    ),
    "a name that no encoding carries": ({"\ud800": 1}, ["unknown setting '\\ud800'"]),
    "a long name": ({"n" * 200_000: 1}, ["unknown setting 'nnn", "..."]),
    "a long value": ({"scale": "4" * 200_000}, ["scale is '444", "...", "1 to 8"]),
    "many names": ({f"name{n}": n for n in range(1000)}, ["'name0'", "and 995 more"]),
    "a list": ({"scale": [[]] * 10_000}, ["scale is [[]", "..."]),
}
LONGEST = 700
"""Characters that no message needs more of."""


@pytest.mark.parametrize("base", [(64, 64), (128, 192), (520, 512)], ids=str)
@pytest.mark.parametrize("value", [1, 100, 515.5, 2047, 99_999])
def test_the_nearest_of_a_target_is_drawn(host, base, value):
    """What is offered is not refused next."""
    width, height = base
    for name in ("target_width", "target_height"):
        told = str(host.run(host.generation({name: value}, width=width, height=height)).error)
        nearest = int(re.search(r"the nearest is (\d+)", told)[1])
        planning = importlib.import_module("demofusion_lib.webui.planning")
        p = host.generation(None, width=width, height=height)
        assert planning.settings_of([{"enabled": True, name: nearest}], p)


def in_the_pages_words(text):
    """With a setting's label for its name, where a message begins with it."""
    for setting in SETTINGS:
        text = re.sub(rf"(^|; ){setting.name}(?= is |$)", rf"\g<1>{setting.label}", text)
    return text


def assert_refused(host, outcome, words):
    """Before any work, with what the API makes an answer of."""
    error = outcome.error
    assert isinstance(error, host.params.SettingsError)
    assert vars(error)["status_code"] == 422
    assert vars(error)["detail"] == str(error)
    assert all(word in str(error) for word in ["DemoFusion: ", *words])
    assert len(str(error).encode()) < LONGEST  # as the API sends it: a lone surrogate would not encode
    assert outcome.calls == 0
    assert not host.swallowed


@pytest.mark.parametrize("case", BAD)
def test_the_page_is_told_without_a_traceback(host, case):
    """It would print what is raised with all arguments; so the run is stopped before its first image."""
    settings, words = BAD[case]
    outcome = host.run(host.generation(settings, n_iter=2), page=True)
    assert outcome.error is None
    assert outcome.images == []
    assert outcome.calls == 0
    assert outcome.comments.startswith("DemoFusion: not drawn: ")
    assert all(word in outcome.comments or in_the_pages_words(word) in outcome.comments for word in words)
    assert [message for message, error in host.swallowed] == [outcome.comments.strip()]
    assert "DemoFusion" not in host.processing.create_infotext(outcome.p, ["cat"], [1], [1], index=0)
    assert type(outcome.p) is host.processing.StableDiffusionProcessingTxt2Img


def test_the_api_is_answered_without_a_traceback(host):
    """The host's API prints none of an HTTP answer; its name is in the answer."""
    from fastapi import HTTPException

    error = host.run(host.generation({"scale": 9})).error
    assert isinstance(error, HTTPException)
    assert type(error).__name__ == "SettingsError"
    assert str(error) == error.detail


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("size", [(-64, 64), (64, -8), (0, 0), (4, 64)], ids=str)
def test_a_base_image_of_no_size(host, size, page):
    """What goes wrong in the hook is swallowed by the host, which would draw the picture without us."""
    outcome = host.run(host.generation({"scale": 2}, width=size[0], height=size[1]), page=page)
    told = outcome.comments if page else str(outcome.error)
    assert "below 8 px" in told
    assert ("width" in told, "height" in told) == (size[0] < 8, size[1] < 8)
    assert outcome.calls == 0


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("hook", ["before_process", "process"])
def test_whatever_else_goes_wrong_while_settings_are_read(host, monkeypatch, hook, page):
    """A fault of our own stops the run just as well; its traceback is for us."""
    fault = OverflowError("cannot convert float infinity to integer")

    def fails(*args):
        raise fault

    names = vars(importlib.import_module("demofusion_lib.webui.hooks"))
    monkeypatch.setitem(names, "prepare" if hook == "before_process" else "checked", fails)
    outcome = host.run(host.generation({"scale": 2}), page=page)
    told = outcome.comments if page else str(outcome.error)
    assert "OverflowError" in told and "float infinity" in told
    assert outcome.calls == 0
    assert fault in [error for _, error in host.swallowed]


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_stop_the_run_before_the_first_step(host, case):
    settings, words = BAD[case]
    outcome = host.run(host.generation(settings))
    assert_refused(host, outcome, words)
    assert type(outcome.p) is host.processing.StableDiffusionProcessingTxt2Img


def test_a_sampler_of_unknown_steps(host):
    """It is refused with the names of those that can, in the list that the user chose from."""

    def sample_mystery(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return x

    samplers = host.sd_samplers
    data = host.sd_samplers_common.SamplerData
    config = data("Mystery", lambda model: host.sd_samplers_kdiffusion.KDiffusionSampler(sample_mystery, model), [], {})
    can = [sampler.name for sampler in samplers.all_samplers]
    samplers.all_samplers.append(config)
    samplers.all_samplers_map["Mystery"] = config
    assert host.txt2img(None, sampler_name="Mystery").sizes == [(128, 128)]
    outcome = host.run(host.generation({"scale": 2}, sampler_name="Mystery"))
    assert_refused(host, outcome, ["'Mystery'", ", ".join(can)])
    assert ", Mystery" not in str(outcome.error)


@pytest.mark.parametrize(
    ("fields", "settings", "words"),
    [
        ({"sampler_name": "UniPC", "steps": 2}, {"steps": 8}, ["steps is 2", "UniPC", "3"]),
        ({"sampler_name": "DPM2 a", "eta": 1.5}, {}, ["eta is 1.5", "DPM2 a"]),
    ],
    ids=["UniPC with few steps", "eta above 1"],
)
def test_samplers_that_these_settings_do_not_suit(host, fields, settings, words):
    assert_refused(host, host.run(host.generation({"scale": 2, **settings}, **fields)), words)
    page = host.run(host.generation({"scale": 2, **settings}, **fields), page=True)
    assert (page.error, page.calls) == (None, 0)
    assert all(word in page.comments for word in words)


def test_what_the_sampler_and_the_target_can_not_is_told_at_once(host):
    p = host.generation({"target_width": 256}, sampler_name="DPM2 a", eta=1.5)
    original = p.scripts.process

    def process(p):
        p.width = 512  # as other extensions do after we have looked
        original(p)

    p.scripts.process = process
    assert_refused(host, host.run(p), ["eta is 1.5", "target_width is 256"])


@pytest.mark.parametrize("trait", [{"is_sd3": True}, {"latent_channels": 16}], ids=str)
def test_models_of_another_kind(host, trait):
    vars(host.model).update(trait)
    assert_refused(host, host.run(host.generation({"scale": 2})), ["Stable Diffusion 3", "SDXL"])


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 2},
        [True],
        [True, 2.0, 0, 0, "every"],
        {"target_width": 256},
        {"target_width": 256, "target_height": 256},
    ],
    ids=str,
)
def test_forms_of_the_same(host, settings):
    assert host.txt2img(settings).sizes == [(256, 256)]


def test_behind_a_mapping_nothing_counts(host):
    """The API fills up with the accordion's values, which may be anything there."""
    p = host.generation({"scale": 2})
    p.script_args = (*p.script_args[:2], *["nonsense"] * (len(p.script_args) - 2))
    assert host.run(p).sizes == [(256, 256)]


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("args", [[False, 99.0, 100], [{"enabled": False, "scale": 99}], [{"scael": 1}]], ids=str)
def test_what_is_switched_off_says_nothing(host, args, page):
    """A wrong value in a closed accordion does not stop the webui's own pictures."""
    outcome = host.run(host.generation(args), page=page)
    assert (outcome.error, outcome.sizes, outcome.comments) == (None, [(128, 128)], "")
    assert "DemoFusion" not in outcome.infotext


def test_a_mapping_without_enabled_is_off(host):
    p = host.generation({})
    p.script_args = (p.script_args[0], {"scale": 2}, *p.script_args[2:])
    assert host.run(p).sizes == [(128, 128)]


# Infotext


def parameters(host, outcome):
    return host.infotext_utils.parse_generation_parameters(outcome.infotext)


def test_infotext_says_what_differs_from_the_defaults(host):
    outcome = host.txt2img({"scale": 3, "plan": "direct", "jitter": False, "a1": 2.5, "window_batch": 2})
    ours = {key: text for key, text in parameters(host, outcome).items() if key.startswith("DemoFusion")}
    assert ours == {
        "DemoFusion enabled": "True",
        "DemoFusion scale": "3",
        "DemoFusion plan": "direct",
        "DemoFusion jitter": "False",
        "DemoFusion a1": "2.5",
        "DemoFusion window batch": "2",
        "DemoFusion vae": "host",
    }


def test_size_stays_the_bases(host):
    found = parameters(host, host.txt2img({"scale": 2}, width=96, height=160))
    assert (found["Size-1"], found["Size-2"], found["Steps"]) == ("96", "160", "4")


def test_steps_stay_the_bases(host):
    assert parameters(host, host.txt2img({"scale": 2, "steps": 6}))["Steps"] == "4"


def test_a_stop_is_told_of_one_image_only(host):
    """What the first image of a run came to says nothing of the second."""
    host.model.hooks.on_call = lambda n: host.state.skip() if n == 6 else None
    first, second = host.txt2img({"scale": 2}, n_iter=2).processed.infotexts
    assert "DemoFusion stopped" in first
    assert "DemoFusion stopped" not in second


# What the host would do besides


def test_hires_fix_gives_way(host):
    outcome = host.txt2img({"scale": 3}, enable_hr=True, hr_scale=2)
    assert outcome.sizes == [(384, 384)]
    assert "Hires. fix" in outcome.comments
    assert "Hires upscale" not in outcome.infotext
    assert 'DemoFusion note: "takes the place of Hires. fix, which is left out"' in outcome.infotext
    assert len(outcome.samplings) == 3
    assert not host.swallowed


def test_hires_fix_without_us_is_left_alone(host):
    outcome = host.txt2img(None, enable_hr=True, hr_scale=2)
    assert outcome.sizes == [(256, 256)]
    assert "Hires upscale: 2" in outcome.infotext


def test_the_gallerys_upscale_button(host):
    """It sends one finished image through Hires. fix with the settings of the page, ours among them."""
    p = host.generation({"scale": 3}, enable_hr=True, hr_scale=2)
    p.txt2img_upscale = True
    outcome = host.run(p)
    assert outcome.sizes == [(256, 256)]
    assert "DemoFusion: left out" in outcome.comments
    assert "DemoFusion" not in outcome.infotext


@pytest.mark.parametrize(("sampler", "sdxl"), [("Euler", False), ("Euler", True), ("DDIM", False)])
def test_refiner_draws_in_the_base_image_only(host, sampler, sdxl):
    base = host.install("base.safetensors", sdxl=sdxl)
    refiner = host.install("refiner.safetensors", sdxl=sdxl, accent=0.5)
    used = []
    for model in (base, refiner):
        model.hooks.on_call = lambda n, model=model: used.append((len(host.witness.samplings), model))
    outcome = host.txt2img(
        {"scale": 3}, refiner_checkpoint="refiner", refiner_switch_at=0.4, sampler_name=sampler, steps=5, n_iter=2,
        prompt="cat <lora:fur:1>",
    )  # fmt: skip
    assert {sampling for sampling, model in used if model is refiner} == {1, 4}  # the base images of the two batches
    assert outcome.sizes == [(384, 384)] * 2
    assert "refiner" in outcome.comments
    told = [call.text[:, 0] for sampling in outcome.phases[:2] for call in sampling.calls]
    encoded = torch.stack([base.encode(text)[0] for text in ("cat ", "dog")])
    assert torch.equal(torch.cat(told).unique(dim=0), encoded.unique(dim=0))
    assert outcome.p.refiner_checkpoint_info is host.sd_models.get_closet_checkpoint_match("refiner")
    assert not host.swallowed


def test_each_kept_image_is_decoded_by_the_model_that_drew_it(host):
    """A refiner may bring a VAE of its own: the kept base image is the one that the webui shows without us."""
    models = {name: host.install(f"{name}.safetensors", accent=i) for i, name in enumerate(("base", "refiner"))}
    decoded = []
    for name, model in models.items():
        model.hooks.decoded = lambda picture, name=name: decoded.append(name) or picture
    refining = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.4, "steps": 5}
    host.txt2img({"scale": 3, "keep_phases": True}, **refining)
    assert decoded == ["refiner", "base", "base"]


def test_refiner_leaves_the_lora_active_for_the_phases(host):
    """Loading a checkpoint takes its networks off."""
    host.install("base.safetensors")
    host.install("refiner.safetensors", accent=0.5)
    active = []
    loaded = host.sd_models.reload_model_weights

    def reload(sd_model=None, info=None, forced_reload=False):
        before = host.shared.sd_model
        if loaded(sd_model, info, forced_reload) is not before:
            host.extra_networks._events.append(("checkpoint loaded", {}))

    host.sd_models.reload_model_weights = reload
    host.model.hooks.on_call = lambda n: active.append(host.extra_networks._events[-1][0])
    host.txt2img({"scale": 2}, refiner_checkpoint="refiner", refiner_switch_at=0.4, steps=5, prompt="cat <lora:fur:1>")
    assert set(active) == {"activate"}


def test_refiner_leaves_the_noise_schedule_to_the_phases(host):
    """A checkpoint is loaded with the schedule that it was trained on."""
    for name in ("base", "refiner"):
        host.install(f"{name}.safetensors", parameterization="v")
    loaded = host.sd_models.reload_model_weights

    def reload(sd_model=None, info=None, forced_reload=False):
        model = loaded(sd_model, info, forced_reload)
        model.alphas_cumprod = model.alphas_cumprod_original
        return model

    host.sd_models.reload_model_weights = reload
    host.opts.sd_noise_schedule = "Zero Terminal SNR"
    refining = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.4, "steps": 5}
    outcome = host.txt2img({"scale": 2}, scheduler="Uniform", **refining)
    assert float(outcome.phases[0].evaluations[0].sigma[0]) == pytest.approx(4518.6, 1e-3)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "UniPC"])
def test_progress_counts_the_steps_of_a_phase(host, sampler):
    """UniPC's, too, whose callback we need for ourselves."""
    outcome = host.txt2img({"scale": 2, "steps": 6}, sampler_name=sampler)
    (phase,) = outcome.phases
    assert {evaluation.step for evaluation in phase.evaluations} >= set(range(1, 5))
