"""Diffusers pipelines from the toy, a folder, the hub or a single file; what can't be drawn with is refused by name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch

from ..setting import quoted
from .configs import FAMILIES, Shapes, check_size, config_folder, family_of, published, read_parts, shapes_in
from .errors import UserError, first_line
from .names import AUTO, V_PREDICTION
from .sources import Source, is_hub_name, is_there
from .toy import CONFIG_FILE, TOY, TOY_FILE, suit_cpu
from .training import LEVELS, check_training, is_v_prediction, trained_anew
from .weights import choose_weights, reads_bin_safely

PIPELINES = {
    "StableDiffusionPipeline": "StableDiffusionPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLPipeline",
    "LatentConsistencyModelPipeline": "StableDiffusionPipeline",  # the same parts
}
"""By the class that a folder names, the one that it is loaded as."""
CLASSES = {
    "scheduler": ("diffusers", ()),
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL", "AutoencoderTiny")),
    "text_encoder": ("transformers", ("CLIPTextModel", "CLIPTextModelWithProjection")),
    "text_encoder_2": ("transformers", ("CLIPTextModelWithProjection",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "tokenizer_2": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
}
"""Anything else would have to be spoken to in another way. It also keeps code that a folder brings from being run."""
WEIGHTED = ("unet", "vae", "text_encoder", "text_encoder_2")


def load_pipeline(source: Source, device: torch.device, dtype: torch.dtype) -> Any:
    """A diffusers pipeline on its device. Raises UserError, in words that go on behind the model's name."""
    if source.name == TOY:
        pipeline = _toy(dtype).to(device)
        if device.type == "cpu":
            suit_cpu(pipeline)
        return pipeline
    if source.is_file:
        return _single_file(source, device, dtype)
    folder = Path(source.name) if is_there(source.name, Path.is_dir) else _hub_model(source)
    return _folder(folder, source.variant, dtype).to(device)


def _toy(dtype: torch.dtype) -> Any:
    parts = read_parts(CONFIG_FILE)
    with config_folder(parts) as configs:
        return _from_file(str(TOY_FILE), parts["pipeline"], configs, dtype)


def _single_file(source: Source, device: torch.device, dtype: torch.dtype) -> Any:
    shapes = shapes_in(source.name)
    family = family_of(shapes)
    with _configs(source.config, family) as (configs, index):
        try:
            pipeline = _from_file(source.name, index, configs, dtype)
        except UserError:
            raise
        except Exception as error:  # a tensor of another shape, mostly
            kind = quoted(source.config) if source.config else FAMILIES[family]
            # what newer diffusers find left on the meta device
            lacks = isinstance(error, NotImplementedError) and "meta tensor" in str(error)
            reason = "it lacks some of the tensors" if lacks else first_line(error)
            raise UserError(
                f"can't be read as {kind} ({reason}), allowed: --config with a diffusers folder of its own configs"
            ) from error
    check_size(shapes, pipeline.unet.state_dict())
    check_complete(pipeline)
    pipeline.to(device)
    if not source.config:
        _as_trained(pipeline, source.prediction, family, shapes)
    return pipeline


def _from_file(file: str, index: Mapping[str, Any], configs: Path, dtype: torch.dtype) -> Any:
    name = check_index(index)
    return getattr(diffusers, name).from_single_file(
        file, config=str(configs), local_files_only=True, torch_dtype=dtype,
        scheduler=_scheduler(configs, index), **_unused(name),
    )  # fmt: skip


def _as_trained(pipeline: Any, prediction: str, family: str, shapes: Shapes) -> None:
    """What no config says of a single file: the keys `v_pred` and `ztsnr`, and which of the two SD 2 it is."""
    is_v = prediction == V_PREDICTION
    if prediction == AUTO:
        is_v = "v_pred" in shapes or (family == "sd2" and is_v_prediction(pipeline.unet))
    if is_v:
        pipeline.scheduler = trained_anew(pipeline.scheduler, V_PREDICTION, zero_snr="ztsnr" in shapes)
    if is_v and family == "sd2":
        pipeline.unet.register_to_config(sample_size=published("sd2-v")["unet"]["sample_size"])


