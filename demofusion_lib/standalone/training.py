"""What a model was trained to answer, and on which noise levels."""

from __future__ import annotations

from typing import Any

import torch

from ..core.schedule import TRAINING_TIMESTEPS
from ..setting import quoted
from .errors import UserError
from .names import PREDICTIONS

LEVELS = f"schedulers of DDPM's {TRAINING_TIMESTEPS} noise levels (DDIM, Euler, DPM++ and their kin)"


def check_training(scheduler: Any) -> None:
    """Raises UserError, in words that go on behind the model's name, for levels that the samplers don't have.

    EDM's and flow matching's schedulers have no `alphas_cumprod`, or have them beside the levels that they mean.
    """
    config, levels = scheduler.config, getattr(scheduler, "alphas_cumprod", None)
    name = type(scheduler).__name__
    if levels is None or config.get("use_flow_sigmas") or config.get("timestep_type") == "continuous":
        raise UserError(f"was trained for the scheduler {name}, supported: {LEVELS}")
    if len(levels) != TRAINING_TIMESTEPS:
        raise UserError(f"was trained on {len(levels)} noise levels, supported: {TRAINING_TIMESTEPS}")
    if prediction_of(scheduler) not in PREDICTIONS:
        raise UserError(
            f"was trained for the prediction {quoted(prediction_of(scheduler))}, supported: {', '.join(PREDICTIONS)}"
        )


def prediction_of(scheduler: Any) -> str:
    return scheduler.config.get("prediction_type", "epsilon")


def trained_anew(scheduler: Any, prediction: str, *, zero_snr: bool = False) -> Any:
    """The same levels under another prediction. zero_snr: spread until the last holds nothing but noise (arXiv 2305.08891)."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(scheduler.config, prediction_type=prediction, rescale_betas_zero_snr=zero_snr)


@torch.no_grad()
def is_v_prediction(unet: Any) -> bool:
    """Asks an SD 2 UNet itself: no tensor's name or shape tells its two predictions apart.

    Given a uniform input at the last timestep, where a latent is noise, an epsilon model answers about that input. A v
    model answers the negative of the picture it expects, which lies far below. The threshold is the webui's.
    """
    about = {"device": unet.device, "dtype": unet.dtype}
    x = torch.full((1, 4, 8, 8), 0.5, **about)
    context = torch.full((1, 2, unet.config.cross_attention_dim), 0.5, **about)
    output = unet(x, TRAINING_TIMESTEPS - 1, encoder_hidden_states=context, return_dict=False)[0]
    return float((output - x).float().mean()) < -1
