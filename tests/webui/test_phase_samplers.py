"""A sampler and a scheduler of the phases' own: the base image is the host's, the phases are what those draw."""

import importlib
from pathlib import Path

import k_diffusion.sampling
import numpy as np
import pytest
import torch

from .test_families import FEW_STEPS, FIELDS, SOLVERS, assert_close
from .test_planning import levels, plan_of, rows
from .test_samplers import NAMES
from .test_settings import assert_refused, in_the_pages_words

SMALL = {"width": 64, "height": 64, "steps": 4}
PAIRS = [
    ("Euler", "DPM++ 2M"), ("Euler", "DDIM"), ("Euler", "UniPC"), ("Euler", "Heun"), ("Euler", "LCM"), ("DPM++ 2M", "Euler a"),
    ("DDIM", "Euler"), ("DDIM", "Heun"), ("UniPC", "DPM++ 2M"), ("PLMS", "LCM"), ("LCM", "DDIM"), ("DDIM", "PLMS"),
]  # fmt: skip


def drawn_by_hand(host, base_sampler, phase_sampler, settings, fields):
    """The phases that the core makes with one solver of the base that the host draws alone with another."""
    base = torch.cat(host.txt2img(None, **{**fields, "sampler_name": base_sampler}).latents)
    params = host.params.Params.from_names({"preset": "none", **settings})
    seeds = list(range(5, 5 + fields["batch_size"]))
    solver = {"eta": 1.0} if phase_sampler == "Euler a" else {}
    steps = params.steps or fields["steps"]
    draw = importlib.import_module("by_hand").draw
    texts = [("cat", "dog")] * len(seeds)
    return draw(host.model, base, params, SOLVERS[phase_sampler], seeds, texts, steps, **solver)[-1]


@pytest.mark.parametrize("settings", [{"scale": 2.5}, FEW_STEPS], ids=["paper", "few steps"])
@pytest.mark.parametrize(("base", "phase"), PAIRS)
def test_phases_equal_those_of_the_core(host, base, phase, settings):
    own = {**settings, "phase_sampler": phase}
    outcome = host.txt2img(own, **{**FIELDS, "sampler_name": base})
    assert not host.swallowed and not outcome.comments.replace("DemoFusion: scale 2.5", "").count("DemoFusion")
    assert_close(torch.cat(outcome.latents), drawn_by_hand(host, base, phase, settings, FIELDS))


@pytest.mark.parametrize("scheduler", ["Karras", "Uniform", "Automatic", "same"])
def test_the_schedule_of_the_phases(host, scheduler):
    """The base image's is SGM Uniform; what is automatic is the phases' sampler's own."""
    settings = {"scale": 2, "phase_sampler": "DPM++ 2M", "phase_scheduler": scheduler}
    outcome = host.txt2img(settings, scheduler="SGM Uniform", **SMALL)
    base, phase = map(levels, outcome.samplings)
    sigmas = importlib.import_module("k_diffusion.external").CompVisDenoiser(host.model)
    expected = {
        "Karras": k_diffusion.sampling.get_sigmas_karras(4, float(sigmas.sigmas[0]), float(sigmas.sigmas[-1])),
        "Uniform": sigmas.get_sigmas(4),
        "same": [*base, 0],
    }
    expected["Automatic"] = expected["Karras"]
    assert phase == pytest.approx([float(sigma) for sigma in expected[scheduler][:-1]], rel=1e-5)
    assert base == levels(host.txt2img(None, scheduler="SGM Uniform", **SMALL).base)
    assert "Schedule type: SGM Uniform," in outcome.infotext


OLD = {
    "DPM++ 2M Karras": ("DPM++ 2M", "Karras"),
    "DPM++ 2M SDE karras": ("DPM++ 2M SDE", "Karras"),
    "Euler a Exponential": ("Euler a", "Exponential"),
    "LMS SGMUniform": ("LMS", "SGM Uniform"),
    "LMS SGM Uniform": ("LMS", "SGM Uniform"),
    "Euler Automatic": ("Euler", "Automatic"),
}