@contextlib.contextmanager
def _configs(config: str, family: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The folder of a single file's configs and its index: the published ones, unless `config` names others."""
    if not config or config in FAMILIES:
        parts = published(config or family)
        with config_folder(parts) as folder:
            yield folder, parts["pipeline"]
        return
    folder = Path(config)
    if not is_there(config, Path.is_dir):
        if not is_hub_name(config):
            raise UserError(
                f"can't have {quoted(config)} as its config, allowed: {', '.join(FAMILIES)}, a diffusers folder, "
                "OWNER/NAME on the hub"
            )
        folder = cached_or_fetched(lambda local: _hub_configs(config, local))
    yield folder, read_index(folder)


def _folder(folder: Path, variant: str, dtype: torch.dtype) -> Any:
    index = read_index(folder)
    name = check_index(index)
    scheduler = _scheduler(folder, index)  # before the weights: it is quick to refuse
    chosen, safe = choose_weights(folder, _weighted(index), variant)
    pipeline = getattr(diffusers, name).from_pretrained(
        str(folder), variant=chosen, use_safetensors=True if safe else None, local_files_only=True,
        torch_dtype=dtype, scheduler=scheduler, **_unused(name),
    )  # fmt: skip
    check_complete(pipeline)
    return pipeline


def read_index(folder: Path) -> Mapping[str, Any]:
    file = folder / "model_index.json"
    if not file.is_file():
        raise UserError("is a folder without model_index.json, supported: a diffusers pipeline's")
    return json.loads(file.read_text(encoding="utf-8"))


def check_index(index: Mapping[str, Any]) -> str:
    """The class to load a folder's pipeline as. Raises UserError for one that is made of other parts."""
    made_for = index.get("_class_name")
    if not isinstance(made_for, str) or made_for not in PIPELINES:
        raise UserError(f"is for the pipeline {quoted(made_for)}, supported: {', '.join(PIPELINES)}")
    for part, (library, classes) in CLASSES.items():
        given = index.get(part) or [None, None]
        if given[-1] is not None and (given[0] != library or (classes and given[-1] not in classes)):
            raise UserError(f"has {quoted(given)} as its {part}, supported: {library}'s {', '.join(classes)}".rstrip())
    needed = ("unet", "vae", "scheduler", "text_encoder_2" if "XL" in made_for else "text_encoder")
    missing = [part for part in needed if (index.get(part) or [None])[-1] is None]
    if missing:
        raise UserError(f"has no {', '.join(missing)}, supported: whole models")
    return PIPELINES[made_for]


def check_complete(pipeline: Any) -> None:
    """What a file lacks stays on torch's meta device."""
    for part in WEIGHTED:
        module = getattr(pipeline, part, None)
        missing = [] if module is None else [name for name, tensor in module.named_parameters() if tensor.is_meta]
        if missing:
            raise UserError(f"lacks {len(missing)} tensors of its {part} ({missing[0]}), supported: whole models")


def _weighted(index: Mapping[str, Any]) -> list[str]:
    return [part for part in WEIGHTED if (index.get(part) or [None])[-1] is not None]


def _unused(name: str) -> dict[str, Any]:
    unused: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
    return unused if "XL" in name else {**unused, "safety_checker": None, "requires_safety_checker": False}


def _scheduler(folder: Path, index: Mapping[str, Any]) -> Any:
    name = index["scheduler"][-1]
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise UserError(f"was trained for the scheduler {quoted(name)}, supported: {LEVELS}")
    scheduler = kind.from_pretrained(str(folder), subfolder="scheduler", local_files_only=True)
    check_training(scheduler)
    return scheduler


T = TypeVar("T")


def cached_or_fetched(fetch: Callable[[bool], T]) -> T:
    """`fetch(True)`, from the hub's cache alone; only if that fails `fetch(False)`, which may ask the hub."""
    try:
        return fetch(True)
    except Exception:  # whatever is missing there
        return fetch(False)


def _hub_model(source: Source) -> Path:
    """The folder in the hub's cache. The index comes first: a model that is refused isn't fetched."""
    index = read_index(cached_or_fetched(lambda local: _hub_configs(source.name, local)))
    name, parts = check_index(index), _weighted(index)

    def fetch(local: bool) -> Path:
        folder = _hub_configs(source.name, True) if local else _download(name, source)
        choose_weights(folder, parts, source.variant)
        return folder

    try:
        return cached_or_fetched(fetch)
    except Exception as error:
        hint = "" if source.variant else "; one of half precision only is fetched with --variant fp16"
        raise UserError(f"can't be fetched from the hub ({first_line(error)}){hint}") from error


def _download(name: str, source: Source) -> Path:
    formats = None if reads_bin_safely() else True
    pipeline = getattr(diffusers, name)
    return Path(
        pipeline.download(source.name, variant=source.variant or None, use_safetensors=formats, **_unused(name))
    )


def _hub_configs(name: str, local: bool) -> Path:
    """The folder in the hub's cache, where at least the configs lie."""
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json", "*/*.json", "*/*.txt"]
    folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local))
    read_index(folder)
    return folder
