"""Pictures judged by what they show: with the toy checkpoint, which the repository carries (WEBUI_DIR installs it)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image
from torchvision.transforms.functional import to_tensor

from lab.detector import Found, find_objects
from lab.install import NAME
from lab.scenes import NATIVE_PX

from .client import WebUI, apart, mean_apart
from .conftest import host, toy_title

SEEDS = (1, 2, 3)
FIELDS = {
    "prompt": "a red disc", "negative_prompt": "", "steps": 20, "width": NATIVE_PX, "height": NATIVE_PX,
    "sampler_name": "Euler", "cfg_scale": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> Iterator[WebUI]:
    """The webui with the toy loaded."""
    webui, title = host(), toy_title()
    if title is None:
        pytest.skip(f"the webui has no checkpoint {NAME}; name its folder in WEBUI_DIR to have it installed")
    before = webui.options()["sd_model_checkpoint"]
    webui.set_options(sd_model_checkpoint=title, show_progress_type="Approx cheap")
    yield webui
    webui.set_options(sd_model_checkpoint=before)


def objects(picture: Image.Image) -> list[Found]:
    return find_objects(to_tensor(picture.convert("RGB")))


def draw(webui: WebUI, seed: int, **settings: object) -> Image.Image:
    return webui.enlarge({**FIELDS, "seed": seed}, **settings).picture


@pytest.mark.parametrize("seed", SEEDS)
def test_the_base_image_shows_a_red_disc(toy: WebUI, seed: int) -> None:
    picture = toy.draw(**{**FIELDS, "seed": seed}).picture
    assert [found.colour for found in objects(picture)] == ["red"]


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_four_times_the_side_shows_one_red_object(toy: WebUI, seed: int) -> None:
    picture = draw(toy, seed, scale=4)
    assert picture.size == (4 * NATIVE_PX, 4 * NATIVE_PX)
    found = objects(picture)
    assert [one.colour for one in found] == ["red"]
    base = objects(toy.draw(**{**FIELDS, "seed": seed}).picture)
    assert found[0].area_px == pytest.approx(16 * base[0].area_px, rel=0.25)


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_windows_alone_repeat_it(toy: WebUI, seed: int) -> None:
    picture = draw(toy, seed, scale=4, plan="direct", skip_residual=False, dilated=False)
    assert len(objects(picture)) >= 3


@pytest.mark.parametrize(("scale", "vae"), [(3, "exact"), (8, "auto")])
def test_large_pictures_come_through_the_exact_decoder(toy: WebUI, scale: int, vae: str) -> None:
    """2048 px too, where the host's own decoder takes 20 GB; where it takes less, it draws the same but for rounding."""
    settings = {"scale": scale, "plan": "direct", "steps": 2, "overlap": 0, "window_batch": 0}
    fields = {**FIELDS, "seed": SEEDS[0], "steps": 8}
    tiled = toy.enlarge(fields, **settings, vae=vae)
    assert tiled.sizes == [(scale * NATIVE_PX, scale * NATIVE_PX)]
    assert "DemoFusion note" not in tiled.infotexts[0]
    assert any(found.colour == "red" for found in objects(tiled.picture))
    if scale == 3:
        undivided = toy.enlarge(fields, **settings, vae="host")
        assert apart(tiled.picture, undivided.picture) <= 1
        assert mean_apart(tiled.picture, undivided.picture) < 1e-3
