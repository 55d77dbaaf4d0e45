"""Puts the toy checkpoint into a webui: `python -m lab.install WEBUI_DIR`."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from demofusion_lib.standalone.toy import TOY_FILE, write_text_encoder

NAME = "demofusion-toy"
CONFIG = """\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    num_timesteps_cond: 1
    timesteps: 1000
    first_stage_key: jpg
    cond_stage_key: txt
    image_size: 32
    channels: 4
    cond_stage_trainable: false
    conditioning_key: crossattn
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: 32
        in_channels: 4
        out_channels: 4
        model_channels: 64
        channel_mult: [1, 1, 1]
        attention_resolutions: [2, 4]
        num_res_blocks: 1
        num_heads: 4
        use_spatial_transformer: true
        transformer_depth: 1
        context_dim: 32
        use_checkpoint: false
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: 256
          in_channels: 3
          out_ch: 3
          ch: 64
          ch_mult: [1, 1, 1, 1]
          num_res_blocks: 1
          attn_resolutions: []
          dropout: 0.0
        lossconfig:
          target: torch.nn.Identity
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params:
        version: TEXT_ENCODER
"""
"""In the words of the original SD1 code, whose classes the webui builds from it."""


def install(webui: Path) -> Path:
    """The checkpoint, the config beside it and the text encoder's folder. Raises FileNotFoundError for no webui."""
    folder = webui.resolve() / "models" / "Stable-diffusion"
    if not folder.is_dir():
        raise FileNotFoundError(f"{webui} is no webui: it has no models/Stable-diffusion")
    text_encoder = folder / f"{NAME}-text-encoder"
    write_text_encoder(text_encoder)
    checkpoint = folder / f"{NAME}.safetensors"
    shutil.copyfile(TOY_FILE, checkpoint)
    config = CONFIG.replace("TEXT_ENCODER", json.dumps(str(text_encoder)))
    checkpoint.with_suffix(".yaml").write_text(config, encoding="utf-8")
    return checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.install", description="Puts the toy checkpoint into a webui.")
    parser.add_argument("webui", type=Path, help="the webui's folder")
    args = parser.parse_args(argv)
    try:
        print(install(args.webui))
    except FileNotFoundError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
