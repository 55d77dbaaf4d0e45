"""Models for the command line: the toy, a diffusers folder or hub name, or one `.safetensors` file."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..params import LATENT_PX
from .errors import UserError
from .toy import TOY, TOY_FILE, suit_cpu, toy_configs

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Model:
    """A diffusers model, and what the engine must know of it.

    text: pairs of tokenizer and encoder, one for SD, two for SDXL.
    alphas_cumprod: the training schedule, float64 `(1000,)`.
    """

    name: str
    unet: Any
    vae: Any
    text: tuple[tuple[Any, Any], ...]
    alphas_cumprod: torch.Tensor
    v_prediction: bool
    is_sdxl: bool
    clip_skip: int = 0

    @property
    def native_px(self) -> int:
        return int(self.unet.config.sample_size) * LATENT_PX

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype


def choose_device(name: str = "auto") -> torch.device:
    """CUDA before Apple's MPS before the CPU. Raises UserError for one that torch can't use here."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device is {name!r}, which torch can't use here ({first_line(error)})") from error
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Half precision on a GPU, single on a CPU, which is no faster in half."""
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return DTYPES[name]


def load_model(name: str, device: torch.device, dtype: torch.dtype) -> Model:
    """Raises UserError for a model that can't be found or that isn't one of SD 1.x, SD 2.x and SDXL."""
    with quiet():
        pipeline = _pipeline(name, dtype)
    if type(pipeline).__name__ not in ("StableDiffusionPipeline", "StableDiffusionXLPipeline"):
        raise UserError(f"model {name!r} is a {type(pipeline).__name__}, allowed: SD 1.x, SD 2.x and SDXL")
    if pipeline.unet.config.in_channels != 4:
        raise UserError(f"model {name!r} takes {pipeline.unet.config.in_channels} channels, allowed: 4 (no inpainting)")
    pipeline.to(device)
    if name == TOY and device.type == "cpu":
        suit_cpu(pipeline)
    text = [(pipeline.tokenizer, pipeline.text_encoder)]
    is_sdxl = hasattr(pipeline, "text_encoder_2")
    if is_sdxl:
        text.append((pipeline.tokenizer_2, pipeline.text_encoder_2))
    if is_sdxl and dtype == torch.float16 and getattr(pipeline.vae.config, "force_upcast", False):
        pipeline.vae.to(dtype=torch.float32)  # SDXL's first VAE overflows in half precision
    return Model(
        Path(name).stem if name.endswith(".safetensors") else name.rstrip("/\\").replace("\\", "/").split("/")[-1],
        pipeline.unet.eval(),
        pipeline.vae.eval(),
        tuple((tokenizer, encoder) for tokenizer, encoder in text if encoder is not None),
        pipeline.scheduler.alphas_cumprod.double().cpu(),
        pipeline.scheduler.config.prediction_type == "v_prediction",
        is_sdxl,
    )


def _pipeline(name: str, dtype: torch.dtype) -> Any:
    import diffusers
    from safetensors import SafetensorError

    extra: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True}
    none = {"safety_checker": None, "requires_safety_checker": False, "feature_extractor": None}
    path = Path(name)
    try:
        if name == TOY:
            with toy_configs() as configs:
                return diffusers.StableDiffusionPipeline.from_single_file(
                    str(TOY_FILE), config=str(configs), local_files_only=True, **extra, **none
                )
        if name.endswith(".safetensors"):
            if not path.is_file():
                raise UserError(f"model is {name!r}, which is no file")
            return _single_file(diffusers, str(path), extra, none)
        return diffusers.DiffusionPipeline.from_pretrained(name, **extra, **(none if not _is_xl(path) else {}))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        allowed = f"{TOY}, a diffusers folder or hub name, a .safetensors file"
        raise UserError(
            f"model is {name!r}, which can't be loaded ({first_line(error)}), allowed: {allowed}"
        ) from error


def _single_file(diffusers: Any, path: str, extra: dict[str, Any], none: dict[str, Any]) -> Any:
    """SDXL is told from SD by its second text encoder."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    is_sdxl = any(name.startswith("conditioner.embedders.1.") for name in names)
    if is_sdxl:
        return diffusers.StableDiffusionXLPipeline.from_single_file(path, **extra)
    return diffusers.StableDiffusionPipeline.from_single_file(path, **extra, **none)


def _is_xl(folder: Path) -> bool:
    return (folder / "text_encoder_2").exists()


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