@pytest.mark.parametrize("name", OLD)
def test_old_names_of_samplers_and_schedulers(host, name):
    """As the host takes them for the base image (`sd_samplers.get_sampler_and_scheduler`): the ending counts before a
    scheduler by itself, and the infotext has both by today's names. The picture is that of the two."""
    sampler, scheduler = OLD[name]
    two = host.txt2img({"scale": 2, "phase_sampler": sampler, "phase_scheduler": scheduler}, **SMALL)
    for settings in ({"phase_sampler": name}, {"phase_sampler": name, "phase_scheduler": "Uniform"}):
        one = host.txt2img({"scale": 2, **settings}, **SMALL)
        assert torch.equal(one.latents[-1], two.latents[-1]) and one.infotext == two.infotext
    assert f"phase sampler: {sampler}, DemoFusion phase scheduler: {scheduler}" in one.infotext
    told = importlib.import_module("demofusion_lib.webui.forecast").forecast
    args = [{"enabled": True, "phase_sampler": name}], [{"enabled": True, "phase_sampler": sampler}]
    assert [told(each, sampler="Euler").error for each in args] == [None, None]


def test_an_old_name_is_pasted_as_the_two(host):
    text = "cat\nSteps: 4, Sampler: Euler, DemoFusion enabled: True, DemoFusion phase sampler: DPM++ 2M Karras"
    pasting = importlib.import_module("demofusion_lib.webui.pasting")
    values, errors = pasting.read(host.infotext_utils.parse_generation_parameters(text))
    assert (values["phase_sampler"], values["phase_scheduler"], errors) == ("DPM++ 2M", "Karras", [])


