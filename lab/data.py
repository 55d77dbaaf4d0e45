"""Training pictures: whole scenes at native size, and native-sized crops of their larger renders."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .scenes import NATIVE_PX, Scene, draw_scene, render, silhouette

CROP_SCALES = (2, 3, 4)
WHOLE = 0.5
"""Share of whole scenes. The crops are what windows of a larger picture show: the prior they rely on."""
CROPS_BELOW = 700
"""Training timestep below which the UNet is shown crops in the end. Above it the noise hides where things lie: there it
learns whole scenes alone, so that a native picture becomes one. What a window shows is settled further below."""
NO_PROMPT = 0.1
"""Share of empty prompts, for guidance."""

CONTRAST = 0.3
"""Deviation over a window, of the channel where it is largest, that the autoencoder is trained on at least."""


@dataclass(frozen=True)
class Framed:
    """What a training picture shows of a scene, and its prompt."""

    scene: Scene
    scale: int
    corner_px: tuple[int, int]
    size_px: int
    prompt: str

    def picture(self) -> torch.Tensor:
        """`(3, size, size)` in [-1, 1]."""
        return render(self.scene, self.scale, self.corner_px, (self.size_px, self.size_px)) * 2 - 1

    def silhouette(self) -> torch.Tensor:
        """`(1, size, size)` in [0, 1]."""
        return silhouette(self.scene, self.scale, self.corner_px, (self.size_px, self.size_px))


def draw_framed(generator: torch.Generator, size_px: int = NATIVE_PX) -> Framed:
    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    scene = draw_scene(generator)
    scale, corner = 1, (0, 0)
    if float(torch.rand((), generator=generator)) >= WHOLE:
        scale = CROP_SCALES[below(len(CROP_SCALES))]
    slack = NATIVE_PX * scale - size_px
    if slack:
        corner = below(slack + 1), below(slack + 1)
    prompt = "" if float(torch.rand((), generator=generator)) < NO_PROMPT else scene.prompt
    return Framed(scene, scale, corner, size_px, prompt)


def draw_picture(generator: torch.Generator, size_px: int = NATIVE_PX) -> tuple[torch.Tensor, str, bool]:
    """One picture `(3, size, size)` in [-1, 1], its prompt, and whether it is a whole scene."""
    framed = draw_framed(generator, size_px)
    return framed.picture(), framed.prompt, framed.scale == 1


def draw_batch(generator: torch.Generator, count: int, size_px: int = NATIVE_PX) -> tuple[torch.Tensor, list[str]]:
    pictures, prompts, _ = zip(*(draw_picture(generator, size_px) for _ in range(count)))
    return torch.stack(pictures), list(prompts)


def draw_window(generator: torch.Generator, size_px: int) -> torch.Tensor:
    """A picture for the autoencoder, `(3, size, size)` in [-1, 1]: half of them whole scenes in small, half parts of renders.

    Never a flat one: its network normalises over the picture, and can't tell one flat colour from another.
    """
    while True:
        scene = draw_scene(generator)
        if float(torch.rand((), generator=generator)) < WHOLE:
            return render(scene, size_px / NATIVE_PX) * 2 - 1
        scale = (0.5, 1, 2)[int(torch.randint(3, (), generator=generator))]
        slack = round(NATIVE_PX * scale) - size_px
        offset = torch.randn(2, generator=generator) * scene.radius  # near the object, whose edges are the hard part
        corner = [min(max(int((c + float(o)) * scale - size_px / 2), 0), slack) for c, o in zip(scene.centre, offset)]
        picture = render(scene, scale, (corner[0], corner[1]), (size_px, size_px)) * 2 - 1
        if float(picture.std((1, 2)).max()) > CONTRAST:
            return picture
