"""Prompts for parts of the picture in the webui: cell by cell what a whole run with each of them draws there.

The model without its texture answers each cell for itself, and the prompts' means linearly: so what a phase ends with, before
it is brought back to the base image's statistics, is the mean of those of whole runs, by the regions' shares.
"""

import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from demofusion_lib.core import phases as core_phases
from demofusion_lib.core.regions import shares_of
from demofusion_lib.regions import regions_of

REGIONS = [
    {"prompt": "sea", "box": [0, 0, 0.4, 1]},
    {"prompt": "sun", "box": [0.3, 0.5, 1, 1], "weight": 0.7, "feather": 0.3},
]
PLAIN = {"scale": 2, "blur": 0, "steps": 4}
LONG = " ".join(f"word{i}" for i in range(80))


@pytest.fixture
def exact(host, request, monkeypatch):
    host.install(texture=0.0, sdxl="sdxl" in request.node.name)
    monkeypatch.setattr(core_phases, "with_statistics", lambda latent, *_: latent)
    return host


def latent(host, settings, **fields):
    return torch.cat(host.txt2img(settings, **fields).latents)


def expected(host, settings, regions, prompt="cat", **fields):
    """Of runs with each prompt for all of the phases."""
    plain = {key: value for key, value in settings.items() if key != "regions"}
    texts = [prompt, *(prompt.replace("cat", region["prompt"]) for region in regions)]
    finals = torch.stack([latent(host, {**plain, "phase_prompt": text}, prompt=prompt, **fields) for text in texts])
    shares = shares_of(regions_of(json.dumps(regions)), *finals.shape[-2:])
    return (finals * shares[:, None, None]).sum(0)


def assert_as_expected(host, settings=None, regions=REGIONS, **fields):
    settings = {**PLAIN, "regions": regions, **(settings or {})}
    drawn, wanted = latent(host, settings, **fields), expected(host, settings, regions, **fields)
    assert float((drawn - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))
    assert not torch.allclose(drawn, latent(host, {**settings, "regions": ""}, **fields), atol=0.01)
    assert not host.swallowed


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "Heun", "UniPC", "DPM++ 2M"])
def test_each_cell_is_what_its_prompts_draw(exact, sampler):
    assert_as_expected(exact, sampler_name=sampler, steps=4)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({}, {"prompt": "cat AND fog :0.5"}),
        ({"scale": 1.55}, {"height": 192, "batch_size": 2}),
        ({"target_width": 320, "target_height": 192, "plan": "direct"}, {}),
        ({"guidance_until": 400}, {"batch_size": 2}),
        ({"window_weight": "sin2", "overlap": 0.25, "border": "paper"}, {"height": 192}),
        ({}, {"tiling": True, "width": 192}),
    ],
    ids=["AND", "portrait", "cropped", "until", "paper", "tiling"],
)
def test_in_every_kind_of_run(exact, settings, fields):
    assert_as_expected(exact, settings, **fields)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"preset": "draft", "enlarge": "latent"}, {"batch_size": 2}),
        ({"guidance": "low-pass", "guidance_until": 400}, {"prompt": "cat AND fog"}),
        ({"guidance": "low-pass", "residual": "x0"}, {"height": 192, "sampler_name": "DDIM"}),
    ],
    ids=["draft", "low-pass", "x0"],
)
def test_what_low_frequencies_couple_adds_up(exact, settings, fields):
    """There a cell hangs on its neighbours, but linearly: what two parts of the picture add to the plain one is what both
    together do, and half a weight adds half."""
    settings = {**PLAIN, **settings}

    def drawn(*boxes, weight=1, **more):
        regions = [{"prompt": "sea", "box": box, "weight": weight} for box in boxes]
        return latent(exact, {**settings, **({"regions": regions} if boxes else {}), **more}, **fields)

    left, right = [0, 0, 0.4, 1], [0.4, 0, 1, 1]
    prompt = fields.get("prompt", "cat")
    plain, whole = drawn(), drawn(phase_prompt=prompt.replace("cat", "sea"))
    one, two = drawn(left) - plain, drawn(right) - plain
    scale = 1e-5 * float(whole.abs().max())
    assert float((one + two - (whole - plain)).abs().max()) < scale
    assert float((drawn(left, weight=0.5) - plain - one / 2).abs().max()) < scale
    assert float((drawn(left, right) - whole).abs().max()) < scale
    assert float(one.abs().max()) > 0.1


