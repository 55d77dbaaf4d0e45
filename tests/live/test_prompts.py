"""Prompts and guidance: what the host does with a prompt, every phase does.

Most are identities, true of any checkpoint. Those that ask for a difference need one that heeds its prompt.
"""

from __future__ import annotations

from typing import Any

import pytest

from .client import FAINT, ROUNDING, WebUI, apart, assert_drawn, mean_apart

RED, BLUE = "a red disc", "blue house"
LONG = ", ".join(["large house, small tree, green sky"] * 12)  # over 75 tokens: a second chunk of them
SIZE = (128, 128)


@pytest.mark.parametrize(
    ("sampler", "one", "other"),
    [
        ("Euler", f"{RED} AND {BLUE} :0", RED),
        ("Euler", f"{RED} :0.5 AND {RED} :0.5", RED),
        ("Euler", f"{RED} :0.7 AND {BLUE} :0.4", f"{BLUE} :0.4 AND {RED} :0.7"),
        ("DDIM", f"{RED} :0.7 AND {BLUE} :0.4", f"{BLUE} :0.4 AND {RED} :0.7"),
        ("Euler", f"[{RED}:{BLUE}:100]", RED),
        ("DDIM", f"[{RED}:{BLUE}:0]", BLUE),
    ],
)
def test_prompts_that_mean_the_same(webui: WebUI, sampler: str, one: str, other: str) -> None:
    fields = {"sampler_name": sampler}
    pictures = [webui.enlarge({**fields, "prompt": prompt}).picture for prompt in (one, other)]
    assert apart(*pictures) <= ROUNDING


@pytest.mark.parametrize(
    "prompt",
    [f"{RED} AND {BLUE} :0.8", f"{RED} AND {BLUE} AND sky :-0.5", f"[{RED}:{BLUE}:0.5]", f"[{RED}|{BLUE}]", LONG, f"{RED} BREAK {BLUE}"],
)  # fmt: skip
def test_prompts_draw(webui: WebUI, prompt: str) -> None:
    assert_drawn(webui.enlarge({"prompt": prompt}).picture, SIZE)


@pytest.mark.usefixtures("needs_response")
@pytest.mark.parametrize(
    "prompt", [BLUE, f"{RED} AND {BLUE} :0.8", f"[{RED}:{BLUE}:0.3]", f"{RED}, {LONG}", f"{RED} BREAK {BLUE}"]
)
def test_prompts_count(webui: WebUI, prompt: str) -> None:
    red, this = (webui.enlarge({"prompt": p, "steps": 4}).picture for p in (RED, prompt))
    assert mean_apart(this, red) > FAINT


def test_editing_begins_anew_in_each_phase(webui: WebUI) -> None:
    """An edit at the fifth step never comes in a base image and a phase of three steps each."""
    edited, plain = (webui.enlarge({"prompt": prompt}).picture for prompt in (f"[{RED}:{BLUE}:4]", RED))
    assert apart(edited, plain) <= ROUNDING


@pytest.mark.usefixtures("needs_response")
def test_editing_follows_the_phases_own_steps(webui: WebUI) -> None:
    """An edit at the fifth step comes in a phase of twelve, though the base image's three end before it."""
    edited, plain = (webui.enlarge({"prompt": prompt}, steps=12).picture for prompt in (f"[{RED}:{BLUE}:4]", RED))
    assert mean_apart(edited, plain) > FAINT


@pytest.mark.parametrize(
    ("prompt", "negative", "pad"),
    [
        (LONG, "bad", False),
        (RED, LONG, False),
        (RED, LONG, True),
        (LONG, f"{LONG}, {LONG}", False),
        (f"{LONG} AND {RED}", LONG, True),
    ],
)
def test_long_prompts(webui: WebUI, prompt: str, negative: str, pad: bool) -> None:
    """Cond and uncond of different length go through the model in two calls; both have to see the same windows."""
    fields = {"prompt": prompt, "negative_prompt": negative, "override_settings": {"pad_cond_uncond": pad}}
    assert_drawn(webui.enlarge(fields).picture, SIZE)


