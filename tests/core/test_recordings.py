"""The engine against recordings of the authors' own pipeline (tests/data/README.md says how they read)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from k_diffusion import sampling

from demofusion_lib.core import (
    Layout,
    Phase,
    PhaseEngine,
    PhaseFusion,
    SkipResidual,
    View,
    Weights,
    WindowGrid,
    climb,
    plan_phases,
    step_generator,
    step_starts,
)

DATA = Path(__file__).parents[1] / "data"
MORE = os.environ.get("DEMOFUSION_RECORDINGS")
FILES = sorted(DATA.glob("*.npz")) + (sorted(Path(MORE).glob("*.npz")) if MORE else [])
TOLERANCE = 1e-5

recorded = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


class Recording:
    """One run of the authors' pipeline: its settings, its draws, its denoiser and what it reached."""

    def __init__(self, path: Path):
        with np.load(path) as arrays:
            self.arrays = {name: torch.from_numpy(arrays[name]) for name in arrays if name != "meta"}
            self.meta = json.loads(str(arrays["meta"]))
        self.alphas_cumprod = self.arrays["alphas_cumprod"].double()
        self.timesteps = self.arrays["timesteps"].tolist()
        self.contexts = torch.cat([self.arrays["prompt"], self.arrays["negative"]]).mean(1)
        self.window = self.meta["sample_size"]
        self.stride = self.meta["stride"]
        self.jitter = self.meta["jitter_range"]
        self.weights = Weights(*(self.meta[f"cosine_scale_{i}"] for i in (1, 2, 3)))

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        alpha_squared = float(self.alphas_cumprod[int(t)])
        return alpha_squared**0.5, (1 - alpha_squared) ** 0.5

    def latents(self, phase: int) -> torch.Tensor:
        return self.arrays[f"phase{phase}_latents"]

    @property
    def base_lat(self) -> tuple[int, int]:
        return tuple(self.latents(1).shape[-2:])

    def phases(self) -> list[Phase]:
        """The phases at their recorded sizes: the authors cut odd sizes off where we round them."""
        last = self.meta["scale"]
        sizes = {number: tuple(self.latents(number).shape[-2:]) for number in range(2, last + 1)}
        return [Phase(number, last, float(number), *size, dilation=number) for number, size in sizes.items()]

    def grid(self, phase: Phase) -> WindowGrid:
        overlap = 1 - self.stride / self.window
        return WindowGrid(phase.height_lat, phase.width_lat, (self.window,) * 2, overlap, border="paper")

    def eps(self, x: torch.Tensor, t: float, rows: Sequence[int], corners: Sequence[tuple[int, int]]) -> torch.Tensor:
        """The recorded denoiser in its variance-preserving form. Row 0 is the prompt, row 1 the negative one."""
        a, s = self.arrays, torch.tensor(t / 1000)
        size, target = self.meta["original_size"], self.meta["target_size"]
        ids = torch.tensor([[*size, 8 * top, 8 * left, *target] for top, left in corners], dtype=torch.float32)
        time = a["A"] @ torch.stack([torch.ones(()), s, torch.sin(6 * s), torch.cos(6 * s)])
        bias = time + self.contexts[list(rows)] @ a["B"].T + (ids / 128) @ a["C"].T
        hidden = F.conv2d(x, a["w1"], padding=1) + bias[:, :, None, None]
        return 0.9 * s * x + F.conv2d(F.silu(hidden), a["w2"], padding=1)

    def guided(self, rows: torch.Tensor) -> torch.Tensor:
        prompt, negative = rows.chunk(2)
        return negative + self.meta["guidance"] * (prompt - negative)


class RecordedWindows:
    """In place of a grid: each step's windows as the authors drew them."""

    def __init__(self, recording: Recording, phase: Phase):
        views = recording.arrays[f"phase{phase.number}_views"].tolist()
        self.steps = iter(
            [
                [View(slice(top, bottom), slice(left, right), (top, left)) for top, bottom, left, right in step]
                for step in views
            ]
        )
        self.margin = recording.jitter

    def layout(self, generators: Sequence[torch.Generator]) -> Layout:
        return Layout([next(self.steps)], (self.margin,) * 4)


def corners_of(views: Sequence[View]) -> list[tuple[int, int]]:
    return [view.corner_lat or (0, 0) for view in views]


def recorded_engine(recording: Recording, phase: Phase, previous: torch.Tensor) -> PhaseEngine:
    noise = recording.arrays[f"phase{phase.number}_noise"]
    residual = SkipResidual(previous, noise, recording.weights, normalise=False)
    fusion = PhaseFusion(
        phase, RecordedWindows(recording, phase), recording.weights, blur=recording.meta["gaussian_sigma"], batch=7
    )
    starts = step_starts("sample_euler", len(recording.timesteps))
    return PhaseEngine(residual, fusion, starts, lambda step: [step_generator(0, phase.number, step)])


def k_diffusion_phase(recording: Recording, phase: Phase, previous: torch.Tensor) -> torch.Tensor:
    """Euler over `x = x0 + sigma * noise`, with a model that answers the denoised."""
    engine = recorded_engine(recording, phase, previous)
    times = [*recording.timesteps, 0]
    sigmas = torch.tensor([sigma / alpha for alpha, sigma in map(recording.alpha_sigma, times)])

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = float(sigma[0])
        t = times[int((sigmas[:-1] - level).abs().argmin())]
        scale = (1 + level**2) ** 0.5

        def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], _: Layout) -> torch.Tensor:
            return patches - level * recording.eps(patches / scale, t, rows, corners_of(views))

        engine.before(x, t, 1.0, level)
        denoised = recording.guided(engine.fusion(x.repeat(2, 1, 1, 1), [0, 0], t, 1.0, predict))
        return denoised

    start = engine.residual.noised(1.0, float(sigmas[0]))
    return sampling.sample_euler(model, start, sigmas, disable=True) * recording.alpha_sigma(0)[0]


