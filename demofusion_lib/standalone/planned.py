"""What an order takes before it is drawn: `--plan-only`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..core import Phase, WindowBatch
from ..core.batching import MODEST, PAYS, SHARE, LiveBytes
from ..needs import Needs
from ..plan import LATENT_CHANNELS
from ..targets import LATENT_PX
from .drawing import Drawing
from .guidance import Guided, SigmaForm, SizeTold
from .prompts import encode

GIB = 1 << 30
HELD, MORE = 8, {"sde": 4, "dpm_adaptive": 6, "unipc": 6}
"""Latents that our own samplers hold, and what some hold beside, as measured: see `Needs`."""


def plan_report(drawing: Drawing, *, decodes: bool) -> dict[str, Any]:
    """The plan's own report, and each phase's `memory_bytes`: what it allocates on the device beside the model's weights.

    The network is called once, on one native-size row.
    """
    report, keeps = drawing.plan.report(), drawing.order.params.keep_phases
    row = row_bytes(drawing)
    phases: list[Phase | None] = [None, *drawing.plan.phases]
    for entry, phase in zip(report["phases"], phases):
        decoded = decodes and (keeps or entry["phase"] == drawing.last)
        entry["memory_bytes"] = memory_bytes(drawing, phase, row, decoded)
    return report


def memory_bytes(drawing: Drawing, phase: Phase | None, row: int, decoded: bool) -> int:
    """Of a phase, None for the base image. row: `row_bytes`. Drawing and decoding come one after the other."""
    plan = drawing.plan
    needs = Needs(plan, drawing.model.vae, drawing.model.device, HELD, MORE)
    if plan.picture_lat is not None and (phase is None or plan.strength == 0):
        return needs.given(phase)
    height, width = needs.size_lat(phase)
    held = needs.latents(phase, (drawing.sampler if phase is None else drawing.phase_sampler).solver)
    held += sum(one.plane_bytes(height * width) for one in drawing.order.controls)
    rows = plan.images * plan.passes if phase is None else rows_at_once(drawing, phase, row)
    drawn = max(held + math.ceil(row * rows), needs.enlarging(phase))
    latent = plan.images * LATENT_CHANNELS * height * width * torch.float32.itemsize
    return max(drawn, latent + needs.picture(height, width)) if decoded else drawn


VIEWS = {"windows": "windows", "sub_images": "sub-images"}
"""What a phase's report counts, as it is named."""


@torch.no_grad()
def row_bytes(drawing: Drawing) -> int:
    """What the network allocates for one row of the native size."""
    model, (height, width) = drawing.model, drawing.plan.window_lat
    cond, size_px = encode(model, [""]), (height * LATENT_PX, width * LATENT_PX)
    steering = drawing.steering((height, width))
    guided = Guided(model, cond, cond, 1.0, SizeTold(size_px, size_px), steering=steering)
    x = torch.zeros(1, LATENT_CHANNELS, height, width, device=model.device)
    with LiveBytes(model.device) as live:
        guided(x, 500.0, SigmaForm(1.0, model.prediction))
    return live.peak


def rows_at_once(drawing: Drawing, phase: Phase, row: int) -> float:
    """How many rows of the native size the network's largest call is worth."""
    plan, batch = drawing.plan, settled(drawing.batch, row)
    (local, dilated), (height, width) = plan.views(phase), plan.window_lat
    shares = [plan.params.weights.c2(t) for t in plan.phase_levels]
    sub_image = math.ceil(phase.height_lat / phase.dilation) * math.ceil(phase.width_lat / phase.dilation)
    paths = [(local, 1.0)] * any(c2 < 1 for c2 in shares)
    paths += [(dilated, sub_image / (height * width))] * any(c2 > 0 for c2 in shares)
    rows, alike = rows_of(drawing)
    return max(batch.largest(views * rows, views * alike, area) * area for views, area in paths)


def rows_of(drawing: Drawing) -> tuple[int, int]:
    """How many rows an evaluation of a phase has at most, and how many each has a multiple of."""
    plan, guiding = drawing.plan, drawing.plan.params.guiding
    negatives = plan.images * (plan.phase_passes - 1)
    alike = guiding.alike([1.0] * plan.images + [None] * negatives)
    if not any(guiding.in_windows(t) for t in plan.phase_levels):
        negatives = 0
    return plan.images + negatives, alike or plan.images + negatives


def settled(batch: WindowBatch, row: int) -> WindowBatch:
    """With the size that an automatic one is likely to find."""
    batch = copy.copy(batch)
    if batch.size is None:
        free = batch.free_bytes()
        batch.size = max(1, min(PAYS, math.floor(SHARE * free / row))) if free is not None and row else MODEST
    return batch


def plan_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """For the terminal."""
    for phase in report["phases"]:
        paths = [f"{phase[key]} {name}" for key, name in VIEWS.items() if phase[key]]
        views = (
            " + ".join(paths) or "enlarged" if phase["phase"] > 1 else "whole" if phase["windows"] else "the picture"
        )
        yield (
            f"phase {phase['phase']}: {phase['width']}x{phase['height']}, {views}, {phase['evaluations']} evaluations, "
            f"{phase['memory_bytes'] / GIB:.2f} GiB"
        )
    about = "" if report["exact"] else "about "
    yield f"all: {about}{report['evaluations']} evaluations, {report['units']:g} times the base image's"
    if about:
        yield "DPM adaptive takes as many steps as the picture asks for, often two or three times as many"
