"""The engine's place in a UNet patcher: put there for a phase, beside what others put there, and taken away again."""

import importlib
import sys
import types

import numpy as np
import pytest
import torch

SIZE = {"width": 64, "height": 64, "steps": 4}
WRAPPER = "model_function_wrapper"


def patching(host, patch):
    """An extension that patches the UNet as they do in the family: a clone, before every sampling."""

    class Patches(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def process_before_every_sampling(self, p, *args, **kwargs):
            unet = p.sd_model.forge_objects.unet.clone()
            patch(p, unet)
            p.sd_model.forge_objects.unet = unet

    return Patches()


@pytest.mark.parametrize("end", ["done", "interrupt", "error"])
def test_the_objects_are_put_back(host, reforge, end):
    model = host.model
    seen, before = [], model.forge_objects

    def hook(n):
        unet = model.forge_objects.unet
        if WRAPPER in unet.model_options:
            seen.append(unet)
        if n == 8 and end == "interrupt":
            host.state.interrupt()
        if n == 8 and end == "error":
            raise RuntimeError("broken")

    model.hooks.on_call = hook
    outcome = host.txt2img({"scale": 3}, **SIZE)
    assert len({id(unet) for unet in seen}) == (2 if end == "done" else 1)
    assert model.forge_objects is before
    for objects in (before, model.forge_objects_original, model.forge_objects_after_applying_lora):
        assert WRAPPER not in objects.unet.model_options
    assert ("broken" in outcome.comments) == (end == "error")
    plain = host.txt2img(None, **SIZE)  # nothing is left that would divide it
    assert {call.x.shape[-1] for call in plain.base.calls} == {8}


def test_patches_of_others_are_made_anew_for_each_phase(host, reforge):
    """As the host does for each of its samplings: they would pile up."""
    found = []

    def patch(p, unet):
        found.append(unet.model_options["transformer_options"].get("patched", 0))
        unet.model_options["transformer_options"]["patched"] = found[-1] + 1

    host.txt2img({"scale": 3}, **SIZE, scripts=(patching(host, patch),))
    assert found == [0, 0, 0]
    told = {options["patched"] for _, options, _ in host.model.forge_objects.unet.model.controls[-8:]}
    assert told == {1}


def test_a_wrapper_of_another_extension_is_called_for_each_part(host, reforge):
    """It is given what the host would give it, of windows: what it makes of them comes out."""
    expected = host.txt2img({"scale": 2}, **SIZE)
    calls = []

    def wrapper(apply_model, args):
        rows, chunks = len(args["input"]), args["cond_or_uncond"]
        c = args["c"]
        assert rows == len(args["timestep"]) == len(c["c_crossattn"]) and rows % len(chunks) == 0
        assert c["transformer_options"]["cond_or_uncond"] == chunks
        calls.append((args["input"].shape[-1], tuple(c)))
        return apply_model(args["input"], args["timestep"], **c)

    def patch(p, unet):
        unet.set_model_unet_function_wrapper(wrapper)

    outcome = host.txt2img({"scale": 2}, **SIZE, scripts=(patching(host, patch),))
    assert np.array_equal(outcome.images[0], expected.images[0])
    assert {width for width, _ in calls} == {8} and len(calls) > 2 * SIZE["steps"]


def test_the_hosts_copies_of_its_options_share_the_engine(host, reforge):
    """It copies them in depth, where a patcher is cloned within a sampling: a method's object would be copied with them."""
    expected = host.txt2img({"scale": 2}, **SIZE)
    model = host.model

    def hook(n):
        if WRAPPER in model.forge_objects.unet.model_options:
            model.forge_objects.unet = model.forge_objects.unet.clone()

    model.hooks.on_call = hook
    assert np.array_equal(host.txt2img({"scale": 2}, **SIZE).images[0], expected.images[0])


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_noise_that_another_extension_sets(host, reforge, sampler):
    """`p.modified_noise`, once: the phase is drawn from it."""
    plain = host.txt2img({"scale": 2}, **SIZE, sampler_name=sampler)
    left = []

    def patch(p, unet):
        if len(left) == 1:
            p.modified_noise = torch.zeros(1, 4, 16, 16)
        left.append(p)

    outcome = host.txt2img({"scale": 2}, **SIZE, sampler_name=sampler, scripts=(patching(host, patch),))
    assert left[-1].modified_noise is None
    assert not np.array_equal(outcome.images[0], plain.images[0])
    first = outcome.phases[0].evaluations[0].x
    assert first.std() < plain.phases[0].evaluations[0].x.std() / 2


def test_each_patch_is_a_chunk_of_its_own(host, reforge):
    """What others read of a call: which rows are negative, and at which level."""
    host.txt2img({"scale": 2}, **SIZE, batch_size=2)
    for _, options, shape in host.model.forge_objects.unet.model.controls[-4:]:
        assert len(options["cond_or_uncond"]) == len(options["uuids"]) == shape[0]
        assert options["sigmas"].shape == (1,)


def test_the_base_image_is_foretold_without_negative_prompts_at_cfg_1(host, as_forge):
    """The family leaves them out there, the first host does not."""
    planning = importlib.import_module("demofusion_lib.webui.planning")
    settings = host.params.Params.from_names({"enabled": True, "scale": 2})

    def foretold(cfg_scale):
        p = host.generation({"scale": 2}, **SIZE, cfg_scale=cfg_scale)
        drawn = host.txt2img(None, **SIZE, cfg_scale=cfg_scale)
        rows = sum(len(call.x) for call in drawn.base.calls)
        return planning.plan_of(p, settings).base_evaluations, rows

    assert foretold(1) == (2 * SIZE["steps"], 2 * SIZE["steps"])
    as_forge("reForge")
    assert foretold(1) == (SIZE["steps"], SIZE["steps"]) and foretold(5) == (2 * SIZE["steps"], 2 * SIZE["steps"])


@pytest.mark.parametrize("kind", ["reForge", "Forge"])
def test_a_window_of_nan_is_asked_for_once_more(host, as_forge, kind):
    """In the precision that it was asked in, and the note says nothing else."""
    as_forge(kind)
    plain = host.txt2img({"scale": 2}, **SIZE)

    def one_of_nan(n, output):
        if n == 9:
            output[1] = float("nan")
        return output

    host.model.hooks.output = one_of_nan
    outcome = host.txt2img({"scale": 2}, **SIZE)
    assert float((outcome.latents[-1] - plain.latents[-1]).abs().max()) < 1e-5
    assert "1 window was NaN and drawn again in phase 2" in outcome.comments


@pytest.mark.parametrize(
    "said", [{"is_sd1": False}, {"latent_channels": 16}, {"is_sd1": False, "is_sd3": True}], ids=["Flux", "16", "SD3"]
)
def test_models_of_other_families_are_refused(host, reforge, said):
    vars(host.model).update(said)
    outcome = host.run(host.generation({"scale": 2}, **SIZE))
    assert "allowed: SD 1.x, SD 2.x and SDXL checkpoints" in str(outcome.error)
    assert not outcome.samplings


@pytest.mark.parametrize("kind", ["reForge", "Forge", "Forge Neo"])
def test_a_rectified_flow_is_refused(host, as_forge, monkeypatch, kind):
    """SDXL models of that kind call themselves SDXL."""
    as_forge(kind)
    monkeypatch.setattr(
        type(host.model.forge_objects.unet.model.levels), "noise_scaling",
        lambda levels, sigma, noise, latent_image, max_denoise=False: sigma * noise + (1.0 - sigma) * latent_image,
    )  # fmt: skip
    outcome = host.run(host.generation({"scale": 2}, **SIZE))
    assert "the model is a rectified flow, allowed: SD 1.x, SD 2.x and SDXL checkpoints" in str(outcome.error)
    assert not outcome.samplings


def test_forge_neo_is_told_by_its_name(host, as_forge):
    hosts = importlib.import_module("demofusion_lib.webui.hosts")
    as_forge("Forge")
    assert hosts.host_name() == "Forge 2.0.1v1.10.1"
    as_forge("Forge Neo")
    assert hosts.host_name() == "Forge Neo 2.22"
    del sys.modules["modules_forge.forge_version"].release  # older ones tell no number
    assert hosts.host_name() == "Forge Neo"


def test_an_sdxl_with_another_vae_is_refused(host, as_forge):
    """Forge Neo's Mugen, which calls itself SDXL too."""
    as_forge("Forge Neo")
    host.model.forge_objects.vae.latent_channels = 32
    outcome = host.run(host.generation({"scale": 2}, **SIZE))
    assert "the model is a " in str(outcome.error) and "SDXL checkpoints" in str(outcome.error)


def test_an_extension_that_answers_by_earlier_answers_is_left_out(host, as_forge):
    """Spectrum: in a phase these are other windows' answers."""
    as_forge("Forge Neo")
    expected, answers, asked = host.txt2img({"scale": 2}, **SIZE), [], []

    def wrapper(apply_model, args):
        asked.append(args["input"].shape[-1])
        answers.append(answers[-1] if len(answers) % 2 else apply_model(args["input"], args["timestep"], **args["c"]))
        return answers[-1]

    def patch(p, unet):
        wrapper.__module__ = "lib_spectrum.forecaster"
        if host.witness.samplings[1:]:
            unet.set_model_unet_function_wrapper(wrapper)

    outcome = host.txt2img({"scale": 2}, **SIZE, scripts=(patching(host, patch),))
    assert np.array_equal(outcome.images[0], expected.images[0]) and not asked
    assert "Spectrum draws in the base image only" in outcome.comments


def test_samplers_that_the_family_adds_are_refused_by_name(host, reforge):
    """Whatever solver they run: they make schedules of their own."""
    common, sigmas = host.sd_samplers_common, host.sd_samplers_kdiffusion

    class AlterSampler(sigmas.KDiffusionSampler):
        pass

    added = common.SamplerData("Euler Comfy", lambda model: AlterSampler("sample_euler", model), [], {})
    host.sd_samplers.all_samplers.append(added)
    host.sd_samplers.all_samplers_map[added.name] = added
    outcome = host.run(host.generation({"scale": 2}, **SIZE, sampler_name="Euler Comfy"))
    assert "the sampler is 'Euler Comfy', allowed: " in str(outcome.error) and "Comfy" not in str(outcome.error)[60:]
    assert host.txt2img(None, **SIZE, sampler_name="Euler Comfy").sizes == [(64, 64)]


def test_a_second_run_follows(host, reforge):
    one, other = (host.txt2img({"scale": 2}, **SIZE) for _ in range(2))
    assert np.array_equal(one.images[0], other.images[0])


def test_memory_is_reckoned_by_windows(host, reforge):
    """By the whole latent the host would turn out other models, and cut its calls up."""
    model, while_drawn = host.model, []
    unet = model.forge_objects.unet.model
    model.hooks.on_call = lambda n: while_drawn.append(unet.memory_required([2, 4, 32, 32]))
    host.txt2img({"scale": 4, "plan": "direct", "window_batch": 3}, **SIZE)
    assert reforge.prepared == [2 * 8 * 8, 3 * 8 * 8]
    assert set(while_drawn) == {2 * 32 * 32, 3 * 8 * 8}
    assert "memory_required" not in vars(unet)


def test_memory_that_another_extension_reckons_with_stays(host, reforge):
    scripts = (patching(host, lambda p, unet: unet.set_memory_peak_estimation_modifier(lambda shape: 77)),)
    host.txt2img({"scale": 2}, **SIZE, scripts=scripts)
    assert reforge.prepared == [77, 77]


def test_memory_is_reckoned_by_windows_without_a_hook_of_the_patchers(host, as_forge):
    """Forge Neo's asks its model alone."""
    family = as_forge("Forge Neo")
    host.txt2img({"scale": 4, "plan": "direct", "window_batch": 3}, **SIZE)
    assert family.prepared == [2 * 8 * 8, 3 * 8 * 8]
    assert "memory_required" not in vars(host.model.forge_objects.unet.model)


def test_a_decode_is_reckoned_by_tiles(host, reforge):
    forge, vae = importlib.import_module("demofusion_lib.webui.forge"), host.model.forge_objects.vae
    whole = vae.memory_used_decode
    with forge.reckoned_by_tiles(host.model, 64):
        assert vae.memory_used_decode((1, 4, 64, 16), None) == 16 * 4
        assert vae.memory_used_decode((1, 4, 8, 4), None) == 8 * 4
    assert vae.memory_used_decode is whole


def test_the_hosts_own_tiles(host, reforge, monkeypatch):
    """Its setting is respected, and told of."""
    del host.model.first_stage_model.decode  # of the double: as if another extension had set it
    module = types.ModuleType("ldm_patched.modules.model_management")
    module.VAE_ALWAYS_TILED = True
    monkeypatch.setitem(sys.modules, module.__name__, module)
    decoding, told = importlib.import_module("demofusion_lib.webui.decoding"), []
    p = types.SimpleNamespace(sd_model=host.model, outpath_samples="")
    with decoding.tiled(p, "auto", 64, told.append, None) as tiles:
        assert tiles is None
    assert told == ["decoded by the webui's own tiles, as its settings say"]
    assert "decode" not in vars(host.model.first_stage_model)