def test_a_late_start_of_its_own_schedule(host):
    settings = {"scale": 2, "start": 601, "steps": 4, "phase_sampler": "DPM++ 2M", "phase_scheduler": "Karras"}
    outcome = host.txt2img({**settings, "dilated": False}, scheduler="Uniform", **SMALL)
    sigmas = importlib.import_module("k_diffusion.external").CompVisDenoiser(host.model)
    high, low = (float(sigmas.t_to_sigma(torch.tensor(t))) for t in (601.0, 601 / 4))
    expected = k_diffusion.sampling.get_sigmas_karras(4, low, high)[:-1].tolist()
    assert levels(outcome.phases[0]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DPM adaptive"])
@pytest.mark.parametrize("settings", [{"scale": 2.5}, {"scale": 2, "preset": "fast", "steps": 5}], ids=str)
def test_rows_foretold_are_rows_run(host, name, settings):
    base = "Heun" if name != "Heun" else "DDIM"
    settings = {"overlap": 0.25, **settings, "phase_sampler": name, "phase_scheduler": "Automatic"}
    outcome = host.txt2img(settings, sampler_name=base, scheduler="Karras", steps=6, batch_size=2)
    plan = plan_of(host, outcome.p, settings)
    foretold = [plan.base_evaluations, *map(plan.evaluations, plan.phases)]
    assert [rows(sampling) for sampling in outcome.samplings] == foretold and plan.is_exact


def test_what_is_countable(host):
    p = host.generation({"scale": 2}, sampler_name="DPM adaptive")
    adaptive = {"scale": 2, "phase_sampler": "DPM adaptive"}
    assert not plan_of(host, p, {"scale": 2, "phase_sampler": "Euler"}).is_exact
    assert not plan_of(host, host.generation(adaptive, sampler_name="Euler"), adaptive).is_exact
    assert plan_of(host, host.generation(adaptive, sampler_name="Euler"), {**adaptive, "scale": 1}).is_exact


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("settings", [{"preset": "fast"}, {"preset": "draft"}, {"start": 1000}], ids=str)
@pytest.mark.parametrize("base", ["LCM", "Euler"])
def test_few_step_models(host, base, settings, steps):
    """LCM without guidance, 1 to 4 steps a phase: as many evaluations as that, at the levels that it has."""
    settings = {"scale": 2, **settings, "steps": steps, "phase_sampler": "LCM"}
    outcome = host.txt2img(settings, sampler_name=base, **{**SMALL, "cfg_scale": 1.0})
    plan = plan_of(host, outcome.p, settings)
    assert len(outcome.phases[0].evaluations) == steps
    assert [rows(s) for s in outcome.samplings] == [plan.base_evaluations, plan.evaluations(plan.phases[0])]
    assert not host.swallowed and outcome.sizes == [(128, 128)] and float(outcome.latents[-1].std()) > 0.05


@pytest.mark.parametrize(("base", "phase"), [("Euler", "DPM++ 2M SDE"), ("DDIM", "Heun"), ("Heun", "UniPC")])
def test_the_base_image_is_the_hosts(host, base, phase):
    """To the bit, in every batch of a run, whatever a phase has left behind; and so is what its infotext says of it."""
    fields = {**SMALL, "sampler_name": base, "scheduler": "Uniform", "n_iter": 2, "batch_size": 2}
    host.opts.s_churn = 1.5
    alone = host.txt2img(None, **fields)
    settings = {"scale": 2, "keep_phases": True, "phase_sampler": phase, "phase_scheduler": "Automatic"}
    outcome = host.txt2img(settings, **fields)
    kept = [image for image, size in zip(outcome.images, outcome.sizes) if size == (64, 64)]
    assert len(kept) == 4 and all(map(np.array_equal, kept, alone.images))
    assert (outcome.p.sampler_name, outcome.p.scheduler) == (base, "Uniform")
    for text in outcome.processed.infotexts:
        found = host.infotext_utils.parse_generation_parameters(text)
        ours = {key for key in found if key.startswith("DemoFusion phase ")}
        told = host.infotext_utils.parse_generation_parameters(alone.infotext)
        assert (found["Sampler"], found["Schedule type"]) == (base, told["Schedule type"])
        assert {key: found[key] for key in ours} == {
            "DemoFusion phase sampler": phase, "DemoFusion phase scheduler": "Automatic",
        }  # fmt: skip


def test_prompts_that_switch_count_the_evaluations_of_the_phases(host):
    """A two-stage sampler has twice as many, and the host's times are shares of those."""
    fields = {**SMALL, "prompt": "[cat:sea:0.5]"}
    words = {word: host.model.encode(word)[0] for word in ("cat", "sea")}

    def seen(base, phase):
        outcome = host.txt2img({"scale": 2, "phase_sampler": phase}, sampler_name=base, **fields)
        texts = [evaluation.patches[0][1] for evaluation in outcome.phases[0].evaluations]
        return "".join(next(w[0] for w, cond in words.items() if cond.equal(text)) for text in texts)

    assert seen("Euler", "Heun") == seen("Heun", "same") == "cccccss"
    assert seen("Heun", "Euler") == seen("Euler", "same") == "cccs"


BAD = {
    "no such sampler": ({"phase_sampler": "Eulr"}, {}, ["phase_sampler is 'Eulr', allowed: same, DPM++ 2M,", "LCM"]),
    "no such old name": ({"phase_sampler": "DPM++ 2M Karas"}, {}, ["phase_sampler is 'DPM++ 2M Karas', allowed: same, DPM"]),
    "an old name of no sampler": ({"phase_sampler": "Eulr Karras"}, {}, ["phase_sampler is 'Eulr Karras', allowed: same, D"]),
    "an old name that does not suit": ({"phase_sampler": "DDIM Karras"}, {}, ["phase_scheduler is 'Karras', allowed with DDIM"]),
    "no such scheduler": ({"phase_scheduler": "karras"}, {}, ["phase_scheduler is 'karras', allowed: same, Automatic,"]),
    "both": ({"phase_sampler": "x" * 200, "phase_scheduler": "y"}, {}, ["phase_sampler is 'xxx", "phase_scheduler is 'y'"]),
    "a schedule of its own": (
        {"phase_sampler": "DDIM", "phase_scheduler": "Karras"}, {}, ["phase_scheduler is 'Karras', allowed with DDIM: same"],
    ),
    "the base's schedule of its own": ({"phase_scheduler": "Karras"}, {"sampler_name": "PLMS"}, ["allowed with PLMS: same"]),
    "eta": ({"phase_sampler": "DPM2 a"}, {"eta": 1.5}, ["eta is 1.5", "DPM2 a"]),
    "few steps": ({"preset": "fast", "phase_sampler": "DPM fast"}, {}, ["steps is 2, allowed in phases with DPM fast: 4 or"]),
    "one step": ({"steps": 1, "phase_sampler": "DPM++ 3M SDE"}, {}, ["steps is 1, allowed in phases with DPM++ 3M SDE: 2 or"]),
    "one step of the base's": ({"steps": 1}, {"sampler_name": "PLMS"}, ["steps is 1, allowed in phases with PLMS: 2 or"]),
}  # fmt: skip


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_what_is_refused_before_the_first_step(host, case, page):
    settings, fields, words = BAD[case]
    outcome = host.run(host.generation({"scale": 2, **settings}, **fields), page=page)
    if page:
        assert (outcome.error, outcome.calls) == (None, 0) and all(
            in_the_pages_words(word) in outcome.comments for word in words
        )
    else:
        assert_refused(host, outcome, words)


def test_a_sampler_that_is_not_for_sdxl(host):
    host.install(sdxl=True)
    host.sd_samplers.all_samplers_map["PLMS"].options["no_sdxl"] = True
    outcome = host.run(host.generation({"scale": 2, "phase_sampler": "PLMS"}))
    assert_refused(host, outcome, ["phase_sampler is 'PLMS'"])
    assert ", PLMS" not in str(outcome.error)


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({"sampler_name": "DPM2 a", "eta": 1.5}, {"phase_sampler": "LMS"}),
        ({"sampler_name": "DDIM", "scheduler": "Karras"}, {}),
        ({"sampler_name": "Euler", "scheduler": "Karras"}, {"phase_sampler": "DDIM"}),
    ],
    ids=str,
)
def test_what_does_not_suit_the_base_images_sampler_may_suit_another(host, fields, settings):
    outcome = host.txt2img({"scale": 2, **settings}, **{**SMALL, **fields})
    assert outcome.sizes == [(128, 128)] and not outcome.comments