@pytest.mark.parametrize(
    ("sampler", "prompt"),
    [("Euler", f"{RED} AND {BLUE} :0.8"), ("DPM++ SDE", RED), ("DDIM", f"{LONG} AND {RED}")],
)
def test_one_call_or_several(webui: WebUI, sampler: str, prompt: str) -> None:
    """However the host groups the rows of a step, they see the same windows and jitter."""
    fields = {"sampler_name": sampler, "prompt": prompt, "batch_size": 2}
    together, apiece = (
        webui.enlarge({**fields, "override_settings": {"batch_cond_uncond": value}}) for value in (True, False)
    )
    for one, other in zip(together.pictures, apiece.pictures, strict=True):
        assert apart(one, other) <= ROUNDING


def test_window_batch_does_not_change_the_picture(webui: WebUI) -> None:
    pictures = [webui.enlarge(window_batch=batch).picture for batch in (1, 7, 64)]
    assert max(apart(pictures[0], picture) for picture in pictures[1:]) <= ROUNDING


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_cfg_1_needs_no_negative_prompt(webui: WebUI, sampler: str) -> None:
    fields = {"sampler_name": sampler, "cfg_scale": 1}
    pictures = [webui.enlarge({**fields, "negative_prompt": text}).picture for text in ("bad", LONG)]
    assert_drawn(pictures[0], SIZE)
    assert apart(*pictures) <= ROUNDING


@pytest.mark.usefixtures("needs_response")
def test_guidance_and_negative_prompts_count(webui: WebUI) -> None:
    plain = webui.enlarge().picture
    assert mean_apart(plain, webui.enlarge({"cfg_scale": 2}).picture) > 1
    assert mean_apart(plain, webui.enlarge({"negative_prompt": BLUE}).picture) > 1


SKIPPING: list[dict[str, Any]] = [
    {"s_min_uncond": 4},
    {"s_min_uncond": 4, "override_settings": {"s_min_uncond_all": True}},
    {"override_settings": {"s_min_uncond": 4}},
    {"override_settings": {"skip_early_cond": 0.5}},
]


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
@pytest.mark.parametrize("skipping", SKIPPING)
def test_steps_without_uncond(webui: WebUI, sampler: str, skipping: dict[str, Any]) -> None:
    """NGMS and "skip early CFG" drop the uncond rows in some steps."""
    fields = {**skipping, "sampler_name": sampler, "prompt": f"{RED} AND {BLUE} :0.8"}
    assert_drawn(webui.enlarge(fields).picture, SIZE)


@pytest.mark.once
@pytest.mark.usefixtures("needs_response")
@pytest.mark.parametrize("skipping", SKIPPING)
def test_steps_without_uncond_count(webui: WebUI, skipping: dict[str, Any]) -> None:
    if webui.draw(steps=4).picture.tobytes() == webui.draw(steps=4, **skipping).picture.tobytes():
        pytest.skip("the webui itself draws the same with it")
    assert mean_apart(webui.enlarge({"steps": 4}).picture, webui.enlarge({"steps": 4, **skipping}).picture) > FAINT


@pytest.mark.once
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_variation_seed(webui: WebUI, sampler: str) -> None:
    """At full strength the variation's seed is the seed, but for the jitter, which follows the image's own."""
    base = {"sampler_name": sampler, "seed": 30}
    varied = {**base, "subseed": 31}
    plain = webui.enlarge(base, jitter=False).picture
    half = webui.enlarge({**varied, "subseed_strength": 0.5}, jitter=False).picture
    full = webui.enlarge({**varied, "subseed_strength": 1}, jitter=False).picture
    other = webui.enlarge({**base, "seed": 31}, jitter=False).picture
    assert apart(full, other) <= ROUNDING
    assert mean_apart(plain, half) > 1 and mean_apart(half, full) > 1


@pytest.mark.once
def test_seed_resize(webui: WebUI) -> None:
    fields = {"seed_resize_from_w": 96, "seed_resize_from_h": 96}
    assert_drawn(webui.enlarge(fields).picture, SIZE)
