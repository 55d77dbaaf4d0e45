"""What the adapter and its doubles take for granted of the family, held against the sources of a real one.

Reads them, imports nothing: `REFORGE_DIR` and `FORGE_DIR` name checkouts.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from . import doubles

SOURCES = {
    "reForge": (
        "REFORGE_DIR", "modules_forge/unet_patcher.py", "ldm_patched/modules/model_patcher.py",
        "ldm_patched/modules/samplers.py", "ldm_patched/modules/model_base.py", "modules_forge/forge_loader.py",
        "ldm_patched/modules/model_sampling.py", "ldm_patched/modules/sd.py", "modules_forge/forge_sampler.py",
    ),
    "Forge": (
        "FORGE_DIR", "backend/patcher/unet.py", "backend/patcher/base.py", "backend/sampling/sampling_function.py",
        "backend/modules/k_model.py", "backend/diffusion_engine/base.py", "backend/modules/k_prediction.py",
        "backend/patcher/vae.py",
    ),
}  # fmt: skip


@pytest.fixture(params=list(SOURCES))
def source(request):
    variable, *files = SOURCES[request.param]
    if not os.environ.get(variable):
        pytest.skip(f"{variable} names no checkout")
    return "\n".join((Path(os.environ[variable]) / file).read_text(encoding="utf8") for file in files)


def methods(source):
    return {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("kind", [doubles.UnetPatcher, doubles.ForgeObjects, doubles.Levels, doubles.Model])
def test_the_doubles_methods_are_the_familys(source, kind):
    theirs = methods(source)
    ours = methods(Path(doubles.__file__).read_text(encoding="utf8"))
    for name in vars(kind):
        if not name.startswith("_"):
            assert name in theirs, name
    for name in (
        "set_model_unet_function_wrapper",
        "set_memory_peak_estimation_modifier",
        "calculate_denoised",
        "shallow_copy",
    ):
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
    assert name in source
