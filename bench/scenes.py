"""Procedural pictures that are known exactly at every size.

A scene is painted once, `FINE` times its native size; a render at scale 1, 2, 3 or 4 is the box average of that
painting, so all renders show the same picture. The hatching has a period of one native pixel: the native render
averages it to exactly nothing, and only a true picture of a larger size can show it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

NATIVE = 64
FINE = 12  # the least common multiple of the scales, so that every render averages whole cells
SCALES = (1, 2, 3, 4)
TAU = 2 * math.pi
SKY_LAYERS = 7
GROUND_LAYERS = 4.5

Plane = npt.NDArray[np.float32]
"""Values over a painting, `(height, width)`, or of its three colours, `(3, height, width)`; axes of 1 are broadcast."""


@dataclass(frozen=True)
class Scene:
    """One object with a core, before a layered sky and over a layered ground. Lengths are in native pixels."""

    name: str
    ink: str
    core: str
    sky: tuple[str, str]  # top, horizon
    ground: tuple[str, str]  # horizon, bottom
    centre: tuple[float, float]
    radius: float
    horizon: float

    @property
    def words(self) -> list[str]:
        return self.name.split()

    @property
    def shape(self) -> str:
        return self.words[1]


SCENES = (
    Scene("red disc at dusk", "e5383b", "ffe8a3", ("2b2d5b", "f7a072"), ("6b4161", "2a1a2e"), (38, 25), 13, 42),
    Scene("white disc by night", "f1f3f5", "7f9cc0", ("122350", "5b83ad"), ("4a7298", "0e1a36"), (25, 24), 12, 42),
    Scene("teal square on snow", "0f8b8d", "fbf3d5", ("7fa6c9", "f4ead8"), ("f3f5f7", "8fa9c0"), (26, 31), 13, 45),
    Scene("violet square at dawn", "5f3dc4", "ffd43b", ("ff9e9e", "fdf3b4"), ("6b8ba4", "2e4057"), (40, 29), 12, 42),
    Scene("green triangle in mist", "2d6a4f", "e9f5db", ("86a99a", "eaf4e2"), ("74a57f", "2f5d50"), (30, 28), 15, 46),
    Scene("orange triangle at sea", "f3722c", "fff1d0", ("8ecae6", "edf6f9"), ("2a6f97", "012a4a"), (41, 27), 14, 43),
)


def matching(prompt: str) -> tuple[Scene, ...]:
    """The scenes whose names hold every word of the prompt, in any order; all of them for an empty prompt."""
    return tuple(scene for scene in SCENES if set(prompt.lower().split()) <= set(scene.words))


def _rgb(code: str) -> Plane:
    return np.array(list(bytes.fromhex(code)), np.float32).reshape(3, 1, 1) / 255


def _blend(colours: tuple[str, str], share: Plane) -> Plane:
    return _rgb(colours[0]) * (1 - share) + _rgb(colours[1]) * share


def _wave(along: Plane, period: float, shift: float = 0.0) -> Plane:
    return np.sin(TAU * (along / period + shift))


def _paper_cut(colours: tuple[str, str], height: Plane, layers: float) -> Plane:
    """Layers of cut paper: steps from one colour to the other, each with a crisp edge and a shade of its own."""
    layer = np.floor(height)
    relief = 0.06 * (layer % 2 * 2 - 1) + 0.06 * (height - layer - 0.5)
    return _blend(colours, np.clip(layer / layers, 0, 1)) + relief


def _distance(shape: str, x: Plane, y: Plane, radius: float) -> Plane:
    """Below zero inside the shape, about the distance to its outline."""
    if shape == "disc":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.88 * radius
    return np.maximum(y - 0.75 * radius, (1.9 * abs(x) - y - radius) * 0.466)


def _backdrop(scene: Scene, x: Plane, y: Plane) -> Plane:
    shifts = [random.Random(f"{scene.name}/{i}").random() for i in range(6)]
    clouds = SKY_LAYERS * y / scene.horizon + 0.55 * _wave(x, 15, shifts[2]) + 0.4 * _wave(x + 2 * y, 27, shifts[3])
    sky = _paper_cut(scene.sky, clouds, SKY_LAYERS) + 0.025 * _wave(y, 1)
    hill = scene.horizon + 1.8 * _wave(x, 37, shifts[0]) + 0.8 * _wave(x, 13, shifts[1])
    depth = np.maximum((y - hill) / (NATIVE - scene.horizon), 0)
    furrows = GROUND_LAYERS * depth**0.8 + 0.5 * _wave(x, 11, shifts[4]) + 0.3 * _wave(x - y, 23, shifts[5])
    ground = _paper_cut(scene.ground, furrows, GROUND_LAYERS) + 0.05 * _wave(x, 1) * _wave(y, 1)
    (cx, cy), r = scene.centre, scene.radius
    shadow = ((x - cx - 3) / (1.15 * r)) ** 2 + ((y - cy - r - 7) / 2.6) ** 2 < 1
    return np.where(y > hill, np.where(shadow, 0.6 * ground, ground), sky)


def _object(scene: Scene, x: Plane, y: Plane) -> Plane:
    """The object's colour, meant for where `_distance` is negative; `x`, `y` from its centre."""
    along = {"disc": y, "square": x, "triangle": x + y}[scene.shape]
    shade = 1.1 - 0.4 * np.clip((x + y) / (2 * scene.radius) + 0.5, 0, 1)
    body = _rgb(scene.ink) * shade + 0.05 * _wave(along, 1)
    core = _rgb(scene.core) + 0.04 * _wave(x, 1)
    ring = abs(_distance(scene.shape, x, y, 0.78 * scene.radius)) < 0.6
    body = np.where(ring, (body + _rgb(scene.core)) / 2, body)
    body = np.where(_distance(scene.shape, x, y, scene.radius) > -1.1, 0.45 * body, body)
    return np.where(_distance(scene.shape, x + 1, y - 1, 0.42 * scene.radius) < 0, core, body)


def paint(scene: Scene) -> torch.Tensor:
    """The painting, `(3, FINE * NATIVE, FINE * NATIVE)`, values 0 to 1."""
    u = (np.arange(NATIVE * FINE, dtype=np.float32) + np.float32(0.5)) / FINE
    x, y = u[None, :], u[:, None]
    dx, dy = x - scene.centre[0], y - scene.centre[1]
    inside = _distance(scene.shape, dx, dy, scene.radius) < 0
    painting = np.where(inside, _object(scene, dx, dy), _backdrop(scene, x, y))
    return torch.from_numpy(np.clip(painting, 0, 1)).float()


def render(painting: torch.Tensor, scale: int) -> torch.Tensor:
    """The picture at `scale` times the native size, one of `SCALES`; any leading axes."""
    return F.avg_pool2d(painting, FINE // scale)
