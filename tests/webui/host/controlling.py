"""The extension ControlNet, as far as its units go: maps found for a size, a wrapped UNet, and what is kept between calls.

Names and shapes are those of sd-webui-controlnet 1.1.455. Its "ControlNet" is a known linear map of what it is shown, which is
added to the network's output; its "user's picture" is one of a hundred blots, found anew in any size.
"""

from __future__ import annotations

import enum
import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from modules import script_callbacks, scripts

KERNEL = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 0.2
FOUND: list[tuple[int, int, int]] = []
"""Height, width and resolution of each map that was asked for."""


def linear(hint: torch.Tensor) -> torch.Tensor:
    return F.conv2d(hint, KERNEL, stride=8)


def mark_prompt_context(cond: Any, positive: bool) -> None:
    MARKED.append((isinstance(cond, list), positive))


MARKED: list[tuple[bool, bool]] = []
"""What was marked: whether of a negative prompt, and whether as a positive one."""


class Preprocessor:
    @classmethod
    def get_preprocessor(cls, name: str) -> Any:
        return SimpleNamespace(name=name)


def picture(height: int, width: int, channels: int = 3, seed: int = 1) -> torch.Tensor:
    """`(1, channels, height, width)` in [0, 1]: the same at any size, and nowhere alike."""
    ways = torch.randn(100, channels, 4, generator=torch.Generator().manual_seed(seed))
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    waves = sum(torch.sin(8 * (w[:, 0, None, None] * y + w[:, 1, None, None] * x) + w[:, 2, None, None]) for w in ways)
    return (0.5 + 0.05 * waves).clamp(0, 1)[None]


def get_control(p: Any, unit: Any, idx: int, control_model_type: Any, preprocessor: Any) -> Any:
    if unit.broken:
        raise RuntimeError("no memory for a map of this size")
    FOUND.append((p.height, p.width, unit.processor_res))
    return [picture(p.height, p.width, unit.channels, unit.seed)], [None], []


class ControlParams:
    def __init__(self, hint: Any, kind: str, unit: Any):
        self.hint_cond = hint
        self.control_model_type = SimpleNamespace(name=kind)
        made = {"T2I_Adapter": Adapter, "Controlllite": LLLite, "IPAdapter": lambda: SimpleNamespace(weight=1.0)}
        self.control_model = made.get(kind, lambda: None)()
        self.used_hint_cond = self.used_hint_cond_latent = self.used_hint_inpaint_hijack = None
        self.guidance_stopped = False
        self.start_guidance_percent, self.stop_guidance_percent = unit.guidance
        self.weight = unit.weight
        self.cfg_injection = unit.cfg_injection
        self.effective_region_mask = unit.region


class Adapter(torch.nn.Module):
    """Keeps what it has answered, for one map and any number of rows."""

    def __init__(self):
        super().__init__()
        self.control = self.hint_cond = None

    def forward(self, hint: torch.Tensor) -> torch.Tensor:
        if self.control is None:
            self.control = linear(hint)
        return self.control.clone()


class LLLite(torch.nn.Module):
    def __init__(self):
        super().__init__()
        part = torch.nn.Module()
        part.cond_image = part.cond_emb = None
        part.forward = lambda x, shape: self.answer(part)
        self.modules = {"one": part}  # as the extension does it

    @staticmethod
    def answer(part: Any) -> torch.Tensor:
        if part.cond_emb is None:
            part.cond_emb = linear((part.cond_image + 1) / 2)
        return part.cond_emb


class Machine(enum.Enum):
    Read, Write, StyleAlign = range(3)


