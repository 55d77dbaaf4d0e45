"""The bar and what is left, as the clock has them: with the toy, whose VAE takes as long as its UNet.

On a machine that has other work to do, no bar can know how fast the rest will go: what is missed there is told, and shows
nothing (tests/busy.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from lab.install import NAME
from tests.busy import Watch

from .client import WebUI
from .conftest import host, toy_title
from .test_toy import FIELDS
from .tracing import Trace, trace

SHARE_OFF, LEFT_OFF = 0.05, 0.2


@pytest.fixture(scope="module")
def toy() -> Iterator[WebUI]:
    """The webui with the toy loaded, which has drawn with it before."""
    webui, title = host(), toy_title()
    if title is None:
        pytest.skip(f"the webui has no checkpoint {NAME}; name its folder in WEBUI_DIR to have it installed")
    before, titles = webui.options()["sd_model_checkpoint"], [model["title"] for model in webui.ask("sd-models")]
    webui.set_options(sd_model_checkpoint=title, show_progress_type="Approx cheap")
    for _ in range(2):
        webui.enlarge(FIELDS, preset="fine")
    yield webui
    webui.set_options(sd_model_checkpoint=before if before in titles else title)


def assert_right(traced: Trace, watch: Watch) -> None:
    print(traced.told(), f"others {watch.share()}")
    assert len(traced.after) > 20
    assert traced.falls <= 1e-6
    watch.hold(traced.share_off <= SHARE_OFF and traced.left_off <= LEFT_OFF, traced.told())


@pytest.mark.parametrize(
    ("settings", "fields"),
    [({"scale": 2}, {}), ({"scale": 3}, {}), ({"scale": 4}, {}), ({"scale": 2}, {"n_iter": 2}),
     ({"scale": 3, "preset": "none", "steps": 5}, {})],
    ids=["2x", "3x", "4x", "count 2", "method"],
)  # fmt: skip
def test_as_the_clock(toy: WebUI, settings: dict[str, object], fields: dict[str, object]) -> None:
    watch = Watch(urlsplit(toy.url).port)
    assert_right(trace(toy, {"preset": "fine", **settings}, **{**FIELDS, **fields}), watch)


def test_a_skipped_picture_of_two(toy: WebUI) -> None:
    """Judged from the press on: that it comes nobody can know before."""
    watch = Watch(urlsplit(toy.url).port)
    traced = trace(
        toy, {"preset": "fine", "scale": 3}, ("skip", lambda text: "phase 2" in text and "step 3" in text),
        **{**FIELDS, "n_iter": 2},
    )  # fmt: skip
    assert traced.pressed_s and traced.answer.sizes[0] != traced.answer.sizes[1]
    assert_right(traced, watch)