# Saved phases


SAVED = {"scale": 3, "save_phases": True, "phase_sampler": "DPM++ 2M", "phase_scheduler": "Karras"}
BASE = {**SMALL, "sampler_name": "Euler a", "scheduler": "SGM Uniform", "eta": 0.5}


def test_a_saved_phase_goes_on_with_the_same_sampler_alone(host, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    undisturbed = host.txt2img({**SAVED, "save_phases": False}, **BASE)
    host.model.hooks.on_call = lambda n: host.state.interrupt() if host.witness.samplings[2:] else None
    host.txt2img(SAVED, **BASE)
    host.model.hooks.on_call = lambda n: None
    (path,) = Path("out/demofusion").glob("*.safetensors")
    for change in ({"phase_sampler": "Euler"}, {"phase_scheduler": "same"}):
        refused = host.run(host.generation({**SAVED, "resume": path.name, **change}, **BASE))
        assert refused.calls == 0 and f"another DemoFusion {next(iter(change))}" in str(refused.error)
    resumed = host.txt2img({**SAVED, "resume": path.name}, **BASE)
    assert len(resumed.samplings) == 1 and torch.equal(resumed.latents[-1], undisturbed.latents[-1])
    assert sorted(resumed.infotext.split(", ")) == sorted(undisturbed.infotext.split(", "))
    assert "Schedule type: SGM Uniform, " in resumed.infotext and "Eta: 0.5" in resumed.infotext


def test_a_file_from_before_a_setting_was_there(host, monkeypatch, tmp_path):
    """It stands for the setting's default, which is what was drawn."""
    monkeypatch.chdir(tmp_path)
    saved = importlib.import_module("demofusion_lib.saved")
    settings = {"scale": 3, "save_phases": True}
    host.model.hooks.on_call = lambda n: host.state.interrupt() if host.witness.samplings[2:] else None
    host.txt2img(settings, **SMALL)
    host.model.hooks.on_call = lambda n: None
    (path,) = Path("out/demofusion").glob("*.safetensors")
    found = saved.read(path)
    older = {name: text for name, text in found.made_of.items() if "phase_s" not in name}
    assert len(older) == len(found.made_of) - 2
    saved.write(path, saved.SavedPhase(found.number, found.latent, *found.anchor, found.window_batch, older))
    refused = host.run(host.generation({**settings, "resume": path.name, "phase_sampler": "Heun"}, **SMALL))
    assert refused.calls == 0 and "another DemoFusion phase_sampler" in str(refused.error)
    assert len(host.txt2img({**settings, "resume": path.name}, **SMALL).samplings) == 1
