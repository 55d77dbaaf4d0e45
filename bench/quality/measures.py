"""What is measured of one picture. All pictures are `(3, height, width)` in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.quality.geometry import Geometry, luma
from bench.quality.rows import Subject
from bench.quality.seams import Lines, seam_ratio
from lab.detector import find_objects, shows_one

BANDS = {
    "1/32-1/16": (1 / 32, 1 / 16),
    "1/16-1/8": (1 / 16, 1 / 8),
    "1/8-1/4": (1 / 8, 1 / 4),
    "1/4-1/2": (1 / 4, 1 / 2),
}
"""Octaves in cycles per pixel; the ground's weave lies at 0.088, in the second."""
UPPER = "1/8-1/4"
SPECTRUM_BINS = 24
PATCH_PX, PATCHES, PROJECTIONS = 7, 2048, 64


def power(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Radial frequency in cycles per pixel and power, flat; under a Hann window, so that the borders add nothing."""
    grey = luma(picture)
    height, width = grey.shape
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)[None, :]
    spectrum = torch.fft.rfft2((grey - grey.mean()) * window).abs().square() / window.square().sum()
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :])
    return radius.flatten(), spectrum.flatten()


def band_levels(picture: torch.Tensor) -> dict[str, float]:
    """Mean power in each octave, in dB."""
    radius, spectrum = power(picture)
    return {name: decibel(spectrum[(radius >= low) & (radius < high)].mean()) for name, (low, high) in BANDS.items()}


def log_spectrum(picture: torch.Tensor) -> torch.Tensor:
    """Mean power in `SPECTRUM_BINS` rings of one ratio from 1/64 to 1/2 cycles per pixel, in dB."""
    radius, spectrum = power(picture)
    edges = torch.logspace(math.log10(1 / 64), math.log10(1 / 2), SPECTRUM_BINS + 1)
    bins = torch.bucketize(radius, edges) - 1
    inside = (bins >= 0) & (bins < SPECTRUM_BINS)
    total = torch.zeros(SPECTRUM_BINS).index_add_(0, bins[inside], spectrum[inside])
    count = torch.zeros(SPECTRUM_BINS).index_add_(0, bins[inside], torch.ones(int(inside.sum())))
    return 10 * (total / count.clamp(min=1)).clamp(min=1e-12).log10()


def decibel(value: torch.Tensor) -> float:
    return 10 * math.log10(max(float(value), 1e-12))


def psnr(one: torch.Tensor, other: torch.Tensor) -> float:
    return min(99.0, -decibel((one - other).square().mean()))


def shrunk(picture: torch.Tensor, scale: int) -> torch.Tensor:
    return F.avg_pool2d(picture[None], scale)[0]


class PatchProjections:
    """Random directions in the space of patches, for the sliced Wasserstein distance."""

    def __init__(self, seed: int = 1):
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(3 * PATCH_PX**2, PROJECTIONS, generator=generator)
        self.directions = directions / directions.norm(dim=0)

    def __call__(self, picture: torch.Tensor, seed: int) -> torch.Tensor:
        """`(PATCHES, PROJECTIONS)`: patches at random places, projected."""
        generator = torch.Generator().manual_seed(seed)
        patches = picture.unfold(1, PATCH_PX, 1).unfold(2, PATCH_PX, 1)
        tops = torch.randint(patches.shape[1], (PATCHES,), generator=generator)
        lefts = torch.randint(patches.shape[2], (PATCHES,), generator=generator)
        return patches[:, tops, lefts].transpose(0, 1).reshape(PATCHES, -1) @ self.directions


def sliced_wasserstein(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean distance of the sorted projections of two sets of equally many patches."""
    return 100 * float((one.sort(0).values - other.sort(0).values).abs().mean())


@dataclass(frozen=True)
class Measured:
    """One picture's figures; None for what it does not show. The table takes most of them against the truth's."""

    objects: int
    one_object: bool
    right_colour: bool
    psnr_to_base: float
    seam_ratio: float | None
    horizon_px: float | None
    horizon_greatest_px: float | None
    tilt_px: float | None
    outline: float | None
    grain: float | None
    bands: dict[str, float]
    spectrum: list[float]


def measure(picture: torch.Tensor, base: torch.Tensor, scale: int, subject: Subject, lines: Lines) -> Measured:
    """lines: where windows begin and end, whose seams are looked for."""
    found, geometry = find_objects(picture), Geometry(picture)
    horizon = geometry.horizon()
    return Measured(
        len(found),
        shows_one(found),
        bool(found) and found[0].colour == subject.colour,
        psnr(shrunk(picture, scale), base),
        seam_ratio(picture, geometry, lines),
        horizon and horizon.rms_px,
        horizon and horizon.greatest_px,
        horizon and abs(horizon.tilt_px),
        geometry.outline(subject.shape),
        geometry.grain(),
        band_levels(picture),
        log_spectrum(picture).tolist(),
    )