def ddim_step(
    x: torch.Tensor, eps: torch.Tensor, level: tuple[float, float], below: tuple[float, float]
) -> torch.Tensor:
    (alpha, sigma), (alpha_below, sigma_below) = level, below
    return alpha_below * (x - sigma * eps) / alpha + sigma_below * eps


def ddim(
    recording: Recording, x: torch.Tensor, guided_eps: Callable[[torch.Tensor, float], torch.Tensor]
) -> torch.Tensor:
    """The timestep family's loop: DDIM, whose last step goes to the schedule's first level."""
    levels = [recording.alpha_sigma(t) for t in [*recording.timesteps, 0]]
    for t, level, below in zip(recording.timesteps, levels, levels[1:]):
        x = ddim_step(x, guided_eps(x, t), level, below)
    return x


def timestep_phase(recording: Recording, phase: Phase, previous: torch.Tensor) -> torch.Tensor:
    """DDIM over `x = alpha * x0 + sigma * noise`, with a model that answers epsilon."""
    engine = recorded_engine(recording, phase, previous)

    def guided_eps(x: torch.Tensor, t: float) -> torch.Tensor:
        def predict(patches: torch.Tensor, rows: Sequence[int], views: Sequence[View], _: Layout) -> torch.Tensor:
            return recording.eps(patches, t, rows, corners_of(views))

        alpha, sigma = recording.alpha_sigma(t)
        engine.before(x, t, alpha, sigma)
        eps = recording.guided(engine.fusion(x.repeat(2, 1, 1, 1), [0, 0], t, 0.0, predict))
        return eps

    start = engine.residual.noised(*recording.alpha_sigma(recording.timesteps[0]))
    return ddim(recording, start, guided_eps)


def relative_error(latent: torch.Tensor, expected: torch.Tensor) -> float:
    return float((latent - expected).norm() / expected.norm())


def test_recordings_are_at_hand() -> None:
    assert {"square-x2-strong", "square-x3", "wide-x4"} <= {path.stem for path in FILES}
    assert not MORE or any(Path(MORE).glob("*.npz")), f"DEMOFUSION_RECORDINGS={MORE} holds no recordings"


@recorded
def test_phase_1_reproduces_the_recorded_denoiser(path: Path) -> None:
    """Nothing of ours but the reading of the recording: where this fails, the recording is misread."""
    recording = Recording(path)

    def guided_eps(x: torch.Tensor, t: float) -> torch.Tensor:
        return recording.guided(recording.eps(x.repeat(2, 1, 1, 1), t, [0, 1], [(0, 0)] * 2))

    latent = ddim(recording, recording.arrays["initial_latents"], guided_eps)
    assert relative_error(latent, recording.latents(1)) < TOLERANCE


@recorded
@pytest.mark.parametrize("denoise_phase", [k_diffusion_phase, timestep_phase])
def test_every_phase_reaches_the_recorded_latents(path: Path, denoise_phase: Callable[..., torch.Tensor]) -> None:
    recording = Recording(path)
    reached = climb(
        recording.latents(1), recording.phases(), lambda phase, previous, _: denoise_phase(recording, phase, previous)
    )
    errors = {phase.number: relative_error(latent, recording.latents(phase.number)) for phase, latent in reached}
    assert list(errors) == list(range(2, recording.meta["scale"] + 1))
    assert max(errors.values()) < TOLERANCE, errors


def test_our_plan_is_the_recorded_one() -> None:
    """Wherever the recorded sizes are whole multiples of the base."""
    compared = 0
    for recording in map(Recording, FILES):
        (height, width), phases = recording.base_lat, recording.phases()
        if all((phase.height_lat, phase.width_lat) == (height * n, width * n) for n, phase in enumerate(phases, 2)):
            target = phases[-1].height_lat, phases[-1].width_lat
            assert plan_phases((height, width), target, "every") == phases
            compared += 1
    assert compared >= 3


def drawable(start: int, length: int, window: int, jitter: int) -> range:
    """Where the authors may put the window that stands at `start` without jitter: edge windows move outwards only."""
    low = 0 if start + window == length else -jitter
    high = 0 if start == 0 else jitter
    return range(start + low, start + high + 1)


def assert_drawable(views: Sequence[View], grid: WindowGrid, margin: int) -> None:
    unmoved = replace(grid, jitter=False).views(step_generator(0, 2, 0))
    axes = list(zip((grid.height_lat, grid.width_lat), grid.window_lat))
    assert len(views) == len(unmoved) == len(grid)
    for view, at in zip(views, unmoved):
        for drawn, start, (length, window) in zip((view.rows, view.cols), at.corner_lat, axes):
            assert drawn.stop - drawn.start == window
            assert drawn.start - margin in drawable(start, length, window, margin)


@recorded
def test_the_grid_draws_windows_like_the_recorded_ones(path: Path) -> None:
    """As many, in the same order, from the same range of places; the recorded ones as well as our own."""
    recording = Recording(path)
    for phase in recording.phases():
        grid = recording.grid(phase)
        assert grid.jitter_range_lat() == (recording.jitter, recording.jitter)
        own = [grid.views(step_generator(1, phase.number, step)) for step in range(20)]
        recorded_windows = RecordedWindows(recording, phase)
        theirs = [recorded_windows.layout([]).views[0] for _ in recording.timesteps]
        for views in own + theirs:
            assert_drawable(views, grid, recording.jitter)
        assert grid.layout([step_generator(1, 2, 0)]).padding == (recording.jitter,) * 4
