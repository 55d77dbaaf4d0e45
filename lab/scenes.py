"""Procedural scenes that can be rendered exactly at any scale: one object over a horizon, with texture in pixels.

A scene is laid out in native pixels, so that a larger render shows the same picture with finer edges. Its ground is
woven with a fixed period in *rendered* pixels: an enlarged picture has it too coarse, a true large one does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

NATIVE_PX = 256
WEAVE_PX = 16
"""Period of the ground's weave in rendered pixels, at every scale: two latent cells."""
COLOURS = {
    "red": (0.85, 0.12, 0.12),
    "green": (0.10, 0.65, 0.15),
    "blue": (0.12, 0.20, 0.85),
    "yellow": (0.90, 0.80, 0.10),
}
SHAPES = ("disc", "square", "triangle")
SKY, GROUND = 0.8, 0.36
"""Greys that are the same in every scene: normalisation makes a small autoencoder lose a picture's own level."""
CORE = 0.3
"""Radius of the white core, as a share of the object's."""


@dataclass(frozen=True)
class Scene:
    """Lengths in native pixels; `size_px` is the `(height, width)` of the whole native picture."""

    colour: str
    shape: str
    size_px: tuple[int, int]
    centre: tuple[float, float]
    radius: float
    horizon: float
    weave: tuple[float, float]

    @property
    def prompt(self) -> str:
        return f"a {self.colour} {self.shape}"


def draw_scene(
    generator: torch.Generator,
    size_px: tuple[int, int] = (NATIVE_PX, NATIVE_PX),
    colour: str | None = None,
    shape: str | None = None,
) -> Scene:
    """A scene with a random layout; colour and shape at random where none is given."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    height, width = size_px
    side = min(size_px)
    radius = uniform(0.15, 0.23) * side
    margin = 1.15 * radius
    return Scene(
        colour or list(COLOURS)[int(uniform(0, len(COLOURS)))],
        shape or SHAPES[int(uniform(0, len(SHAPES)))],
        size_px,
        (uniform(margin, height - margin), uniform(margin, width - margin)),
        radius,
        uniform(0.4, 0.7) * height,
        (uniform(0, WEAVE_PX), uniform(0, WEAVE_PX)),
    )


def signed_distance(shape: str, y: torch.Tensor, x: torch.Tensor, radius: float) -> torch.Tensor:
    """To the outline of an object at the origin, negative inside; exact at the edges that face the point."""
    if shape == "disc":
        return torch.hypot(y, x) - radius
    if shape == "square":
        return torch.maximum(y.abs(), x.abs()) - 0.85 * radius
    slope = math.sqrt(3) / 2  # an upright triangle of circumradius `radius`
    return torch.maximum(slope * x.abs() - 0.5 * y - 0.5 * radius, y - 0.5 * radius)


def render(
    scene: Scene, scale: float = 1.0, corner_px: tuple[int, int] = (0, 0), size_px: tuple[int, int] | None = None
) -> torch.Tensor:
    """RGB `(3, height, width)` in [0, 1], of the whole scene at `scale`, or of the window at `corner_px` of that render.

    Raises ValueError for a window that leaves the scene.
    """
    rows, cols = _places(scene, scale, corner_px, size_px)
    y, x = rows / scale, cols / scale

    turn = 2 * math.pi / WEAVE_PX
    weave = torch.sin((rows + scene.weave[0]) * turn) * torch.sin((cols + scene.weave[1]) * turn)
    below = ((y - scene.horizon) * scale + 0.5).clamp(0, 1)
    grey = SKY * (1 - below) + (GROUND + 0.10 * weave) * below

    dy, dx = y - scene.centre[0], x - scene.centre[1]
    body = _body(scene, dy, dx, scale)
    core = (0.5 - (torch.hypot(dy, dx) - CORE * scene.radius) * scale).clamp(0, 1)
    paint = torch.tensor(COLOURS[scene.colour])[:, None, None] * (1 - core) + core
    return grey * (1 - body) + paint * body


def silhouette(
    scene: Scene, scale: float = 1.0, corner_px: tuple[int, int] = (0, 0), size_px: tuple[int, int] | None = None
) -> torch.Tensor:
    """White where the object is, `(1, height, width)` in [0, 1]; else as `render`."""
    rows, cols = _places(scene, scale, corner_px, size_px)
    return _body(scene, rows / scale - scene.centre[0], cols / scale - scene.centre[1], scale)[None]


def _places(
    scene: Scene, scale: float, corner_px: tuple[int, int], size_px: tuple[int, int] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The middles of a window's rows and columns in pixels of the whole render."""
    whole = round(scene.size_px[0] * scale), round(scene.size_px[1] * scale)
    height, width = size_px or whole
    top, left = corner_px
    if top < 0 or left < 0 or top + height > whole[0] or left + width > whole[1]:
        raise ValueError(f"window {corner_px} + {(height, width)} leaves the render of {whole} px")
    rows = torch.arange(top, top + height, dtype=torch.float32)[:, None] + 0.5
    return rows, torch.arange(left, left + width, dtype=torch.float32)[None, :] + 0.5


def _body(scene: Scene, dy: torch.Tensor, dx: torch.Tensor, scale: float) -> torch.Tensor:
    return (0.5 - signed_distance(scene.shape, dy, dx, scene.radius) * scale).clamp(0, 1)
