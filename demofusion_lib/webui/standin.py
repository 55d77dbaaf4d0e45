"""What stands for a model where a run is only reckoned: its noise levels, on the CPU.

Reading a number from a device waits for whatever is drawn on it, and the host loads a model when it is first asked for.
Neither may happen while somebody types into the page.
"""

from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import torch
from modules import sd_models, sd_samplers_kdiffusion, sd_samplers_timesteps

from .hosts import is_forge
from .parts import alphas_of, is_v, of_forge


def loaded() -> Any:
    """The model that the host holds, None where it has loaded none yet. `shared.sd_model` would load it."""
    model = sd_models.model_data.sd_model
    if isinstance(model, torch.nn.Module) and vars(model).get("_buffers") is None:
        return None  # reForge takes it apart, piece by piece, before it loads another
    return None if hasattr(model, "chunk_length") and of_forge(model) is None else model  # Forge's stands for none


class StandIn(torch.nn.Module):
    """For a model whose `alphas_cumprod` are given."""

    def __init__(self, alphas_cumprod: torch.Tensor, parameterization: str, is_sdxl: bool):
        super().__init__()
        self.alphas_cumprod = alphas_cumprod
        self.parameterization = parameterization
        self.is_sdxl = is_sdxl
        self.device = torch.device("cpu")

    @classmethod
    def of(cls, model: Any) -> StandIn:
        alphas = alphas_of(model).detach().float().cpu()
        return cls(alphas, "v" if is_v(model) else "eps", bool(getattr(model, "is_sdxl", False)))

    @classmethod
    def usual(cls, parameterization: str, is_sdxl: bool) -> StandIn:
        """Of Stable Diffusion's training: 1000 levels whose betas' roots are evenly spaced (CompVis, `v1-inference.yaml`)."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        return cls(torch.cumprod(1 - betas, dim=0).float(), parameterization, is_sdxl)


_known: weakref.WeakKeyDictionary[Any, tuple[Any, StandIn]] = weakref.WeakKeyDictionary()


def standing_for(model: Any) -> StandIn:
    """The one of a model that is loaded: its levels are read from the device once, and again when the host sets others."""
    alphas = getattr(model, "alphas_cumprod", None)
    found = _known.get(model)
    if found is None or found[0] is not alphas:
        found = _known[model] = alphas, StandIn.of(model)
    return found[1]


def sampler_for(config: Any, model: StandIn) -> Any:
    """The host's sampler as far as its schedule goes, without its constructor, which asks for the loaded model.

    None for one that isn't the host's own, or whose schedule is bound to the model itself (LCM), and of Forge's family.
    """
    if is_forge():
        return None
    found = _functions().get(config.name)
    if found is None:
        return None
    kind, function = found
    timesteps, v_model = kind is sd_samplers_timesteps.CompVisSampler, model.parameterization == "v"
    if timesteps:
        host = sd_samplers_timesteps
        denoiser = (host.CompVisTimestepsVDenoiser if v_model else host.CompVisTimestepsDenoiser)(model)
    else:
        external = sd_samplers_kdiffusion.k_diffusion.external
        denoiser = (external.CompVisVDenoiser if v_model else external.CompVisDenoiser)(model)
    sampler = kind.__new__(kind)
    sampler.func = function if callable(function) else getattr(sd_samplers_kdiffusion.k_diffusion.sampling, function)
    sampler.config, sampler.model_wrap = config, denoiser
    sampler.model_wrap_cfg = SimpleNamespace(inner_model=denoiser)
    sampler.eta_option_field = "eta_ddim" if timesteps else "eta_ancestral"
    return sampler


def _functions() -> dict[str, tuple[type, Any]]:
    """Of the host's samplers by name: their class, and what does the sampling or its name."""
    kinds = (
        (sd_samplers_kdiffusion.KDiffusionSampler, sd_samplers_kdiffusion.samplers_k_diffusion),
        (sd_samplers_timesteps.CompVisSampler, sd_samplers_timesteps.samplers_timesteps),
    )
    return {row[0]: (kind, row[1]) for kind, rows in kinds for row in rows}
