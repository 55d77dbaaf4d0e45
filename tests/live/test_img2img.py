"""The img2img tab's pictures through the phases, in the running webui."""

from __future__ import annotations

import json
from math import log10
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

from .client import SETTINGS, WebUI, apart, as_base64
from .test_reckoning import AGREE, DIFFER, RUN, SCRIPT, SOURCE, exact  # noqa: F401: a fixture

SIDE = 64
NATIVE = {"demofusion_native_sd1": 512, "demofusion_native_sdxl": 1024}
FEW = {**SETTINGS, "preset": "fast", "jitter": False, "steps": 3}


@pytest.fixture(autouse=True)
def native(webui: WebUI) -> Any:
    """The tiny models are drawn through windows of this side."""
    listed = webui.options()  # Forge lists no extension's
    before = {name: int(listed.get(name, own)) for name, own in NATIVE.items()}
    webui.set_options(**dict.fromkeys(NATIVE, SIDE))
    yield
    webui.set_options(**before)


def scene(width: int = SIDE, height: int = SIDE) -> Image.Image:
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((width // 4, height // 4, width // 2, height // 2), fill=(200, 40, 30))
    draw.line((0, height, width, 0), fill=(20, 90, 200), width=3)
    return picture


def psnr(one: Image.Image, other: Image.Image) -> float:
    squares = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).sum2
    return 10 * log10(255**2 * one.width * one.height * 3 / max(sum(squares), 1e-9))


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_a_picture_is_drawn_as_reckoned(exact: WebUI, strength: float) -> None:  # noqa: F811
    """By an independent few lines, latent and pixels; anything else comes to others."""
    settings = {**FEW, "scale": 2, "sdxl_size": "final", "enlarge": "pixels"}
    arguments = ((2 * SIDE, 2 * SIDE), (601.0, 0.25, 0.0, False, True))
    code = RUN.format(source=SOURCE.read_text(encoding="utf-8"), function="reckon_picture", arguments=arguments)
    answer = exact.redraw(
        scene(), settings, denoising_strength=strength, script_name=SCRIPT, script_args=[code, 2], steps=4
    )
    found = json.loads(answer.infotexts[0])
    assert found.pop("right") < 8 * AGREE, found  # a VAE by tiles rounds otherwise, and this one has twice to encode
    assert found.pop("shades") < 0.1, found
    if strength == 1:
        del found["full strength"], found["shades without"]
    assert all(apart >= DIFFER for apart in found.values()), found


def test_off_it_is_the_webuis_own(webui: WebUI) -> None:
    without = webui.redraw(scene())
    for settings in ([], {}, {"enabled": False, "scale": 4}, [False]):
        assert webui.redraw(scene(), settings).images == without.images


def test_at_strength_0_it_is_the_picture_enlarged(webui: WebUI) -> None:
    answer = webui.redraw(scene(), {**FEW, "scale": 2}, denoising_strength=0)
    larger = scene().resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
    assert psnr(answer.picture, larger) > 40


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_tabs_size_and_resize_mode(webui: WebUI, mode: int) -> None:
    fields = {"width": 2 * SIDE, "height": 3 * SIDE, "resize_mode": mode}
    answer = webui.redraw(scene(), {**FEW, "scale": 1}, denoising_strength=0, **fields)
    assert answer.sizes == [(2 * SIDE, 3 * SIDE)] and f"Size: {2 * SIDE}x{3 * SIDE}" in answer.infotexts[0]
    fields["denoising_strength"] = 0.01
    assert webui.redraw(scene(), {**FEW, "scale": 1}, **fields).sizes == answer.sizes


def test_a_batch_and_two_pictures(webui: WebUI) -> None:
    others = [as_base64(scene()), as_base64(ImageChops.invert(scene()))]
    settings = {**FEW, "scale": 2, "window_batch": 16}
    both = webui.redraw(scene(), settings, init_images=others, batch_size=2, n_iter=2)
    assert len(both.sizes) in (4, 5)  # a grid of all, where the webui's settings ask for one
    drawn = [p for p in both.pictures if p.size == (2 * SIDE, 2 * SIDE)]
    for i, picture in enumerate(drawn[-4:]):
        own = scene() if i % 2 == 0 else ImageChops.invert(scene())
        assert psnr(picture.resize((SIDE, SIDE), Image.Resampling.BOX), own) > psnr(
            picture.resize((SIDE, SIDE), Image.Resampling.BOX), ImageChops.invert(own)
        )


def test_the_infotext_draws_the_same_again(webui: WebUI) -> None:
    """Of its own fields the webui's img2img takes few from an infotext; of ours all."""
    first = webui.redraw(scene(), {**FEW, "scale": 2}, denoising_strength=0.3)
    emphasis = {"emphasis": webui.options()["emphasis"]}
    again = webui.redraw(
        scene(), denoising_strength=0.3, infotext=first.infotexts[0], override_settings=emphasis
    )  # fmt: skip
    assert again.infotexts == first.infotexts and again.images == first.images


@pytest.mark.parametrize("size", [(1, 1), (20000, 50)], ids=str)
def test_pictures_of_no_use_are_refused_in_one_line(webui: WebUI, size: tuple[int, int]) -> None:
    answer = webui.try_redraw(Image.new("RGB", size), {**FEW, "scale": 2})
    assert f"the picture is {size[0]}x{size[1]} px, allowed: 8 to 16384 px a side" in answer.detail
    assert webui.redraw(scene()).status == 200


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "I;16"])
def test_kinds_of_pictures(webui: WebUI, mode: str) -> None:
    picture = scene().convert("L").convert("I").point(lambda v: v * 257) if mode == "I;16" else scene().convert(mode)
    answer = webui.redraw(picture, {**FEW, "scale": 2}, denoising_strength=0)
    expected = scene().convert("L") if mode in ("L", "I;16") else scene()
    expected = scene().convert("P").convert("RGB") if mode == "P" else expected
    back = answer.picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    assert psnr(back, expected.convert("RGB")) > 30 and apart(back, expected.convert("RGB")) < 60
