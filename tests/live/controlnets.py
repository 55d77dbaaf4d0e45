"""Small models for sd-webui-controlnet, made inside the webui from the UNet that is loaded.

`test_controlnet.py` sends this file's text to the webui, which runs it in its own process. Weights are the UNet's own where it
has them, random elsewhere; nothing is zero, so that a map moves the picture. The extension builds a ControlNet by the sizes of
the real ones, which it is told are the loaded UNet's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from modules import shared  # noqa: TID251
from safetensors.torch import save_file

NAMES = {
    "controlnet": "demofusion-test-control",
    "adapter": "demofusion-test-adapter",
    "lllite": "demofusion-test-lllite",
}


def own(name: str) -> Any:
    """A module of the extension's."""
    return sys.modules[f"scripts.{name}"]


def blocks(p: Any) -> int:
    """How many input blocks the UNet has; 0 where the extension is missing."""
    return len(shared.sd_model.model.diffusion_model.input_blocks) if "scripts.cldm" in sys.modules else 0


def install(p: Any) -> dict[str, str]:
    """The names that the extension knows the models by, which are written into its folder."""
    torch.manual_seed(7)
    unet, folder = shared.sd_model.model.diffusion_model, Path(own("global_state").cn_models_dir)
    sdxl = bool(shared.sd_model.is_sdxl)
    end = "xl" if sdxl else "sd15"
    made = {"controlnet": controlnet(unet, sdxl), "adapter": adapter(unet, sdxl), "lllite": lllite(unet)}
    for kind, state in made.items():
        save_file(
            {key: value.contiguous() for key, value in state.items()}, folder / f"{NAMES[kind]}-{end}.safetensors"
        )
    for script in p.scripts.alwayson_scripts:
        if hasattr(script, "model_cache"):
            type(script).clear_control_model_cache()
    own("global_state").update_cn_models()
    return {
        kind: next(n for n in own("global_state").cn_models if n.startswith(f"{name}-{end}"))
        for kind, name in NAMES.items()
    }


def remove(p: Any) -> None:
    for path in Path(own("global_state").cn_models_dir).glob("demofusion-test-*"):
        path.unlink()
    own("global_state").update_cn_models()


def context_width(unet: Any) -> int:
    return int(next(v.shape[1] for k, v in unet.state_dict().items() if k.endswith("attn2.to_k.weight")))


def controlnet(unet: Any, sdxl: bool) -> dict[str, torch.Tensor]:
    guess = own("controlnet_model_guess")
    config = guess.controlnet_sdxl_mid_config if sdxl else guess.controlnet_default_config
    depth = [1 if ds in unet.attention_resolutions else 0 for ds in (1, 2, 4, 8)]
    config.update(
        model_channels=unet.model_channels, channel_mult=list(unet.channel_mult), context_dim=context_width(unet),
        attention_resolutions=list(unet.attention_resolutions), transformer_depth=depth[: len(unet.channel_mult)],
    )  # fmt: skip
    config.update(
        {"adm_in_channels": unet.label_emb[0][0].in_features, "num_head_channels": unet.num_head_channels}
        if sdxl
        else {"num_heads": unet.num_heads}
    )
    model = own("cldm").ControlNet(**config, hint_channels=3, use_fp16=False)
    model.load_state_dict(unet.state_dict(), strict=False)
    for name, parameter in model.named_parameters():
        if name.startswith("input_hint_block") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
        elif parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3 * parameter[0].numel() ** -0.5)
    return model.state_dict()


def adapter(unet: Any, sdxl: bool) -> dict[str, torch.Tensor]:
    channels = [unet.model_channels * n for n in (1, 2, 4, 4)]
    model = own("adapter").Adapter(
        cin=768 if sdxl else 192, channels=channels, nums_rb=2, ksize=1, sk=True, use_conv=False, is_sdxl=sdxl
    )
    return {key: value * 1.5 for key, value in model.state_dict().items()}


def lllite(unet: Any) -> dict[str, torch.Tensor]:
    states = {}
    block = unet.input_blocks[4][1].transformer_blocks[0].attn1.to_q
    name = "lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    module = own("controlnet_lllite").LLLiteModule(name, False, block.in_features, 2, 16, 16)
    for key, value in module.state_dict().items():
        states[f"{name}.{key}"] = value * 6
    return states
