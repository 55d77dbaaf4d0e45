"""The phases reckoned by hand inside the webui: its UNet called directly, everything else from DESIGN.md's formulas.

`test_reckoning.py` sends this file's text to the webui, which runs it in its own process. Nothing of demofusion_lib is
imported. One picture, Euler, whole scales, borders inside; `x = z0 + sigma * noise` throughout, sizes in latent cells.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from modules import prompt_parser, sd_models, sd_samplers_common, shared  # noqa: TID251
from modules.processing import process_images  # noqa: TID251
from torch.nn import functional as F

A1, A2, A3, BLUR = 3, 1, 1, 0.8
PX = 8  # to a latent cell
NUMBERS = 6  # original h w, crop top left, target h w
WIDTH = 256  # of the sinusoids of each


class Told(NamedTuple):
    """What SDXL is told, `(vertical, horizontal)` in px: the picture's size, the corner of the window at `(top, left)`
    latent cells, and the corner of the dilated sub-images."""

    size: tuple[int, int]
    corner: Callable[[int, int], tuple[int, int]]
    dilated: tuple[int, int]


class Sampling(NamedTuple):
    """A run of one of the webui's samplers."""

    patches: list[tuple[float, torch.Tensor]]
    """What the UNet was shown, with which timestep."""
    latent: torch.Tensor
    """What came out."""
    windows: dict[float, set[tuple[int, int]]]
    """By timestep; filled by the first reckoning, which has to be the right one: only its `x` is what was shown."""


def is_forge() -> bool:
    """Whether the host is one of Forge's family, which keeps the parts of a model in objects of its own."""
    return hasattr(shared.sd_model, "forge_objects")


def parts() -> tuple[Any, Any, float, torch.Tensor]:
    """Of the chosen model: UNet, VAE, what a latent is multiplied by, and the noise level of every timestep."""
    getattr(sd_models, "forge_model_reload", lambda: None)()  # Forge loads it when it begins to draw
    model = shared.sd_model
    if not is_forge():
        squared = model.alphas_cumprod.double()
        return model.model.diffusion_model, model.first_stage_model, model.scale_factor, (1 / squared - 1).sqrt()
    model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
    memory = sys.modules.get("ldm_patched.modules.model_management") or sys.modules["backend.memory_management"]
    memory.load_model_gpu(model.forge_objects.unet)  # where LoRAs are put into the weights
    unet, vae = model.forge_objects.unet.model, model.forge_objects.vae.first_stage_model
    levels = getattr(unet, "model_sampling", None) or unet.predictor
    scale = model.scale_factor if hasattr(model, "scale_factor") else vae.config.scaling_factor
    return unet.diffusion_model, vae, scale, levels.sigmas


def predicts_v() -> bool:
    """Of the chosen model, once it is loaded: whether its UNet answers v in place of the noise."""
    said = getattr(shared.sd_model, "parameterization", None)
    return (said or shared.sd_model.forge_objects.unet.model.predictor.prediction_type) in ("v", "v_prediction")


