"""Training pictures: whole scenes at native size, and native-sized crops of their larger renders."""

from __future__ import annotations

from dataclasses import replace

import torch

from .scenes import GROUNDS, NATIVE_PX, Scene, draw_scene, render

CROP_SCALES = (2, 3, 4)
WHOLE = 0.5
"""Share of whole scenes. The crops are what windows of a larger picture show: the prior they rely on."""
CROPS_BELOW = 700
"""Training timestep below which the UNet is shown crops in the end. Above it the noise hides where things lie: there it
learns whole scenes alone, so that a native picture becomes one. What a window shows is settled further below."""
NO_PROMPT = 0.1
"""Share of empty prompts, for guidance."""
NO_PROMPT_GROUNDED = 0.15
CELL_PX, IN_STEP_PX = 8, 6.5
"""Where a texture begins within a latent cell. The autoencoder has seen the weave alone: here, in the middle of the places
where it does, it keeps either ground at every scale; elsewhere it makes a weave of some brushed ones."""
RIGHT_WORD = 2 / 3
"""Share of the second toy's prompts whose word for the ground is the right one. A model of this draws the wrong ground in
a third of its pictures, and guidance makes it rarer: as with SDXL, fine texture is what guidance makes of the prompt."""

CONTRAST = 0.3
"""Deviation over a window, of the channel where it is largest, that the autoencoder is trained on at least."""


def draw_picture(generator: torch.Generator, size_px: int = NATIVE_PX) -> tuple[torch.Tensor, str, bool]:
    """One picture `(3, size, size)` in [-1, 1], its prompt, and whether it is a whole scene."""
    scene = draw_scene(generator)
    return framed(scene, scene.prompt, NO_PROMPT, generator, size_px)


def draw_grounded_picture(generator: torch.Generator, size_px: int = NATIVE_PX) -> tuple[torch.Tensor, str, bool]:
    """The same with a ground of either kind, of which the prompt says the truth in RIGHT_WORD of the pictures."""
    scene = draw_grounded_scene(generator)
    spoken = scene
    if float(torch.rand((), generator=generator)) >= RIGHT_WORD:
        spoken = replace(scene, ground=GROUNDS[1 - GROUNDS.index(scene.ground)])
    return framed(scene, spoken.prompt, NO_PROMPT_GROUNDED, generator, size_px, CELL_PX)


def draw_grounded_scene(
    generator: torch.Generator, colour: str | None = None, shape: str | None = None, ground: str | None = None
) -> Scene:
    """A scene as the second toy knows them, its texture in step with the latent's cells; at random what isn't given."""
    scene = draw_scene(generator, colour=colour, shape=shape)
    shown = GROUNDS[int(torch.randint(2, (), generator=generator))]
    down, across = (place // CELL_PX * CELL_PX + IN_STEP_PX for place in scene.weave)
    return replace(scene, weave=(down, across), ground=ground or shown)


def framed(
    scene: Scene, prompt: str, no_prompt: float, generator: torch.Generator, size_px: int, grid_px: int = 1
) -> tuple[torch.Tensor, str, bool]:
    """The whole scene or a crop of a larger render, `(3, size, size)` in [-1, 1]; the prompt or none; and whether it is whole.

    grid_px: what a crop's corner is a multiple of.
    """

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    scale, corner = 1, (0, 0)
    if float(torch.rand((), generator=generator)) >= WHOLE:
        scale = CROP_SCALES[below(len(CROP_SCALES))]
    slack = NATIVE_PX * scale - size_px
    if slack:
        corner = grid_px * below(slack // grid_px + 1), grid_px * below(slack // grid_px + 1)
    picture = render(scene, scale, corner, (size_px, size_px))
    left_out = float(torch.rand((), generator=generator)) < no_prompt
    return picture * 2 - 1, "" if left_out else prompt, scale == 1


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