def test_a_scaled_plan_draws_them_in_every_phase(exact):
    """The shares of two phases mix: of boxes that end where cells do, there is nothing to mix."""
    regions = [{"prompt": "sea", "box": [0, 0, 0.5, 1]}, {"prompt": "sun", "box": [0.5, 0, 1, 0.5]}]
    drawn = latent(exact, {**PLAIN, "scale": 3, "regions": regions, "steps": 12})
    wanted = expected(exact, {**PLAIN, "scale": 3, "steps": 12}, regions)
    inner = (slice(None), slice(None), slice(30, 42), slice(30, 42))
    apart = torch.ones(drawn.shape[-2:], dtype=torch.bool)
    apart[18:30] = apart[:, 18:30] = False  # enlarging from the phase before reaches across
    assert drawn[inner].shape[-1] and float((drawn - wanted)[..., apart].abs().max()) < 1e-4


@pytest.mark.parametrize("apart", [True, False])
def test_sdxl_reads_the_regions_pooled_text_and_the_crop_corners(exact, apart):
    exact.opts.batch_cond_uncond = apart
    assert_as_expected(exact, batch_size=2)
    model = exact.model
    outcome = exact.txt2img({**PLAIN, "regions": REGIONS})
    for call in outcome.phases[0].calls:
        assert torch.allclose(call.vector[:, :4], call.text[:, 0])
        assert all(row[4:] == (256, 256) for row in model.conditioner.read(call.vector))


