"""The VAE's tiles in the host: the host's own picture, in every kind of VAE; stops; live previews."""

from __future__ import annotations

import pytest

from .client import Drawing, WebUI, apart

SETTINGS = {"scale": 3, "steps": 3}


@pytest.mark.parametrize(
    "fields",
    [{}, {"batch_size": 2}, {"width": 104, "height": 56}, {"tiling": True}],
    ids=["plain", "batch", "wide", "seamless"],
)
def test_exact_is_the_hosts_own_decoder(webui: WebUI, fields: dict[str, object]) -> None:
    exact, own = (webui.enlarge(fields, **SETTINGS, vae=vae) for vae in ("exact", "host"))
    assert exact.sizes == own.sizes and "DemoFusion note" not in exact.infotexts[0]
    assert all(apart(one, other) <= 1 for one, other in zip(exact.pictures, own.pictures))
    assert all(apart(one, exact.pictures[0]) > 5 for one in exact.pictures[1:2])


def test_estimated_is_near_and_said(webui: WebUI) -> None:
    estimated, own = (webui.enlarge(**SETTINGS, vae=vae) for vae in ("estimated", "host"))
    assert "decoded by tiles with estimated statistics" in estimated.infotexts[0]
    assert 0 < apart(estimated.picture, own.picture) < 100


def test_kept_phases_go_through_it(webui: WebUI) -> None:
    exact, own = (webui.enlarge(**SETTINGS, keep_phases=True, vae=vae) for vae in ("exact", "host"))
    assert sorted(exact.sizes) == [(64, 64), (128, 128), (192, 192)]
    assert all(apart(one, other) <= 1 for one, other in zip(exact.pictures, own.pictures))


def shows_one(webui: WebUI) -> bool:
    """Of a picture of its own."""
    drawing, shown = Drawing(webui, {"enabled": False}, width=256, height=256, steps=60), False
    while not drawing.future.done() and not shown:
        shown = bool(webui.ask("progress")["current_image"])
    drawing.stop("interrupt")
    return shown


@pytest.mark.once
def test_live_previews_in_full_while_phases_are_drawn(webui: WebUI) -> None:
    """Each is decoded in the request that asks for it, beside the drawing, and changes nothing."""
    before = webui.options()
    plain = webui.enlarge(**SETTINGS)
    webui.set_options(show_progress_type="Full", show_progress_every_n_steps=1, live_previews_enable=True)
    try:
        if not shows_one(webui):
            pytest.skip(
                "the webui itself shows no previews of this kind: Forge has them by a model that it would fetch"
            )
        drawing = Drawing(webui, {"scale": 4, "steps": 8})
        drawing.wait_for(phase=4)
        previews = [webui.ask("progress")["current_image"] for _ in range(5)]
        drawing.future.result(600)
        assert any(previews)
        assert webui.enlarge(**SETTINGS).images == plain.images
    finally:
        names = ("show_progress_type", "show_progress_every_n_steps", "live_previews_enable")
        webui.set_options(**{name: int(v) if isinstance(v := before[name], float) else v for name in names})


@pytest.mark.once
def test_interrupt_answers_within_a_tile(webui: WebUI) -> None:
    """Pressed while the last picture is decoded: the phase before it is shown, in a fraction of the decode's time."""
    settings = {"scale": 8, "plan": "doubling", "steps": 1, "dilated": False, "overlap": 0, "window_batch": 64}
    fields = {"width": 256, "height": 256, "steps": 1}
    drawing = Drawing(webui, settings, **fields)
    began = False
    while not drawing.future.done():
        if (webui.progress()["textinfo"] or "").startswith("DemoFusion: decoding 2048x2048"):
            began = True
            break
    assert began, "the decode was over before it was seen"
    answer, seconds = drawing.stop("interrupt")
    assert answer.sizes == [(1024, 1024)]
    assert "interrupted while decoding phase 4 of 4" in answer.infotexts[0]