class UnetHook:
    def __init__(self, model: Any, unet: Any, params: list[ControlParams]):
        self.model, self.control_params = unet, params
        self.is_v = model.parameterization == "v"
        self.attention_auto_machine = self.gn_auto_machine = Machine.StyleAlign
        self.machines: set[Machine] = set()
        self.shares: list[float] = []
        self.shown: list[tuple[int, int, int]] = []
        """Of each call of a unit: the rows, and the map's height and width."""

    def hook(self) -> None:
        mark_prompt_context  # noqa: B018: found among this function's globals
        self.original_forward = self.model._original_forward = self.model.forward
        self.model.forward = lambda *args, **kwargs: self.model._original_forward(*args, **kwargs)
        script_callbacks.on_cfg_denoiser(self.guidance_schedule_handler)

    def restore(self) -> None:
        self.model.forward = self.model._original_forward
        del self.model._original_forward

    def guidance_schedule_handler(self, x: Any) -> None:
        share = x.sampling_step / x.total_sampling_steps
        for param in self.control_params:
            param.guidance_stopped = not param.start_guidance_percent <= share <= param.stop_guidance_percent
        self.model.current_sampling_percent = share

    def added(self, n: int, output: torch.Tensor) -> torch.Tensor:
        """The network's output, and what the units add to it."""
        self.machines |= {self.attention_auto_machine, self.gn_auto_machine}
        self.shares.append(self.model.current_sampling_percent)
        for param in self.control_params:
            kind = param.control_model_type.name
            if param.used_hint_cond is None:
                param.used_hint_cond = param.hint_cond
            if kind == "Controlllite":
                (part,) = param.control_model.modules.values()
                answer = part(None, None) * param.weight
                output = output + answer
            if param.guidance_stopped or kind in ("Controlllite", "IPAdapter"):
                continue
            if kind == "AttentionInjection":
                if param.used_hint_cond_latent is None:
                    param.used_hint_cond_latent = F.avg_pool2d(param.used_hint_cond, 8).repeat(len(output), 1, 1, 1)
                assert len(param.used_hint_cond_latent) == len(output)
                output = output + param.used_hint_cond_latent.mean()
                continue
            hint = param.used_hint_cond
            self.shown.append((len(output), *hint.shape[-2:]))
            if hint.shape[1] == 4:
                mask = (hint[:, 3:] > 0.5).float()
                hint = hint[:, :3] * (1 - mask) - mask
            answer = param.control_model(hint) if kind == "T2I_Adapter" else linear(hint)
            if param.cfg_injection:
                answer = torch.cat([answer] * len(output)) if kind == "T2I_Adapter" else answer
                answer = answer * self.positive(len(output))
            if param.effective_region_mask is not None:
                answer = answer * F.interpolate(param.effective_region_mask, size=answer.shape[-2:], mode="bilinear")
            assert len(answer) in (1, len(output)), "rows"
            output = output + answer * param.weight
        return output

    def positive(self, rows: int) -> torch.Tensor:
        return torch.ones(rows, 1, 1, 1)


def finished(image: torch.Tensor, i: int) -> torch.Tensor:
    """At the base image's size."""
    return image if image.shape[-1] != 128 else torch.zeros_like(image)


class Script(scripts.Script):
    """units: see `unit`."""

    def __init__(self, host: Any, *units: Any):
        self.host, self.wanted = host, units
        self.enabled_units: list[Any] = []
        self.ui_batch_option_state: list[Any] = ["All ControlNet units for all images in a batch", False]
        self.latest_network: Any = None

    def title(self) -> str:
        return "ControlNet"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def choose_input_image(self, p: Any, unit: Any, idx: int) -> Any:
        return SimpleNamespace(shape=(unit.own_px, unit.own_px, 3)), None

    def controlnet_main_entry(self, p: Any) -> None:
        get_control, Preprocessor  # noqa: B018: found among this function's globals
        self.enabled_units = list(self.wanted)
        params = []
        for unit in self.enabled_units:
            hint = picture(p.height, p.width, unit.channels, unit.seed).repeat(unit.maps, 1, 1, 1)
            params.append(ControlParams(hint if unit.kind != "IPAdapter" else {"embeds": 1}, unit.kind, unit))
            if unit.kind == "Controlllite":
                (part,) = params[-1].control_model.modules.values()
                part.cond_image = hint * 2 - 1
        model = self.host.model
        self.latest_network = UnetHook(model, model.model.diffusion_model, params)
        self.latest_network.hook()
        self.post_processors = [
            finished for unit in self.enabled_units if "only" in unit.module or "recolor" in unit.module
        ]
        model.hooks.output = self.latest_network.added

    def postprocess_batch(self, p: Any, *args: Any, images: Any = (), **kwargs: Any) -> None:
        for finish in self.post_processors:
            for i, image in enumerate(images):
                images[i] = finish(image, i)

    def process(self, p: Any, *args: Any) -> None:
        self.controlnet_main_entry(p)
        drawn, p.sample = p.sample, lambda *args, **kwargs: drawn(*args, **kwargs)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        self.last, self.latest_network = self.latest_network, None
        self.last.restore()
        self.enabled_units.clear()


def unit(kind: str = "ControlNet", **settings: Any) -> Any:
    values = {
        "kind": kind, "module": "depth", "channels": 3, "seed": 1, "maps": 1, "weight": 1.0, "guidance": (0.0, 1.0),
        "pixel_perfect": False, "processor_res": 128, "own_px": 200, "hr_option": "Both", "broken": False,
        "cfg_injection": False, "region": None, **settings,
    }  # fmt: skip
    return SimpleNamespace(**values)


def level(evaluation: Any, sampler: str, model: Any) -> tuple[float, float]:
    """Of an evaluation: its timestep, and by what the network's output counts in what the host is answered."""
    given = float(evaluation.sigma[0])
    squared = model.alphas_cumprod
    is_v = model.parameterization == "v"
    if sampler == "DDIM":
        return given, math.sqrt(float(squared[int(given)])) if is_v else 1.0
    logs = ((1 - squared) / squared).log() / 2
    t = float((logs - math.log(given)).abs().argmin())
    return t, -given / (math.sqrt(given**2 + 1) if is_v else 1)
