"""What the adapter and its doubles take for granted of the family, held against the sources of a real one.

Reads them, imports nothing: `REFORGE_DIR`, `CLASSIC_DIR`, `FORGE_DIR` and `NEO_DIR` name checkouts.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from . import controlling, doubles

SOURCES = {
    "reForge": (
        "REFORGE_DIR", "modules_forge/unet_patcher.py", "ldm_patched/modules/model_patcher.py",
        "ldm_patched/modules/samplers.py", "ldm_patched/modules/model_base.py", "modules_forge/forge_loader.py",
        "ldm_patched/modules/model_sampling.py", "ldm_patched/modules/sd.py", "modules_forge/forge_sampler.py",
    ),
    "Forge Classic": (
        "CLASSIC_DIR", "modules_forge/unet_patcher.py", "ldm_patched/modules/model_patcher.py",
        "ldm_patched/modules/samplers.py", "ldm_patched/modules/model_base.py", "modules_forge/forge_loader.py",
        "ldm_patched/modules/model_sampling.py", "ldm_patched/modules/sd.py", "modules_forge/forge_sampler.py",
        "modules_forge/forge_alter_samplers.py", "modules/sd_samplers_kdiffusion.py", "modules_forge/forge_version.py",
    ),
    "Forge": (
        "FORGE_DIR", "backend/patcher/unet.py", "backend/patcher/base.py", "backend/sampling/sampling_function.py",
        "backend/modules/k_model.py", "backend/diffusion_engine/base.py", "backend/modules/k_prediction.py",
        "backend/patcher/vae.py",
    ),
    "Forge Neo": (
        "NEO_DIR", "backend/patcher/unet.py", "backend/patcher/base.py", "backend/sampling/sampling_function.py",
        "backend/modules/k_model.py", "backend/diffusion_engine/base.py", "backend/modules/k_prediction.py",
        "backend/patcher/vae.py",
    ),
}  # fmt: skip
PEAK = "set_memory_peak_estimation_modifier"
"""Not in Forge Neo."""


@pytest.fixture(params=list(SOURCES))
def source(request):
    variable, *files = SOURCES[request.param]
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no checkout")
    return "\n".join((Path(os.environ[variable]) / file).read_text(encoding="utf8") for file in files)


def methods(source):
    return {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    "kind", [doubles.PatcherOfNeo, doubles.UnetPatcher, doubles.ForgeObjects, doubles.Levels, doubles.Model]
)
def test_the_doubles_methods_are_the_familys(source, kind):
    theirs = methods(source)
    if PEAK not in theirs and kind is doubles.UnetPatcher:
        pytest.skip("Forge Neo has no such patcher")
    ours = methods(Path(doubles.__file__).read_text(encoding="utf8"))
    known = {"noise_scaling"} - {*theirs}  # Forge Classic has none
    for name in vars(kind):
        if not name.startswith("_"):
            assert name in theirs or name in known, name
    for name in (
        "set_model_unet_function_wrapper", "calculate_denoised", "shallow_copy", *({PEAK, "noise_scaling"} & {*theirs}),
    ):  # fmt: skip
        own, real = ([a.arg for a in found[name].args.args] for found in (ours, theirs))
        assert own == real, name


def test_what_a_wrapper_is_given(source):
    """`model.apply_model` and one dictionary of four."""
    calls = [
        node for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
        and getattr(node.func.slice, "value", "") == "model_function_wrapper"
    ]  # fmt: skip
    assert calls
    for call in calls:
        model, told = call.args
        assert ast.unparse(model) == "model.apply_model"
        assert [key.value for key in told.keys] == ["input", "timestep", "c", "cond_or_uncond"]


@pytest.mark.parametrize(
    "name", ["forge_objects_after_applying_lora", "memory_peak_estimation_modifier", "controlnet_linked_list",
             "memory_used_decode", "VAE_ALWAYS_TILED", "to_batch_temp.reverse()"],
)  # fmt: skip
def test_names_that_the_adapter_uses(source, name):
    assert name in source or (name in PEAK and PEAK not in methods(source))


NETS = {
    "reForge": "ldm_patched/modules/controlnet.py", "Forge Classic": "ldm_patched/modules/controlnet.py",
    "Forge": "backend/patcher/controlnet.py", "Forge Neo": "backend/patcher/controlnet.py",
}  # fmt: skip
BUILT_IN = "extensions-builtin/sd_forge_controlnet/scripts/controlnet.py"
LITE = "extensions-builtin/sd_forge_controlllite/lib_controllllite/lib_controllllite.py"


@pytest.fixture(params=list(NETS))
def control(request):
    """The family's name, and the source of a file of it by its path."""
    variable = SOURCES[request.param][0]
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no checkout")
    return request.param, lambda file: (Path(os.environ[variable]) / file).read_text(encoding="utf8")