class Model:
    """The loaded UNet and its noise schedule."""

    def __init__(self, prompt: str, negative: str):
        self.unet, self.vae, self.vae_scale, sigmas = parts()
        model = shared.sd_model
        self.log_sigmas = sigmas.double().log()
        self.is_v = predicts_v()
        texts = [
            prompt_parser.SdConditioning([text], is_negative_prompt=i > 0, width=PX, height=PX)
            for i, text in enumerate((prompt, negative))  # Forge Classic's SDXL wants sizes, which are not read here
        ]
        conds = [model.get_learned_conditioning(text) for text in texts]
        self.context = torch.cat([cond["crossattn"] if model.is_sdxl else cond for cond in conds])
        self.pooled = torch.cat([cond["vector"][:, : -NUMBERS * WIDTH] for cond in conds]) if model.is_sdxl else None

    def sigma(self, t: float) -> float:
        """Of a timestep between two whole ones, on a straight line in the logarithm."""
        low = min(int(t), len(self.log_sigmas) - 2)
        return float(torch.lerp(*self.log_sigmas[low : low + 2], t - low).exp())

    def t(self, sigma: float) -> float:
        """The timestep of a noise level, on the same lines."""
        level = math.log(sigma)
        low = int((self.log_sigmas <= level).sum().clamp(1, len(self.log_sigmas) - 1)) - 1
        return low + float((level - self.log_sigmas[low]) / (self.log_sigmas[low + 1] - self.log_sigmas[low]))

    def told(self, t: float) -> float:
        """Of the network: Forge's family has whole timesteps, the nearest in the logarithm of the noise level."""
        return float((self.log_sigmas - math.log(self.sigma(t))).abs().argmin()) if is_forge() else t

    def decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """In one piece."""
        return self.vae.decoder(self.vae.post_quant_conv(latent / self.vae_scale))

    def encoded(self, picture: torch.Tensor) -> torch.Tensor:
        """In one piece: the mean of what the encoder answers."""
        return self.vae.quant_conv(self.vae.encoder(picture)).chunk(2, 1)[0] * self.vae_scale

    def through_pixels(self, latent: torch.Tensor, s: int) -> torch.Tensor:
        """Decoded, enlarged and encoded."""
        return self.encoded(enlarged(self.decoded(latent).clamp(-1, 1), s).clamp(-1, 1))

    def scaled(self, x: torch.Tensor, t: float) -> torch.Tensor:
        """As the network takes it."""
        return x / math.sqrt(1 + self.sigma(t) ** 2)

    def skip(self, t: float) -> float:
        """What the denoised has of what the network is given, beside its output."""
        return 1 / (1 + self.sigma(t) ** 2) if self.is_v else 1.0

    def eps(
        self, patches: torch.Tensor, t: float, size: tuple[int, int], corners: list[tuple[int, int]]
    ) -> torch.Tensor:
        """The network's outputs for `patches (n, channels, height, width)`, shaped `(2, n, ...)`: prompt, negative."""
        n = len(patches)
        x, times = self.scaled(patches, t).repeat(2, 1, 1, 1), torch.full((2 * n,), self.told(t))
        context = self.context.repeat_interleave(n, 0)
        if self.pooled is None:
            answer = self.unet(x, timesteps=times, context=context)
            if self.is_v:
                answer = (answer + self.sigma(t) * x) / math.sqrt(1 + self.sigma(t) ** 2)
            return answer.unflatten(0, (2, n))
        told = torch.stack([sinusoids([*size, *corner, *size]) for corner in corners]).repeat(2, 1)
        vector = torch.cat([self.pooled.repeat_interleave(n, 0), told], 1)
        return self.unet(x, timesteps=times, context=context, y=vector).unflatten(0, (2, n))


def enlarged(plane: torch.Tensor, s: int) -> torch.Tensor:
    return F.interpolate(plane, scale_factor=s, mode="bicubic")


