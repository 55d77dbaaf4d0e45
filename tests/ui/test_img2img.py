"""The accordion in the img2img tab: it follows the picture, and what holds of the other one holds of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from demofusion_lib.params import SETTINGS

from .pages import generate, give, go_to, number, open_groups, png, prepare, reached_by_keyboard, tick, visit
from .test_accordion import AXE

OURS, PARTS = "demofusion_img2img_", "demofusion-img2img-"
ACCORDION = f"#{OURS}enabled"
LINE = f"{ACCORDION} .demofusion-line"
TABS = "#mode_img2img > .tab-nav button"
PLACES = (
    "img2img_image", "img2img_sketch", "img2maskimg", "inpaint_sketch", "img_inpaint_base",
)  # fmt: skip
"""Of the picture in each of the tabs over it."""
WAIT = 15_000


@pytest.fixture
def page(page: Page) -> Page:
    go_to(page, "img2img")
    return page


@pytest.fixture
def asked(page: Page) -> Iterator[list[str]]:
    """What the page sends meanwhile, to ask for a line."""
    bodies: list[str] = []
    page.on("request", lambda request: bodies.append(request.post_data or "") if "predict" in request.url else None)
    yield bodies


def says(page: Page, text: str) -> None:
    expect(page.locator(LINE)).to_contain_text(text, timeout=WAIT)


def drawn(page: Page) -> None:
    """Everything in the tab that a small picture is drawn with."""
    page.fill("#img2img_prompt textarea", "a red disc")
    for element, value in {"width": "64", "height": "64", "steps": "4", "seed": "5"}.items():
        number(page, f"img2img_{element}", value)


def small(page: Page) -> None:
    drawn(page)
    give(page, PLACES[0], png(96, 64))
    tick(page, OURS)
    says(page, "96x64 -> ")


def test_levels(page: Page) -> None:
    """As in txt2img."""
    tick(page, OURS)
    there = page.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert all(there.count(f"{OURS}{s.name}") == there.count(s.elem_id) == 1 for s in SETTINGS)
    assert len([name for name in there if name.startswith("demofusion")]) == len(
        {name for name in there if name.startswith("demofusion")}
    )
    shown = page.evaluate(
        f"() => [...document.querySelectorAll('{ACCORDION} [id^={OURS}]')].filter(e => e.getClientRects().length).map(e => e.id)"
    )
    seen = [name for name in shown if "-" not in name]
    assert seen == [f"{OURS}{n}" for n in ("preset", "scale", "target_width", "target_height", "keep_phases")]
    open_groups(page, PARTS)
    for setting in SETTINGS[1:]:
        if setting.name != "sdxl_size":
            expect(page.locator(f"#{OURS}{setting.name}")).to_be_visible()


@pytest.mark.page
def test_the_line_follows_the_picture_of_the_open_tab(page: Page, asked: list[str]) -> None:
    """And none is sent for it."""
    tick(page, OURS)
    says(page, "no picture yet")
    give(page, PLACES[0], png(512, 384))
    says(page, "512x384 -> 1024x768")
    for i, (place, width) in enumerate(list(zip(PLACES, (0, 520, 528, 536, 544)))[1:], start=1):
        page.locator(TABS).nth(i).click()
        says(page, "no picture yet")
        give(page, place, png(width, 400))
        says(page, f"{width}x400 -> {2 * width}x800")
    page.locator(TABS).nth(5).click()
    says(page, "each of the folder's pictures to 2x its own size")
    page.locator(TABS).nth(1).click()
    says(page, "520x400 -> ")
    page.locator(TABS).nth(0).click()
    says(page, "512x384 -> ")
    page.locator(f"#{PLACES[0]} button[aria-label='Clear'], #{PLACES[0]} button[title='Clear']").first.click()
    says(page, "no picture yet")
    lines = [body for body in asked if '"tab"' in body]
    assert lines and all("data:image" not in body and len(body) < 5000 for body in lines)
    assert {tuple(json.loads(body)["data"][-1]["size"] or ()) for body in lines} >= {(), (512, 384), (544, 400)}


@pytest.mark.page
def test_the_line_follows_the_tabs_own_fields(page: Page) -> None:
    tick(page, OURS)
    give(page, PLACES[0], png(512, 384))
    says(page, "512x384 -> 1024x768")
    number(page, f"{OURS}scale", "1")
    number(page, "img2img_width", "768")
    number(page, "img2img_height", "576")
    says(page, "512x384 -> 768x576")
    number(page, "img2img_width", "512")
    number(page, "img2img_height", "384")
    says(page, "no larger than the picture")
    page.locator("#img2img_tabs_resize > .tab-nav button").nth(1).click()
    number(page, "img2img_scale", "1.25")
    says(page, "512x384 -> 640x480")
    number(page, f"{OURS}scale", "2")
    says(page, "512x384 -> 1024x768")
    number(page, "img2img_denoising_strength", "0")
    says(page, "strength is 0")
    expect(page.locator(f"{LINE} .figures")).to_have_text("512x384 -> 1024x768")
    number(page, "img2img_denoising_strength", "0.4")
    says(page, "evaluations")
    number(page, "img2img_batch_count", "3")
    says(page, "for 3 images")
    for side in ("width", "height"):
        number(page, f"{OURS}target_{side}", "1024")
    says(page, "stretched from 512x384")
    expect(page.locator(f"#{OURS}scale")).to_have_class(re.compile("demofusion-dim"))
    expect(page.locator("#demofusion_scale")).not_to_have_class(re.compile("demofusion-dim"))
    page.locator("#resize_mode input").nth(1).check()
    says(page, "cropped from 512x384")
    page.locator("#resize_mode input").nth(2).check()
    says(page, "filled up from 512x384")


def test_nothing_is_asked_with_the_box_unticked(page: Page, asked: list[str]) -> None:
    give(page, PLACES[0], png(512, 384))
    page.wait_for_timeout(2000)
    assert not [body for body in asked if '"tab"' in body]


@pytest.mark.page
def test_mistakes_stand_beside_their_fields_in_this_tab_alone(page: Page) -> None:
    give(page, PLACES[0], png(96, 64))
    tick(page, OURS)
    open_groups(page, PARTS)
    field = page.locator(f"#{OURS}overlap input[type=number]")
    field.fill("99")
    mistake = page.locator(f"#{OURS}overlap .demofusion-mistake")
    expect(mistake).to_have_text("Window overlap is 99, allowed: 0 to 0.9 (the nearest is 0.9)", timeout=WAIT)
    field.press("Tab")
    expect(field).to_have_value("99")
    assert field.get_attribute("aria-describedby") == mistake.get_attribute("id")
    expect(page.locator(".demofusion-mistake")).to_have_count(1)
    number(page, f"{OURS}target_width", "8")
    expect(page.locator(f"#{OURS}target_width .demofusion-mistake")).to_contain_text("allowed", timeout=WAIT)
    for name, value in {"overlap": "0.5", "target_width": "0"}.items():
        number(page, f"{OURS}{name}", value)
    expect(page.locator(".demofusion-mistake")).to_have_count(0, timeout=WAIT)


def test_what_a_run_is_refused_for_looks_like_an_error(page: Page) -> None:
    small(page)
    page.locator(f"#{PARTS}windows > .label-wrap").click()
    number(page, f"{OURS}overlap", "99")
    generate(page, "img2img")
    expect(page.locator("#html_log_img2img .error")).to_contain_text("overlap is 99")


@pytest.mark.page
def test_switch_and_lock_keep_the_pictures_shape(page: Page) -> None:
    give(page, PLACES[0], png(512, 768))
    tick(page, OURS)
    lock = page.locator(f"#{PARTS}target-lock")
    width, height = (page.locator(f"#{OURS}target_{side} input[type=number]") for side in ("width", "height"))
    says(page, "512x768")
    lock.click()
    expect(lock).to_have_attribute("aria-pressed", "true")
    width.press_sequentially("1024")
    number(page, f"{OURS}target_width", "1024")
    expect(height).to_have_value("1536")
    page.click(f"#{PARTS}target-switch")
    expect(width).to_have_value("1536")
    expect(height).to_have_value("1024")
    expect(page.locator("#demofusion_target_width input[type=number]")).to_have_value("0")


def test_keyboard_alone(page: Page) -> None:
    reached = reached_by_keyboard(page, OURS, PARTS)
    expected = {f"{OURS}{s.name}" for s in SETTINGS[1:] if s.name != "sdxl_size"}
    assert expected <= set(reached), expected - set(reached)
    assert {f"{PARTS}target-switch", f"{PARTS}target-lock"} <= set(reached)


@pytest.mark.parametrize(
    ("width", "theme"),
    [(1400, "light"), (1400, "dark"), (500, "light"), pytest.param(500, "dark", marks=pytest.mark.page)],
)
def test_no_serious_violation_and_no_overflow(page: Page, theme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1300})
    visit(page, f"?__theme={theme}")
    go_to(page, "img2img")
    give(page, PLACES[0], png(1000, 800))
    tick(page, OURS)
    open_groups(page, PARTS)
    says(page, "above the model's size")
    number(page, f"{OURS}overlap", "99")
    number(page, f"{OURS}target_width", "1001")
    expect(page.locator(".demofusion-mistake")).to_have_count(2, timeout=WAIT)
    page.add_script_tag(path=AXE)
    found = page.evaluate(f"() => axe.run('{ACCORDION}', {{resultTypes: ['violations']}})")["violations"]
    serious = [(v["id"], [n["html"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]
    assert not serious
    over = page.evaluate(
        f"() => {{ const a = document.querySelector('{ACCORDION}'), right = a.getBoundingClientRect().right + 1;"
        "return [...a.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > right).map(e => e.outerHTML.slice(0, 99)) }"
    )
    assert not over


# What is sent from elsewhere, and pasted

FROM_PROMPT = (
    "a red disc\nSteps: 4, Sampler: Euler, Schedule type: Automatic, CFG scale: 7, Seed: 5, Size: 64x64, "
    "DemoFusion enabled: True, DemoFusion scale: 3, DemoFusion preset: fast"
)
FROM_PICTURE = FROM_PROMPT.replace("Size: 64x64,", "Size: 96x64, Denoising strength: 0.4,")


def is_on(page: Page, prefix: str) -> bool:
    return page.locator(f"#{prefix}enabled-checkbox input").is_checked()


def paste(page: Page, tab: str, infotext: str) -> None:
    page.fill(f"#{tab}_prompt textarea", infotext)
    page.locator("#paste:visible").click()
    expect(page.locator(f"#{tab}_prompt textarea")).to_have_value("a red disc", timeout=WAIT)
    page.wait_for_timeout(1000)


def test_a_picture_of_txt2img_is_sent_and_not_enlarged_again(page: Page) -> None:
    """Where somebody has switched it on, it stays on and its line is of what was sent."""
    go_to(page, "txt2img")
    prepare(page)
    tick(page)
    generate(page)
    page.click("#txt2img_send_to_img2img")
    image = page.locator(f"#{PLACES[0]} img")
    expect(image).to_be_visible(timeout=WAIT)
    assert image.evaluate("i => [i.naturalWidth, i.naturalHeight]") == [128, 128]
    page.wait_for_timeout(1000)
    assert not is_on(page, OURS)
    tick(page, OURS)
    says(page, "128x128 -> 256x256")
    go_to(page, "txt2img")
    number(page, "demofusion_scale", "1.5")
    generate(page)
    page.click("#txt2img_send_to_inpaint")
    expect(page.locator(f"#{PLACES[2]} img").first).to_be_attached(timeout=WAIT)
    page.wait_for_timeout(1000)
    assert is_on(page, OURS)
    expect(page.locator(f"#{OURS}scale input[type=number]")).to_have_value("2")
    expect(page.locator(LINE)).not_to_contain_text("128x128", timeout=WAIT)
    page.locator(TABS).nth(0).click()
    says(page, "128x128 -> 256x256")


def test_a_picture_of_png_info_is_sent(page: Page) -> None:
    for infotext, on in ((FROM_PROMPT, False), (FROM_PICTURE, True)):
        go_to(page, "PNG Info")
        if page.locator("#pnginfo_image img").count():
            page.locator(
                "#pnginfo_image button[aria-label='Clear'], #pnginfo_image button[title='Clear']"
            ).first.click()
        give(page, "pnginfo_image", png(192, 128, infotext))
        expect(page.locator("#tab_pnginfo")).to_contain_text("DemoFusion scale: 3", timeout=WAIT)
        page.locator("#tab_pnginfo #img2img_tab").click()
        expect(page.locator(f"#{PLACES[0]} img")).to_be_visible(timeout=WAIT)
        page.wait_for_timeout(2000)
        assert is_on(page, OURS) is on and not is_on(page, "demofusion_")
    says(page, "192x128 -> 576x384")


def test_a_picture_of_extras_is_sent(page: Page) -> None:
    tick(page, OURS)
    go_to(page, "Extras")
    give(page, "extras_image", png(80, 64))
    expect(page.locator("#extras_image img")).to_be_visible(timeout=WAIT)
    page.click("#extras_generate")
    expect(page.locator("#extras_gallery img").first).to_be_visible(timeout=60_000)
    size = page.locator("#extras_gallery img").first.evaluate("i => [i.naturalWidth, i.naturalHeight]")
    page.locator("#tab_extras #img2img_tab, #extras_send_to_img2img").first.click()
    says(page, f"{size[0]}x{size[1]} -> ")


def test_what_an_infotext_switches_on(page: Page) -> None:
    paste(page, "img2img", FROM_PROMPT)
    assert not is_on(page, OURS)
    paste(page, "img2img", FROM_PICTURE)
    assert is_on(page, OURS) and not is_on(page, "demofusion_")
    expect(page.locator(f"#{OURS}scale input[type=number]")).to_have_value("3")
    expect(page.locator(f"#{OURS}preset input[value=fast]")).to_be_checked()
    expect(page.locator("#img2img_denoising_strength input[type=number]")).to_have_value("0.4")
    go_to(page, "txt2img")
    paste(page, "txt2img", FROM_PICTURE)
    assert not is_on(page, "demofusion_")
    paste(page, "txt2img", FROM_PROMPT)
    assert is_on(page, "demofusion_")


def test_the_same_picture_again_from_its_infotext(page: Page) -> None:
    small(page)
    number(page, "img2img_denoising_strength", "0.6")
    generate(page, "img2img")
    image = page.locator("#img2img_gallery img").first
    assert image.evaluate("i => [i.naturalWidth, i.naturalHeight]") == [192, 128]
    infotext = page.locator("#html_info_img2img").first.inner_text()
    assert "DemoFusion enabled: True" in infotext and "Denoising strength: 0.6" in infotext
    visit(page)
    go_to(page, "img2img")
    give(page, PLACES[0], png(96, 64))
    page.fill("#img2img_prompt textarea", infotext)
    page.locator("#paste:visible").click()
    says(page, "96x64 -> ")
    generate(page, "img2img")
    assert page.locator("#html_info_img2img").first.inner_text() == infotext
