"""Models for the command line: the toy, a diffusers folder or hub name, or one `.safetensors` file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..setting import quoted
from ..targets import LATENT_PX
from . import names
from .errors import UserError, first_line
from .loading import load_pipeline
from .names import AUTO
from .sources import ALLOWED, Source
from .training import prediction_of

LATENT_CHANNELS = 4
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in names.DTYPES}


@dataclass(frozen=True)
class Model:
    """A diffusers model, and what the engine must know of it.

    text: pairs of tokenizer and encoder, one for SD, two for SDXL; none where somebody else encodes the prompts.
    alphas_cumprod: the training schedule, float64 `(1000,)`. prediction: what the UNet answers, of PREDICTIONS.
    zero_empty: whether an empty negative prompt is zeros instead of its encoding.
    told: what the UNet is told besides with every call, by name. where: the device that computes, None for the UNet's own.
    """

    name: str
    unet: Any
    vae: Any
    text: tuple[tuple[Any, Any], ...]
    alphas_cumprod: torch.Tensor
    prediction: str
    is_sdxl: bool
    zero_empty: bool = False
    told: Mapping[str, Any] = field(default_factory=dict)
    where: torch.device | None = None

    @property
    def native_px(self) -> int:
        return int(self.unet.config.sample_size) * LATENT_PX

    @property
    def guidance_width(self) -> int | None:
        """Of the embedding in which a UNet distilled under guidance (LCM) is told its scale; others aren't told."""
        return getattr(self.unet.config, "time_cond_proj_dim", None)

    def unet_in_float32(self) -> contextlib.AbstractContextManager[None]:
        """For a window that it answered with NaN."""
        return in_float32(self.unet)

    def unscaled(self, latent: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """`latent (batch, 4, height, width)` in the VAE's own scale, and its dtype unless told: what its decoder takes."""
        latent, factor = latent.to(dtype or self.vae.dtype), self.vae.config.scaling_factor
        own = self._own_statistics(latent)
        return latent / factor if own is None else latent * own[1] / factor + own[0]

    def scaled(self, mean: torch.Tensor) -> torch.Tensor:
        """The latent of what the VAE's encoder answers: `unscaled` undone, in float32."""
        latent, factor = mean.float(), self.vae.config.scaling_factor
        own = self._own_statistics(latent)
        return latent * factor if own is None else (latent - own[0]) * factor / own[1]

    def _own_statistics(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and deviation of the VAE's latents, by channel, where its config has them."""
        mean, deviation = (getattr(self.vae.config, name, None) for name in ("latents_mean", "latents_std"))
        if mean is None or deviation is None:
            return None
        mean, deviation = (latent.new_tensor(list(values)).view(1, -1, 1, 1) for values in (mean, deviation))
        return mean, deviation

    @property
    def device(self) -> torch.device:
        """Where the UNet computes. Offloaded by accelerate, it lies elsewhere between its calls."""
        if self.where is not None:
            return self.where
        computes_on = getattr(getattr(self.unet, "_hf_hook", None), "execution_device", None)
        return self.unet.device if computes_on is None else torch.device(computes_on)

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype


@contextlib.contextmanager
def in_float32(module: Any) -> Iterator[None]:
    """A network, for as long as that. Every weight comes back as it was: a float32 holds it."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    before = [(tensor, tensor.dtype) for tensor in tensors if tensor.dtype != torch.float32]
    try:
        for tensor, _ in before:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, dtype in before:
            tensor.data = tensor.data.to(dtype)


def choose_device(name: str = "auto") -> torch.device:
    """CUDA before Apple's MPS before the CPU. Raises UserError for one that torch can't use here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device is {quoted(name)}, which torch can't use here ({first_line(error)})") from error
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Half precision on a GPU, single on a CPU, which is no faster in half."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]


def load_model(
    name: str, device: torch.device, dtype: torch.dtype, *, variant: str = "", config: str = "", prediction: str = AUTO
) -> Model:
    """variant: of a folder's weights. config: a single file's own. prediction: one of PREDICTIONS instead of what the model says.

    Raises UserError for a model that can't be found or that isn't one of SD 1.x, SD 2.x and SDXL.
    """
    source = Source(name, variant, config, prediction)
    source.check()
    try:
        with quiet():
            pipeline = load_pipeline(source, device, dtype)
        check_parts(pipeline)
    except UserError as error:
        raise UserError(f"model is {quoted(name)}, which {error}") from error
    except Exception as error:  # strangers' files make the libraries raise whatever they please
        reason = f"model is {quoted(name)}, which can't be loaded ({first_line(error)})"
        raise UserError(f"{reason}, allowed: {ALLOWED}") from error
    if overflows_in_half(pipeline):
        pipeline.vae.to(dtype=torch.float32)
    pipeline.unet.eval()
    pipeline.vae.eval()
    own = Path(name).stem if source.is_file else name.rstrip("/\\").replace("\\", "/").split("/")[-1]
    return model_of(pipeline, own, prediction)


def model_of(pipeline: Any, name: str, prediction: str = AUTO) -> Model:
    """The parts of a diffusers pipeline of `check_parts`, as they are. prediction: as in `load_model`."""
    text = [(pipeline.tokenizer, pipeline.text_encoder)]
    is_sdxl = hasattr(pipeline, "text_encoder_2")
    if is_sdxl:
        text.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    return Model(
        name,
        pipeline.unet,
        pipeline.vae,
        tuple((tokenizer, encoder) for tokenizer, encoder in text if encoder is not None),
        pipeline.scheduler.alphas_cumprod.cpu().double(),
        prediction_of(pipeline.scheduler) if prediction == AUTO else prediction,
        is_sdxl,
        is_sdxl and pipeline.config.force_zeros_for_empty_prompt,
    )


def overflows_in_half(pipeline: Any) -> bool:
    """Whether its VAE lies in half precision and answers NaN there, as SDXL's first does."""
    is_sdxl = hasattr(pipeline, "text_encoder_2")
    upcast = is_sdxl and getattr(pipeline.vae.config, "force_upcast", False)
    return bool(upcast and pipeline.vae.dtype == torch.float16)


def check_parts(pipeline: Any) -> None:
    """Raises UserError, in words that go on behind the model's name, for a UNet or VAE that draws otherwise."""
    channels = pipeline.unet.config.in_channels
    if channels != LATENT_CHANNELS:
        raise UserError(f"takes {channels} channels, supported: {LATENT_CHANNELS} (no inpainting)")
    cell, channels = pipeline.vae_scale_factor, pipeline.vae.config.latent_channels
    if (cell, channels) != (LATENT_PX, LATENT_CHANNELS):
        supported = f"{LATENT_PX} px and {LATENT_CHANNELS}"
        raise UserError(f"has a VAE of {cell} px to a cell and {channels} channels, supported: {supported}")


@contextlib.contextmanager
def quiet() -> Any:
    """Loading chatters on both streams; what goes wrong is raised."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