def sinusoids(numbers: list[int]) -> torch.Tensor:
    rates = 10000 ** (-torch.arange(WIDTH // 2, dtype=torch.float64) * 2 / WIDTH)
    angles = torch.tensor(numbers, dtype=torch.float64)[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], 1).flatten().float()


def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(), x.std()


def brought_to(x: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / x.std() * std + mean


def cosine(t: float) -> float:
    return (1 + math.cos(math.pi * (1000 - t) / 1000)) / 2


def starts(length: int, window: int) -> list[int]:
    """Strides of half a window, the last window moved back to the edge."""
    return sorted({min(i, length - window) for i in range(0, length, window // 2)})


def found(patch: torch.Tensor, whole: torch.Tensor) -> tuple[int, int] | None:
    """`(top, left)` of the part of `whole` that is `patch (channels, height, width)`, if one is, but for what
    a mistake in the steps before may have moved it by."""
    parts = whole[0].unfold(1, patch.shape[1], 1).unfold(2, patch.shape[2], 1)
    off = (parts - patch[:, None, None]).abs().amax((0, 3, 4))
    top, left = divmod(int(off.argmin()), off.shape[1])
    return (top, left) if off.min() < 0.1 * whole.std() else None


def windows(model: Model, x: torch.Tensor, t: float, window: tuple[int, int], seen: Sampling) -> set[tuple[int, int]]:
    """The windows' corners in cells, at `t`. How they are jittered is the extension's affair: they are looked up in `x`
    by what the UNet was shown, not by what it was told; as many as without jitter, no farther off than it may be."""
    patches = [patch for at, patch in seen.patches if abs(at - model.told(t)) < 0.5 and patch.shape[1:] == window]
    corners = {found(patch, model.scaled(x, t)) for patch in patches} - {None}
    grid = [(top, left) for top in starts(x.shape[2], window[0]) for left in starts(x.shape[3], window[1])]
    reach = window[0] // 8, window[1] // 8
    near = [any(abs(y - top) <= reach[0] and abs(x - left) <= reach[1] for y, x in corners) for top, left in grid]
    assert len(corners) == len(grid) and all(near), f"windows at {corners}, without jitter at {grid}"
    return corners


def local_path(
    model: Model, x: torch.Tensor, t: float, window: tuple[int, int], seen: Sampling, told: Told
) -> torch.Tensor:
    if t not in seen.windows:
        seen.windows[t] = windows(model, x, t, window, seen)
    corners = sorted(seen.windows[t])
    places = [(..., slice(top, top + window[0]), slice(left, left + window[1])) for top, left in corners]
    eps = model.eps(
        torch.cat([x[place] for place in places]), t, told.size, [told.corner(*corner) for corner in corners]
    )
    total, count = torch.zeros(2, *x.shape[1:]), torch.zeros(x.shape[2:])
    for i, place in enumerate(places):
        total[place] += x[place] - model.sigma(t) * eps[:, i]
        count[place] += 1
    return total / count


def blurred(x: torch.Tensor, reach: int, std: float) -> torch.Tensor:
    """Zeros beyond the edge; mean and deviation as they were."""
    kernel = torch.tensor([math.exp(-(i**2) / (2 * std**2)) for i in range(-reach, reach + 1)], dtype=torch.float64)
    padded = F.pad(x.double(), [reach] * 4)
    windows = padded.unfold(2, 2 * reach + 1, 1).unfold(3, 2 * reach + 1, 1)
    plane = torch.einsum("bchwij,i,j->bchw", windows, kernel / kernel.sum(), kernel / kernel.sum())
    return brought_to(plane, *statistics(x.double())).float()


def global_path(model: Model, x: torch.Tensor, t: float, s: int, told: Told) -> torch.Tensor:
    g = blurred(x, s - 1, BLUR * (0.99 * cosine(t) ** A3 + 0.01))
    places = [(..., slice(i, None, s), slice(j, None, s)) for i in range(s) for j in range(s)]
    eps = model.eps(torch.cat([g[place] for place in places]), t, told.size, [told.dilated] * len(places))
    total = torch.zeros(2, *x.shape[1:])
    skip = model.skip(t)
    for i, place in enumerate(places):
        denoised = g[place] - model.sigma(t) * eps[:, i]
        total[place] = denoised + skip * (
            x[place] - g[place]
        )  # the output of the network, applied to what is not blurred
    return total


def phase(
    model: Model,
    z_prev: torch.Tensor,
    seed: int,
    cfg: float,
    steps: int,
    s: int,
    window: tuple[int, int],
    seen: Sampling,
    told: Told,
) -> torch.Tensor:
    """What the sampler ends with."""
    noise = torch.randn(z_prev.shape[1:], generator=torch.Generator().manual_seed(seed))
    times = torch.linspace(len(model.log_sigmas) - 1, 0, steps).tolist()
    sigmas = [*(model.sigma(t) for t in times), 0.0]
    x = z_prev + sigmas[0] * noise
    for i, t in enumerate(times):
        if i > 0:
            c1 = 1 - (1 - cosine(t) ** A1) ** ((times[i - 1] - t) / 20)
            x = (1 - c1) * x + c1 * (z_prev + sigmas[i] * noise)
        c2 = cosine(t) ** A2
        both = (1 - c2) * local_path(model, x, t, window, seen, told) + c2 * global_path(model, x, t, s, told)
        denoised = both[1:] + cfg * (both[:1] - both[1:])
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


@contextmanager
def recorded() -> Iterator[list[Sampling]]:
    """Every run of a sampler of the webui."""
    samplings: list[Sampling] = []
    patches: list[tuple[float, torch.Tensor]] = []
    plain = sd_samplers_common.Sampler.launch_sampling

    def recording(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        patches.clear()
        latent = plain(self, *args, **kwargs)
        samplings.append(Sampling([*patches], latent.clone(), {}))
        return latent

    def looking(unet: Any, args: Any, kwargs: Any) -> None:
        x, times = args[0], args[1] if len(args) > 1 else kwargs["timesteps"]
        patches.extend(zip(times.tolist(), x.clone()))

    sd_samplers_common.Sampler.launch_sampling = recording
    hook = parts()[0].register_forward_pre_hook(looking, with_kwargs=True)
    try:
        yield samplings
    finally:
        hook.remove()
        sd_samplers_common.Sampler.launch_sampling = plain


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The distance of two latents, relative to their size."""
    return float((one - other).double().norm() / other.double().norm())


def mistakes(right: Told) -> dict[str, Told]:
    """What a host could tell SDXL instead."""
    (height, width), (top, left) = right.size, right.dilated
    return {
        "no corners": right._replace(corner=lambda y, x: right.dilated),
        "corners in latent cells": right._replace(corner=lambda y, x: (top + y, left + x)),
        "corners swapped": right._replace(corner=lambda y, x: right.corner(y, x)[::-1]),
        "corners a cell off": right._replace(corner=lambda y, x: right.corner(y, x + 1)),
        "a corner for dilated sub-images": right._replace(dilated=(top, left + PX)),
        "sizes swapped": right._replace(size=(width, height)),
        "sizes doubled": right._replace(size=(2 * height, 2 * width)),
        "sizes halved": right._replace(size=(height // 2, width // 2)),
    }


Own = tuple[str, str, float]
"""Prompt, negative prompt and CFG scale of the phases."""


def askings(p: Any, own: Own | None) -> dict[str, tuple[Model, float]]:
    """With what the UNet is asked in the phases, and under which guidance; and what else it could be, the base image's."""
    base = p.prompt, p.negative_prompt, p.cfg_scale
    asked = {"right": own or base}
    if own:
        for i, name in enumerate(("prompt", "negative prompt", "guidance")):
            others = (*own[:i], base[i], *own[i + 1 :])
            if others != own and (name != "negative prompt" or own[2] != 1):
                asked[f"the base image's {name}"] = others
    return {name: (Model(prompt, negative), cfg) for name, (prompt, negative, cfg) in asked.items()}


def reckon(
    p: Any, told_px: list[tuple[int, int]], origin_px: tuple[int, int], own: Own | None = None
) -> list[dict[str, float]]:
    """For each phase, how far the webui's latent is from the one reckoned here, by what SDXL is told in the latter.

    told_px: the `(height, width)` for each phase. origin_px: the crop corner of the whole picture, `(top, left)`.
    """
    with recorded() as samplings:
        process_images(p)
    base, *phases = samplings
    assert len(phases) == len(told_px), f"{len(phases)} phases, {len(told_px)} expected"
    asked, window, last = askings(p, own), base.latent.shape[2:], base.latent
    model, cfg = asked["right"]
    answers = []
    for s, (seen, size) in enumerate(zip(phases, told_px), start=2):
        z_prev = F.interpolate(last, size=seen.latent.shape[2:], mode="bicubic")
        right = Told(size, lambda top, left: (origin_px[0] + PX * top, origin_px[1] + PX * left), origin_px)
        tellings = {"right": right, **(mistakes(right) if shared.sd_model.is_sdxl else {})}
        with torch.no_grad():
            answer = {
                name: apart(seen.latent, phase(model, z_prev, int(p.seed), cfg, p.steps, s, window, seen, told))
                for name, told in tellings.items()
            }
            answer |= {
                name: apart(seen.latent, phase(other, z_prev, int(p.seed), scale, p.steps, s, window, seen, right))
                for name, (other, scale) in asked.items() if name != "right"
            }  # fmt: skip
            answers.append(answer)
        last = brought_to(seen.latent, *statistics(base.latent))
    return answers


class Few(NamedTuple):
    """A phase of few steps: where it begins, its overlap, where guidance ends and whether it is a low-pass difference, and
    whether it begins from the enlarged picture."""

    start: float
    overlap: float
    until: float
    low_pass: bool
    pixels: bool
    picture: torch.Tensor | None = None
    strength: float = 1.0


def sin2(length: int, place: int, whole: int) -> torch.Tensor:
    """Weights of a window that begins at `place`: they fall to where another goes on, not to the picture's edge."""
    u = (torch.arange(length) + 0.5) / length
    u = u.clamp(min=0.5) if place == 0 else u
    u = u.clamp(max=0.5) if place + length == whole else u
    return 0.01 + 0.99 * torch.sin(math.pi * u) ** 2


def weighed_path(
    model: Model, x: torch.Tensor, t: float, window: tuple[int, int], overlap: float, told: Told
) -> torch.Tensor:
    """Prompt and negative prompt; windows without jitter."""
    total, count = torch.zeros(2, *x.shape[1:]), torch.zeros(x.shape[2:])
    axes = []
    for length, size in zip(x.shape[2:], window):
        stride = round(size * (1 - overlap))
        axes.append(sorted({min(i * stride, length - size) for i in range(-(-(length - size) // stride) + 1)}))
    for top in axes[0]:
        for left in axes[1]:
            place = ..., slice(top, top + window[0]), slice(left, left + window[1])
            eps = model.eps(x[place], t, told.size, [told.corner(top, left)])[:, 0]
            weight = sin2(window[0], top, x.shape[2])[:, None] * sin2(window[1], left, x.shape[3])
            total[place] += weight * (x[place] - model.sigma(t) * eps)
            count[place] += weight
    return total / count


def few_steps(
    model: Model, before: torch.Tensor, seed: int, cfg: float, steps: int, s: int, told: Told, few: Few
) -> torch.Tensor:
    """What the sampler ends with, after few steps from the latent of the phase before."""
    window, size = before.shape[2:], [length * s for length in before.shape[2:]]
    z_prev = model.through_pixels(before, s) if few.pixels else enlarged(before, s)
    if few.picture is not None:
        z_prev = model.encoded(enlarged(few.picture, s).clamp(-1, 1))
    noise = torch.randn(z_prev.shape[1:], generator=torch.Generator().manual_seed(seed))
    times = [few.start * few.strength * (1 - i / steps) for i in range(steps)]
    sigmas = [*(model.sigma(t) for t in times), 0.0]
    x = z_prev + sigmas[0] * noise
    for i, t in enumerate(times):
        cond, uncond = weighed_path(model, x, t, (window[0], window[1]), few.overlap, told)[:, None]
        denoised = cond
        if t >= few.until and few.low_pass:
            low = model.t(sigmas[i] / s)
            q = F.avg_pool2d(x, s)
            eps = model.eps(q, low, told.size, [told.dilated])[:, 0]
            difference = model.sigma(low) * (eps[1:] - eps[:1])
            denoised = cond + (cfg - 1) * F.interpolate(difference, size=size, mode="bicubic")
        elif t >= few.until:
            denoised = uncond + cfg * (cond - uncond)
        missing = before - F.avg_pool2d(denoised, s)
        pull = cosine(t) ** ((1 + few.strength) / 2)
        denoised = denoised + pull * F.interpolate(missing, size=size, mode="bicubic")
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def reckon_few(
    p: Any, told_px: tuple[int, int], few: tuple[float, float, float, bool, bool], own: Own | None = None
) -> dict[str, float]:
    """The same for one phase of few steps at twice the size, and with each of its parts left out."""
    with recorded() as samplings:
        process_images(p)
    base, seen = samplings
    asked, right = askings(p, own), Few(*few)
    model, cfg = asked["right"]
    told = Told(told_px, lambda top, left: (PX * top, PX * left), (0, 0))
    variants = {
        "right": right, "another start": right._replace(start=right.start + 1), "guidance that ends elsewhere": right._replace(until=0 if right.until else 300),
        "the other enlargement": right._replace(pixels=not right.pixels),
        "no guidance": right._replace(until=1000), "the other guidance": right._replace(low_pass=not right.low_pass),
    }  # fmt: skip
    with torch.no_grad():
        answer = {
            name: apart(seen.latent, few_steps(model, base.latent, int(p.seed), cfg, 3, 2, told, variant))
            for name, variant in variants.items()
        }
        for name, (other, scale) in asked.items():
            drawn = few_steps(other, base.latent, int(p.seed), scale, 3, 2, told, right)
            answer[name] = apart(seen.latent, drawn)
    return answer


def reckon_picture(p: Any, told_px: tuple[int, int], few: tuple[float, float, float, bool, bool]) -> dict[str, float]:
    """The same of a given picture at the strength that is asked for; and `shades`, how far the result is from what is
    reckoned of it, in grey levels, with the coarse held to the picture and without."""
    with recorded() as samplings:
        processed = process_images(p)
    (seen,) = samplings
    values = torch.tensor(list(p.init_images[0].convert("RGB").getdata()), dtype=torch.float32)
    picture = (values / 127.5 - 1).T.unflatten(1, p.init_images[0].size[::-1])[None]
    model, strength = Model(p.prompt, p.negative_prompt), p.denoising_strength
    told = Told(told_px, lambda top, left: (PX * top, PX * left), (0, 0))
    right = Few(*few, picture, strength)
    variants = {
        "right": right, "the picture as the VAE has it": right._replace(picture=None), "full strength": right._replace(strength=1.0),
    }  # fmt: skip
    with torch.no_grad():
        base = model.encoded(picture)
        answer = {
            name: apart(seen.latent, few_steps(model, base, int(p.seed), p.cfg_scale, 3, 2, told, variant))
            for name, variant in variants.items()
        }
        drawn = model.decoded(brought_to(seen.latent, *statistics(base)))
        drawn = drawn.clamp(-1, 1) if is_forge() else drawn  # what the family's VAE answers is cut off already
        pull = (1 - strength) ** 2 * enlarged(picture - F.avg_pool2d(drawn, 2), 2)
    shown = torch.tensor(list(processed.images[0].getdata()), dtype=torch.float32).T.unflatten(1, drawn.shape[2:])
    for name, result in (("shades", drawn + pull), ("shades without", drawn)):
        answer[name] = float(((result.clamp(-1, 1)[0] + 1) * 127.5 - shown - 0.5).abs().max()) - 0.5
    return answer
