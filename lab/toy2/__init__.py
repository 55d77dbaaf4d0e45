"""The second toy: it draws the first one's scenes on a ground that its prompt names, and that guidance makes sure of.

It judges variants of guidance and is no part of the product: the package that is installed doesn't carry it.
"""

from __future__ import annotations

from pathlib import Path

import torch

from demofusion_lib.standalone.configs import config_folder, read_parts
from demofusion_lib.standalone.models import Model, load_model
from demofusion_lib.standalone.toy import CONFIG_FILE

TOY2_FILE = Path(__file__).with_name("toy2.safetensors")


def load_toy2(device: torch.device, dtype: torch.dtype = torch.float32, file: Path = TOY2_FILE) -> Model:
    """The second toy, whose parts have the first one's shapes. Raises UserError where the file is missing."""
    with config_folder(read_parts(CONFIG_FILE)) as configs:
        model = load_model(str(file), device, dtype, config=str(configs))
    if device.type == "cpu":
        model.vae.to(memory_format=torch.channels_last)  # a fifth faster, as with the first
    return model