@pytest.mark.parametrize(
    ("padded", "fields", "text"),
    [
        (False, {}, LONG),
        (False, {"prompt": f"cat {LONG}"}, LONG),
        (False, {"negative_prompt": LONG}, "sea"),
        (True, {"negative_prompt": LONG}, "sea"),
    ],
    ids=["region", "prompt", "negative", "padded"],
)
def test_texts_of_other_lengths(exact, padded, fields, text):
    """A prompt longer or shorter than the others is read as if it were alone, or filled up as the host fills it up."""
    exact.opts.pad_cond_uncond = padded
    regions = [{**REGIONS[0], "prompt": text}, REGIONS[1]]
    drawn = latent(exact, {**PLAIN, "regions": regions}, **fields)
    texts = [fields.get("prompt", "cat"), text, "sun"]
    finals = torch.stack([latent(exact, {**PLAIN, "phase_prompt": one}, **fields) for one in texts])
    shares = shares_of(regions_of(json.dumps(regions)), *drawn.shape[-2:])
    wanted = (finals * shares[:, None, None]).sum(0)
    assert float((drawn - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


def test_times_in_a_regions_prompt(exact):
    regions = [{"prompt": "[sea:sun:0.5]", "box": [0, 0, 1, 0.5]}]
    for sampler in ("Euler", "Heun"):
        assert_as_expected(exact, {}, regions, sampler_name=sampler)


@pytest.mark.parametrize("preset", ["none", "draft", "fine"])
def test_one_region_over_everything_is_the_plain_run_to_the_bit(host, preset):
    settings = {"scale": 2, "preset": preset, "enlarge": "latent"}
    plain = host.txt2img(settings, batch_size=2)
    whole = host.txt2img({**settings, "regions": [{"prompt": "cat", "box": [0, 0, 1, 1]}]}, batch_size=2)
    assert all(torch.equal(one, two) for one, two in zip(plain.latents, whole.latents))
    assert plain.calls == whole.calls


@pytest.mark.parametrize(
    "more", [{}, {"guidance": "low-pass"}, {"guidance_until": 500}, {"phase_cfg": 1}, {"preset": "fast"}]
)
def test_rows_foretold_are_those_run(host, more):
    settings = {"scale": 3, "regions": REGIONS, "enlarge": "latent", **more}
    outcome = host.txt2img(settings, batch_size=2, height=192)
    planning = importlib.import_module("demofusion_lib.webui.planning")
    plan = planning.plan_of(outcome.p, host.params.Params.from_names({"enabled": True, "preset": "none", **settings}))
    run = [sum(len(call.x) for call in phase.calls) for phase in outcome.phases]
    assert run == [plan.evaluations(phase) for phase in plan.phases]


def test_a_window_that_is_answered_with_nan_is_asked_again_with_its_own_prompt(exact):
    plain = latent(exact, {**PLAIN, "regions": REGIONS, "window_batch": 1})
    exact.model.hooks.output = lambda n, output: output * float("nan") if n in (12, 15, 21) else output
    outcome = exact.txt2img({**PLAIN, "regions": REGIONS, "window_batch": 1})
    assert "drawn again in 32-bit" in outcome.comments
    assert torch.allclose(outcome.latents[0], plain, atol=1e-5)


@pytest.mark.parametrize(
    ("regions", "told"),
    [
        ("sea AND sun ADDCOL fog", "regions: the prompt of region 1 is 'sea AND sun', allowed: one prompt, without AND"),
        ("sea ADDCOL <lora:a:1>fog", "regions: the prompt of region 2 is '<lora:a:1>fog', allowed: text alone (extra networks"),
        ("sea", "regions is 'sea', allowed: a JSON list of regions, prompts parted by ADDCOL and ADDROW, or nothing (no JSON"),
        ([{"prompt": "sea"}], "(region 1: neither, allowed: one of box, x y w h, mask)"),
    ],
)  # fmt: skip
def test_what_is_refused(host, regions, told):
    outcome = host.run(host.generation({"scale": 2, "regions": regions}))
    assert outcome.calls == 0 and told in str(outcome.error).replace("Regions", "regions")
    assert "\n" not in str(outcome.error)


def test_infotext_and_pasting(host):
    text = json.dumps(REGIONS)
    outcome = host.txt2img({"scale": 2, "regions": REGIONS})
    found = host.infotext_utils.parse_generation_parameters(outcome.infotext)
    assert host.params.Params.from_infotext(found).regions == text
    assert outcome.p.prompts == ["cat"]


@pytest.mark.parametrize("masked", [False, True], ids=["picture", "masked"])
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_of_a_given_picture(exact, monkeypatch, tmp_path, masked, strength):
    """Regions are shares of what is drawn of it; outside of a mask nothing is."""
    exact.opts.data["demofusion_native_sd1"] = 64
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(1).integers(60, 200, (16, 16, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    more = {"mask": Image.new("L", (64, 64), 255), "inpaint_full_res": False} if masked else {}
    more = {"width": 64, "height": 64, "denoising_strength": strength, "mask_blur": 0, "inpainting_fill": 1, **more}

    def drawn(**settings):
        outcome = exact.run(exact.of_picture(Image.fromarray(values), {**PLAIN, **settings}, **more))
        assert outcome.error is None and not exact.swallowed
        return outcome.latents[-1]

    wanted = torch.stack([drawn(phase_prompt=text) for text in ("cat", "sea", "sun")])
    shares = shares_of(regions_of(json.dumps(REGIONS)), *wanted.shape[-2:])
    result = drawn(regions=REGIONS)
    assert float((result - (wanted * shares[:, None, None]).sum(0)).abs().max()) < 2e-5 * float(wanted.abs().max())
    assert not torch.allclose(result, wanted[0], atol=0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"width": 72, "height": 200}, {"width": 64, "height": 64, "n_iter": 2, "batch_size": 3}, {"cfg_scale": 1},
        {"prompt": "", "negative_prompt": ""}, {"sampler_name": "DPM++ SDE"}, {"enable_hr": True},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    "regions",
    ["ADDCOL", [{"prompt": "", "box": [0.999, 0.999, 1, 1]}], [{"prompt": "a", "box": [0, 0, 1, 1], "weight": 0.001, "feather": 1}]],
    ids=["empty", "speck", "faint"],
)  # fmt: skip
def test_odd_ones_draw(host, regions, fields):
    outcome = host.txt2img({"scale": 1.3, "regions": regions}, **fields)
    assert all(torch.isfinite(one).all() for one in outcome.latents) and not host.swallowed
