"""The parts of a loaded model, wherever its host keeps them: Forge's family has them in `forge_objects`."""

from __future__ import annotations

from typing import Any

import torch


def of_forge(model: Any) -> Any:
    """The family's own objects of a model, None where the host is the first one."""
    return getattr(model, "forge_objects", None)


def unet_of(model: Any) -> Any:
    """The network itself."""
    objects = of_forge(model)
    return model.model.diffusion_model if objects is None else objects.unet.model.diffusion_model


def vae_of(model: Any) -> Any:
    """The module that decodes and encodes."""
    objects = of_forge(model)
    return model.first_stage_model if objects is None else objects.vae.first_stage_model


def levels_of(model: Any) -> Any:
    """What a model of the family knows of its noise: reForge calls it `model_sampling`, Forge `predictor`."""
    unet = of_forge(model).unet.model
    return getattr(unet, "model_sampling", None) or unet.predictor


def alphas_of(model: Any) -> torch.Tensor:
    """`alphas_cumprod`, by timestep."""
    alphas = getattr(model, "alphas_cumprod", None)
    return alphas if isinstance(alphas, torch.Tensor) else 1 / (levels_of(model).sigmas ** 2 + 1)


def is_v(model: Any) -> bool:
    """Whether the network predicts v."""
    said = getattr(model, "parameterization", None)
    if said is None and of_forge(model) is not None:
        said = "v" if getattr(levels_of(model), "prediction_type", "") == "v_prediction" else "eps"
    return said == "v"


def scale_of(model: Any) -> float:
    """What a latent of the model is divided by before it is decoded."""
    objects = of_forge(model)
    if objects is None or hasattr(model, "scale_factor"):
        return float(model.scale_factor)
    zero, one = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    coder = objects.vae.first_stage_model
    return float(1 / (coder.process_out(one) - coder.process_out(zero)))


def is_flow(model: Any) -> bool:
    """Whether noise takes the picture's place by degrees (rectified flow), where all our arithmetic has it added."""
    scaling = None if of_forge(model) is None else getattr(levels_of(model), "noise_scaling", None)
    if scaling is None:  # Forge Classic knows no such models
        return False
    half, one = torch.full((1,), 0.5), torch.ones(1, 1, 1, 1)
    return float(scaling(half, one, one)) < 1.25
