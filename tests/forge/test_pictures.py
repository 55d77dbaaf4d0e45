"""The family draws what the first host draws: held against its own doubles, whose sampling is another one."""

import numpy as np
import pytest
import torch

SIZE = {"width": 64, "height": 64, "steps": 4}
KINDS = ("reForge", "Forge", "Forge Neo")


def both(host, as_forge, settings, kind="reForge", scripts=(), **fields):
    """What the first host draws, and what the family does."""
    fields = {**SIZE, **fields}
    first = host.txt2img(settings, scripts=scripts, **fields)
    family = as_forge(kind)
    return first, host.txt2img(settings, scripts=scripts, **fields), family


def alike(one, other, levels=1, atol=2e-4):
    assert one.comments == other.comments and "phase" not in one.comments
    for a, b in zip(one.latents, other.latents, strict=True):
        assert torch.allclose(a, b, atol=atol, rtol=1e-4)
    apart = [np.abs(a.astype(int) - b.astype(int)).max() for a, b in zip(one.images, other.images, strict=True)]
    assert len(apart) == len(one.images) and max(apart) <= levels


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "DPM2 a", "DPM++ 2M", "DPM fast", "DDIM", "PLMS", "UniPC"])
def test_samplers(host, as_forge, sampler):
    first, family, _ = both(host, as_forge, {"scale": 2}, sampler_name=sampler)
    alike(first, family, *((8, 0.2) if sampler == "UniPC" else ()))  # its timesteps are no whole ones, the family's are


@pytest.mark.parametrize("parameterization", ["eps", "v"])
@pytest.mark.parametrize("sdxl", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_models(host, as_forge, parameterization, sdxl, kind):
    """SDXL is told where each window lies; a v model's answer holds its input, which the blur must not change."""
    host.install(parameterization=parameterization, sdxl=sdxl)
    first, family, _ = both(host, as_forge, {"scale": 2}, kind)
    alike(first, family)
    if sdxl:
        told = [
            {row for call in phase.calls for row in host.model.conditioner.read(call.vector)}
            for phase in (*first.phases, *family.phases)
        ]
        assert told[0] == told[1] and len(told[0]) > 4


@pytest.mark.parametrize(
    "settings",
    [
        {"scale": 3, "plan": "every"},
        {"scale": 2, "start": 601, "residual": "x0", "guidance": "low-pass", "window_weight": "sin2", "overlap": 0.25},
        {"scale": 2, "guidance_until": 500},
        {"scale": 2.5, "border": "paper"},
        {"target_width": 128, "target_height": 192},
        {"scale": 2, "regions": "owl ADDCOL one two three four five six seven eight nine ten eleven"},
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_settings(host, as_forge, settings, kind):
    alike(*both(host, as_forge, settings, kind)[:2])


@pytest.mark.parametrize("settings", [{}, {"guidance": "low-pass"}], ids=["windows", "low-pass"])
@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "cat AND dog :0.5", "negative_prompt": ""},
        {"batch_size": 2, "width": 72, "height": 104},
        {"prompt": "one two three four five six seven eight nine ten eleven", "negative_prompt": "dog"},
        {"prompt": "cat AND dog AND owl", "negative_prompt": "one two three four five six seven eight nine ten"},
        {"cfg_scale": 1},
        {"tiling": True},
    ],
    ids=["AND", "batch", "long", "AND, apart", "CFG 1", "tiling"],
)
def test_prompts_and_batches(host, as_forge, fields, settings):
    alike(*both(host, as_forge, {"scale": 2, **settings}, **fields)[:2])


@pytest.mark.parametrize("most_chunks", [1, 2])
def test_calls_cut_up_for_want_of_memory(host, as_forge, most_chunks):
    """The family then begins with the negative prompt."""
    fields = {"prompt": "cat AND dog :0.5", "negative_prompt": "owl", **SIZE}
    first = host.txt2img({"scale": 2}, **fields)
    as_forge("reForge").most_chunks = most_chunks
    alike(first, host.txt2img({"scale": 2}, **fields))


def test_guidance_that_needs_the_prompt_first_says_so(host, as_forge):
    as_forge("reForge").most_chunks = 1
    outcome = host.txt2img({"scale": 2, "guidance": "low-pass"}, **SIZE)
    assert "the webui has asked for the negative prompt before the prompt" in outcome.comments
    assert outcome.sizes == [(64, 64)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_model_draws_the_phases_after_a_refiner(host, as_forge, kind):
    """Forge's `reload_model_weights` does nothing, and Neo has none."""
    as_forge(kind)
    models = {"base": host.model, "refiner": host.install("refiner.safetensors", accent=0.5)}
    drawn = []
    for name, model in models.items():
        model.hooks.on_call = lambda n, name=name: drawn.append((len(host.witness.samplings), name))
    fields = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.5, "n_iter": 2}
    outcome = host.txt2img({"scale": 3}, **{**SIZE, "width": 72}, **fields)
    assert outcome.sizes == [(216, 192)] * 2 and not host.swallowed
    assert set(drawn) == {(1, "base"), (1, "refiner"), (2, "base"), (3, "base")} | {
        (4, "base"), (4, "refiner"), (5, "base"), (6, "base"),
    }  # fmt: skip


def test_a_refiners_weights_in_place_are_taken_out(host, as_forge, monkeypatch):
    """Forge Neo's option: by its own script, before a phase is drawn; it says where there is none."""
    as_forge("Forge Neo")
    common, refined = host.sd_samplers_common, []

    class ScriptRefiner(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def postprocess(self, p, processed, *args):
            if common.ORIGINAL_CHECKPOINT:
                refined.append(len(host.witness.samplings))
            common.ORIGINAL_CHECKPOINT = None

    monkeypatch.setattr(common, "ORIGINAL_CHECKPOINT", "base.safetensors", raising=False)
    assert host.txt2img({"scale": 2}, **SIZE, scripts=(ScriptRefiner(),)).sizes == [(128, 128)]
    assert refined == [1]
    common.ORIGINAL_CHECKPOINT = "base.safetensors"
    outcome = host.run(host.generation({"scale": 2}, **SIZE))
    assert "a refiner's weights are left" in f"{outcome.error}{outcome.comments}"


def test_off_is_the_hosts_own(host, as_forge):
    first, family, _ = both(host, as_forge, None)
    assert np.array_equal(first.images[0], family.images[0])
