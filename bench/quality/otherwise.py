"""What a user would press instead: the webui's Hires. fix on the latent, and tiles redrawn one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
import torch.nn.functional as F

from demofusion_lib.core import WindowGrid, step_generator
from demofusion_lib.standalone.drawing import Order
from demofusion_lib.standalone.guidance import Guided, SizeTold
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import find_sampler
from demofusion_lib.standalone.prompts import encode, encode_negative
from demofusion_lib.standalone.samplers import Schedule, Solver
from demofusion_lib.targets import LATENT_PX

TILES_T, TILES_STEPS = 401, 8
"""Where each tile begins, a denoising of 0.4, and its steps: that share of 20."""
TILES_OVERLAP = 0.25
NOISE = -1  # beside the steps 0, 1, 2, ... in `step_generator`


@dataclass(frozen=True)
class Redrawn:
    """`latent (batch, 4, height, width)`, what one picture's evaluations came to, as rows and in native pictures' area,
    and the seconds of all of them."""

    latent: torch.Tensor
    rows: int
    native_rows: float
    seconds: float


class Redrawer:
    """Draws a latent anew from some noise level on, without an engine."""

    def __init__(self, model: Model, order: Order):
        self.model, self.order, self.schedule = model, order, Schedule(model.alphas_cumprod)
        self.cond = encode(model, order.prompts)
        self.uncond = encode_negative(model, [order.negative] * len(order.prompts))

    def sigmas(self, timesteps: Sequence[float]) -> torch.Tensor:
        levels = self.schedule.sigma(torch.tensor(timesteps, dtype=torch.float64))
        return torch.cat([levels.float(), torch.zeros(1)])

    @torch.no_grad()
    def __call__(self, latent: torch.Tensor, sigmas: torch.Tensor) -> Redrawn:
        """sigmas: from where it is noised to 0."""
        begun, (height, width) = perf_counter(), latent.shape[-2:]
        sampler, scheduler = find_sampler(self.order.sampler, self.order.scheduler)
        solver = Solver(sampler, self.schedule, scheduler, len(sigmas) - 1)
        solver.levels = sigmas
        told = SizeTold((height * LATENT_PX, width * LATENT_PX), (height * LATENT_PX, width * LATENT_PX))
        guided = Guided(self.model, self.cond, self.uncond, self.order.guidance, told)
        # every pass has the image's own noise, tiles too: each is a run of its own with the image's seed
        generators = [step_generator(seed, 2, NOISE) for seed in self.order.seeds]
        noise = torch.stack([torch.randn(latent.shape[1:], generator=generator) for generator in generators])
        drawn = solver.run(guided, latent + noise.to(latent) * sigmas[0], self.order.seeds)
        rows = guided.evaluations // len(latent)
        area = height * width / (self.order.base_lat[0] * self.order.base_lat[1])
        return Redrawn(drawn, rows, rows * area, perf_counter() - begun)


def hires(redraw: Redrawer, base: torch.Tensor, size_lat: tuple[int, int], strength: float, steps: int) -> Redrawn:
    """As the webui 1.10.1 does with its upscaler "Latent": bilinear, then img2img of the whole, whose `steps` are all taken.

    `processing.sample_hr_pass` hands its steps over, so that `setup_img2img_steps` lengthens the schedule by the strength
    (20 at 0.5: the last 20 of 40) instead of shortening the run.
    """
    latent = F.interpolate(base, size=size_lat, mode="bilinear", antialias=False)
    schedule = redraw.schedule.sigmas(int(steps / min(strength, 0.999)), "Uniform")
    return redraw(latent, schedule[-(steps + 1) :])


def tiles_grid(size_lat: tuple[int, int], base_lat: tuple[int, int]) -> WindowGrid:
    return WindowGrid(*size_lat, base_lat, overlap=TILES_OVERLAP, jitter=False)


def tiles(
    redraw: Redrawer, base: torch.Tensor, size_lat: tuple[int, int], decode: Callable[[torch.Tensor], torch.Tensor],
    encode: Callable[[torch.Tensor], torch.Tensor],
) -> Redrawn:  # fmt: skip
    """The picture enlarged, then drawn anew tile by tile at native size, each laid over the last with a soft edge.

    decode, encode: latents to pictures in [0, 1] and back.
    """
    grid = tiles_grid(size_lat, (base.shape[-2], base.shape[-1]))
    large = F.interpolate(decode(base), scale_factor=size_lat[0] / base.shape[-2], mode="bicubic").clamp(0, 1)
    latent = encode(large)
    sigmas = redraw.sigmas([TILES_T * (1 - i / TILES_STEPS) for i in range(TILES_STEPS)])
    rows, native, seconds = 0, 0.0, 0.0
    for view in grid.views(torch.Generator()):
        part = latent[..., view.rows, view.cols]
        drawn = redraw(part, sigmas)
        cover = feather(view.rows, size_lat[0])[:, None] * feather(view.cols, size_lat[1])[None, :]
        latent[..., view.rows, view.cols] = torch.lerp(part, drawn.latent, cover.to(part))
        rows, native, seconds = rows + drawn.rows, native + drawn.native_rows, seconds + drawn.seconds
    return Redrawn(latent, rows, native, seconds)


def feather(part: slice, length: int) -> torch.Tensor:
    """How much of a tile shows, along one axis: it fades over the overlap towards those sides that have a neighbour."""
    size = part.stop - part.start
    width = round(size * TILES_OVERLAP)
    ramp = ((torch.arange(size) + 0.5) / width).clamp(max=1)
    first, last = part.start == 0, part.stop == length
    return (torch.ones(size) if first else ramp) * (torch.ones(size) if last else ramp.flip(0))