def classes(source):
    return {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}


def arguments(owner):
    """Of a class's own methods."""
    return {n.name: [a.arg for a in n.args.args] for n in owner.body if isinstance(n, ast.FunctionDef)}


def test_the_doubles_of_networks_are_the_familys(control):
    kind, read = control
    theirs, ours = classes(read(NETS[kind])), classes(Path(controlling.__file__).read_text(encoding="utf8"))
    base, net = arguments(theirs["ControlBase"]), arguments(theirs["ControlNet"])
    own = arguments(ours["ControlNet"])
    for name in (
        "set_previous_controlnet", "pre_run", "cleanup", "get_models", "inference_memory_requirements", "copy",
    ):  # fmt: skip
        assert own[name] == {**base, **net}[name], name
    assert base["set_cond_hint"][:4] == own["set_cond_hint"]
    asked = arguments(ours["ControlNetOfReforge" if kind == "reForge" else "ControlNet"])["get_control"]
    assert asked == net["get_control"] == arguments(theirs["T2IAdapter"])["get_control"]
    assert "get_control" not in arguments(theirs["ControlLora"])
    assert [ast.unparse(base) for base in theirs["ControlLora"].bases] == ["ControlNet"]


def test_what_a_network_takes_its_hint_from(control):
    """Anew, where it has none of the latent's size; a range that is None holds every level."""
    kind, read = control
    for name in ("ControlNet", "T2IAdapter"):
        text = ast.unparse(classes(read(NETS[kind]))[name])
        assert "if self.cond_hint is None or" in text and "(self.cond_hint_original," in text
        assert "if self.timestep_range is not None:" in text
    assert "self.control_input = None" in text
    assert ("cnet.transformer_options" in read(NETS[kind])) == (kind != "reForge")


def test_the_script_of_units(control):
    kind, read = control
    source = read(BUILT_IN)
    script, ours = classes(source)["ControlNetForForgeOfficial"], Path(controlling.__file__).read_text(encoding="utf8")
    theirs, own = arguments(script), arguments(classes(ours)["ControlNetForForgeOfficial"])
    for name in (
        "get_enabled_units", "bound_check_params", "get_input_data", "process", "process_before_every_sampling",
        "process_unit_after_click_generate", "process_unit_before_every_sampling", "postprocess",
    ):  # fmt: skip
        assert len(own[name]) == len(theirs[name]), name
        assert own[name] == theirs[name] or name == "get_enabled_units", name
    calls = [ast.unparse(node) for node in ast.walk(script) if isinstance(node, ast.Call)]
    assert any("process_unit_before_every_sampling(p, unit, self.current_params[i]" in call for call in calls)
    for name in vars(controlling.ControlNetCachedParameters()):
        assert f"self.{name} = None" in source, name
    assert "external_code.pixel_perfect_resolution(" in source and "unit.save_detected_map" in source


def test_what_a_controllllite_keeps(control):
    source = control[1](LITE)
    for name in ("cond_image", "cond_emb", "num_steps", "start_step", "end_step"):
        assert f"self.{name} = " in source
    assert "if self.num_steps > 0:" in source and "self.modules = modules" in source
