"""Small models for the ControlNet that reForge and Forge have built in, made inside the webui from the UNet that is loaded.

`test_controlnet.py` sends this file's text to the webui, as it does `controlnets.py`'s to the first host. These hosts tell a
model's sizes by its weights, so that any UNet will do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from modules import sd_models, shared  # noqa: TID251
from safetensors.torch import save_file

NAMES = {
    "controlnet": "demofusion-test-control", "adapter": "demofusion-test-adapter", "lllite": "demofusion-test-lllite",
}  # fmt: skip
BLOCKS = 12
"""Of an SD 1, which is what an adapter of the other layout is made for."""


def own(name: str) -> Any:
    return sys.modules[name]


def is_here(p: Any) -> bool:
    return "lib_controlnet.global_state" in sys.modules and "modules_forge" in sys.modules


def loaded() -> Any:
    """The UNet patcher's model; Forge loads nothing before it draws."""
    if hasattr(sd_models, "forge_model_reload"):
        sd_models.forge_model_reload()
    return shared.sd_model.forge_objects.unet.model


def install(p: Any) -> dict[str, str]:
    """The names that the script knows the models by, which are written into its folder."""
    torch.manual_seed(7)
    model, folder = loaded(), Path(own("modules_forge.shared").controlnet_dir)
    end = "xl" if shared.sd_model.is_sdxl else "sd15"
    made = {"controlnet": controlnet(model), "lllite": lllite(model.diffusion_model)}
    if len(model.diffusion_model.input_blocks) == BLOCKS:
        made["adapter"] = adapter(model.diffusion_model)
    for kind, state in made.items():
        state = {key: value.float().contiguous().cpu() for key, value in state.items()}
        save_file(state, folder / f"{NAMES[kind]}-{end}.safetensors")
    for script in p.scripts.alwayson_scripts:
        loader = getattr(sys.modules.get(type(script).__module__), "cached_controlnet_loader", None)
        known = getattr(type(script), "get_input_data", None)
        loader = loader or (known.__globals__.get("cached_controlnet_loader") if known else None)
        if loader is not None:
            loader.cache_clear()
    names = own("lib_controlnet.global_state")
    names.update_controlnet_filenames()
    known_as = {
        kind: next(n for n in names.get_all_controlnet_names() if n.startswith(f"{name}-{end}"))
        for kind, name in NAMES.items()
        if kind in made
    }
    return {**known_as, "none": "None"}


def remove(p: Any) -> None:
    for path in Path(own("modules_forge.shared").controlnet_dir).glob("demofusion-test-*"):
        path.unlink()
    own("lib_controlnet.global_state").update_controlnet_filenames()


def controlnet(model: Any) -> dict[str, torch.Tensor]:
    """As a ControlLora is built: by the sizes of the UNet."""
    unet = model.diffusion_model
    of_reforge = "ldm_patched.controlnet.cldm" in sys.modules
    config = dict(model.model_config.unet_config if of_reforge else unet.config)
    config.pop("out_channels", None)
    config = {**config, "hint_channels": 3, "dtype": torch.float32}
    cldm = own("ldm_patched.controlnet.cldm" if of_reforge else "backend.nn.cnets.cldm")
    net = cldm.ControlNet(**config)
    net.load_state_dict({key: value.float().cpu() for key, value in unet.state_dict().items()}, strict=False)
    state = net.state_dict()
    for name, value in state.items():
        if name.startswith("input_hint_block") and value.ndim > 1:
            torch.nn.init.normal_(value, std=2 * value[0].numel() ** -0.5)
        elif name.startswith(("zero_convs", "middle_block_out")) and value.ndim > 1:
            torch.nn.init.normal_(value, std=0.3 * value[0].numel() ** -0.5)
        elif name.startswith(("input_hint_block", "zero_convs", "middle_block_out")):
            value.zero_()
    return state


def adapter(unet: Any) -> dict[str, torch.Tensor]:
    name = "ldm_patched.t2ia.adapter" if "ldm_patched.t2ia.adapter" in sys.modules else "backend.nn.cnets.t2i_adapter"
    channels = [unet.model_channels * n for n in (1, 2, 4, 4)]
    model = own(name).Adapter(channels=channels, nums_rb=2, cin=192, ksize=1, sk=True, use_conv=False, xl=False)
    return {key: value * 1.5 for key, value in model.state_dict().items()}


def lllite(unet: Any) -> dict[str, torch.Tensor]:
    """Of the first attention, wherever it is."""
    blocks = list(unet.input_blocks)
    number = next(n for n, block in enumerate(blocks) if any(hasattr(layer, "transformer_blocks") for layer in block))
    shrunk = sum(type(layer).__name__ == "Downsample" for block in blocks[:number] for layer in block)
    attention = next(layer for layer in blocks[number] if hasattr(layer, "transformer_blocks"))
    width = attention.transformer_blocks[0].attn1.to_q.in_features
    name = f"lllite_unet_input_blocks_{number}_1_transformer_blocks_0_attn1_to_q"
    kind = own("lib_controllllite.lib_controllllite").LLLiteModule
    module = kind(name, False, width, shrunk + 1, 16, 16, 1.0, 0, 0, 0)
    return {f"{name}.{key}": value * 6 for key, value in module.state_dict().items()}
