"""The accordion: its levels, what it says while somebody types, and whether everybody can use it."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import axe_playwright_python
import pytest
from playwright.sync_api import Page, expect

from demofusion_lib.params import SETTINGS
from tests.busy import Watch

from .pages import generate, number, open_groups, prepare, reached_by_keyboard, tick, visit

AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
LINE = "#demofusion_enabled .demofusion-line"

TIMED = """([selector, value]) => new Promise((done) => {
    const field = document.querySelector(selector), line = document.querySelector("#demofusion_enabled .demofusion-line");
    const begun = performance.now();
    const observer = new MutationObserver(() => { observer.disconnect(); done(performance.now() - begun); });
    observer.observe(line, {childList: true, subtree: true, characterData: true});
    field.value = value;
    field.dispatchEvent(new Event("input", {bubbles: true}));
    setTimeout(() => done(-1), 5000);
})"""


def line(page: Page) -> str:
    return page.locator(LINE).inner_text()


def small(page: Page) -> None:
    prepare(page)
    tick(page)
    expect(page.locator(LINE)).to_contain_text("64x64 -> 128x128")


def unseen(page: Page) -> set[str]:
    """Settings that have nothing to say with an SD 1, or in a webui whose schedules are part of samplers' names."""
    return {"sdxl_size"} if page.locator("#txt2img_scheduler").count() else {"sdxl_size", "phase_scheduler"}


@pytest.mark.page
def test_levels(page: Page) -> None:
    """First what everybody sets, in the issue's order; every setting once, wherever."""
    tick(page)
    there = page.evaluate("() => [...document.querySelectorAll('[id^=demofusion_]')].map(e => e.id)")
    assert all(there.count(s.elem_id) == 1 for s in SETTINGS)
    inside = "#demofusion_enabled [id^=demofusion_]"
    shown = page.evaluate(
        f"() => [...document.querySelectorAll('{inside}')].filter(e => e.getClientRects().length).map(e => e.id)"
    )
    seen = [name for name in shown if "-" not in name]
    assert seen == [f"demofusion_{n}" for n in ("preset", "scale", "target_width", "target_height", "keep_phases")]
    open_groups(page)
    for setting in SETTINGS[1:]:
        if setting.name not in unseen(page):
            expect(page.locator(f"#{setting.elem_id}")).to_be_visible()


@pytest.mark.page
@pytest.mark.parametrize(
    ("selector", "value", "other", "expected"),
    [
        ("#demofusion_scale input[type=number]", "3", "2", "64x64 -> 128x128 -> 192x192"),
        ("#txt2img_width input[type=number]", "128", "64", "128x64 -> 256x128"),
        ("#txt2img_steps input[type=number]", "9", "4", "evaluations"),
        ("#txt2img_batch_count input[type=number]", "3", "1", "for 3 images"),
        ("#demofusion_overlap input[type=number]", "0.9", "0.5", "evaluations"),
        ("#demofusion_target_width input[type=number]", "192", "128", "192x192"),
    ],
)
def test_the_line_follows_within_150_ms(
    page: Page, address: str, selector: str, value: str, other: str, expected: str
) -> None:
    """Also what stands in accordions that are closed."""
    small(page)
    before = line(page)
    page.evaluate(TIMED, [selector, value])  # the first one warms the host's imports up
    expect(page.locator(LINE)).to_contain_text(expected)
    assert line(page) != before
    watch, took = Watch(urlsplit(address).port), []
    for typed in (other, value, other, value, other):
        took.append(page.evaluate(TIMED, [selector, typed]))
        page.wait_for_timeout(100)
    assert min(took) > 0
    print(f"{selector}: {', '.join(f'{ms:.0f}' for ms in took)} ms, others {watch.share()}")
    watch.hold(median(took) < 150, f"{median(took):.0f} ms")


@pytest.mark.page
def test_nothing_is_asked_with_the_box_unticked(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    prepare(page)
    page.wait_for_timeout(800)
    asked.clear()
    page.locator("#txt2img_steps input[type=number]").fill("7")
    page.wait_for_timeout(800)
    assert not [url for url in asked if "predict" in url]
    tick(page)
    expect(page.locator(LINE)).to_contain_text("evaluations")
    page.locator("#demofusion_enabled .label-wrap").first.click()
    page.wait_for_timeout(500)
    assert line(page) == ""


@pytest.mark.page
def test_a_number_out_of_range_stays_and_is_said(page: Page) -> None:
    small(page)
    open_groups(page)
    field = page.locator("#demofusion_overlap input[type=number]")
    field.fill("99")
    mistake = page.locator("#demofusion_overlap .demofusion-mistake")
    expect(mistake).to_have_text("Window overlap is 99, allowed: 0 to 0.9 (the nearest is 0.9)")
    field.press("Tab")
    page.wait_for_timeout(300)
    expect(field).to_have_value("99")
    assert field.get_attribute("aria-describedby") == mistake.get_attribute("id")
    number(page, "demofusion_target_width", "1001")
    expect(page.locator("#demofusion_target_width .demofusion-mistake")).to_contain_text(
        "64 to 512 for this base image, multiples of 8 (the nearest is 512)"
    )
    number(page, "demofusion_scale", "")
    expect(page.locator("#demofusion_scale .demofusion-mistake")).to_contain_text("Scale is empty, allowed: 1 to 8")
    for element, value in {"overlap": "0.5", "target_width": "0", "scale": "2"}.items():
        number(page, f"demofusion_{element}", value)
    expect(page.locator(".demofusion-mistake")).to_have_count(0)
    expect(page.locator(LINE)).to_contain_text("64x64 -> 128x128")


def test_a_number_out_of_range_is_refused(page: Page) -> None:
    small(page)
    open_groups(page)
    number(page, "demofusion_overlap", "99")
    generate(page)
    expect(page.locator("#html_log_txt2img .error")).to_contain_text("overlap is 99")


@pytest.mark.page
def test_a_mistake_in_a_closed_accordion_is_said_under_the_scale(page: Page) -> None:
    small(page)
    page.evaluate(TIMED, ["#demofusion_blur input[type=number]", "77"])
    expect(page.locator(f"{LINE} .wrong")).to_contain_text("Blur is 77, allowed: 0 to 5")


@pytest.mark.page
def test_what_will_be_otherwise_is_said(page: Page) -> None:
    small(page)
    number(page, "demofusion_scale", "1")
    expect(page.locator(LINE)).to_contain_text("nothing will be done")
    number(page, "demofusion_scale", "2")
    page.locator("#txt2img_hr-visible-checkbox").check()
    expect(page.locator(LINE)).to_contain_text("Hires. fix")
    number(page, "demofusion_target_width", "128")
    number(page, "demofusion_target_height", "192")
    expect(page.locator(LINE)).to_contain_text("cropped")
    expect(page.locator("#demofusion_scale")).to_have_class(re.compile("demofusion-dim"))
    expect(page.locator(f"{LINE} .figures.amber")).to_have_count(1)  # 64 px is far from what any model is made for


@pytest.mark.page
def test_switch_and_lock(page: Page) -> None:
    tick(page)
    number(page, "txt2img_width", "512")
    number(page, "txt2img_height", "768")
    lock = page.locator("#demofusion-target-lock")
    lock.click()
    expect(lock).to_have_attribute("aria-pressed", "true")
    page.locator("#demofusion_target_width input[type=number]").press_sequentially("1024")
    number(page, "demofusion_target_width", "1024")
    expect(page.locator("#demofusion_target_height input[type=number]")).to_have_value("1536")
    page.click("#demofusion-target-switch")
    expect(page.locator("#demofusion_target_width input[type=number]")).to_have_value("1536")
    expect(page.locator("#demofusion_target_height input[type=number]")).to_have_value("1024")
    number(page, "demofusion_target_width", "3072")
    expect(page.locator("#demofusion_target_height input[type=number]")).to_have_value("2048")
    lock.click()
    number(page, "demofusion_target_width", "1536")
    expect(page.locator("#demofusion_target_height input[type=number]")).to_have_value("2048")


@pytest.mark.page
def test_keyboard_alone(page: Page) -> None:
    reached = reached_by_keyboard(page, "demofusion_", "demofusion-")
    expected = {s.elem_id for s in SETTINGS[1:] if s.name not in unseen(page)}
    assert expected <= set(reached), expected - set(reached)
    assert {"demofusion-target-switch", "demofusion-target-lock"} <= set(reached)


@pytest.mark.page
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 500])
def test_no_serious_violation_and_no_overflow(page: Page, theme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1300})
    visit(page, f"?__theme={theme}")
    tick(page)
    open_groups(page)
    number(page, "demofusion_overlap", "99")
    number(page, "demofusion_target_width", "1001")
    page.locator("#demofusion_blur input[type=number]").fill("77")
    expect(page.locator(".demofusion-mistake")).to_have_count(3)
    page.add_script_tag(path=AXE)
    found = page.evaluate("() => axe.run('#demofusion_enabled', {resultTypes: ['violations']})")["violations"]
    serious = {v["id"]: [n["html"] for n in v["nodes"]] for v in found if v["impact"] in ("serious", "critical")}
    if page.evaluate("gradio_config.version").startswith("4."):
        # every accordion with a box of that webui is a button with a box in it, as its gradio makes buttons of accordions
        serious = {
            k: v for k, v in serious.items() if k != "nested-interactive" or any("label-wrap" not in n for n in v)
        }
    assert not serious
    over = page.evaluate(
        "() => { const a = document.querySelector('#demofusion_enabled'), right = a.getBoundingClientRect().right + 1;"
        "return [...a.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > right).map(e => e.outerHTML.slice(0, 99)) }"
    )
    assert not over


def test_the_line_follows_while_a_picture_is_drawn(page: Page) -> None:
    small(page)
    open_groups(page)
    number(page, "demofusion_steps", "150")
    page.click("#txt2img_generate")
    page.wait_for_timeout(1500)
    page.locator("#demofusion_scale input[type=number]").fill("3")
    expect(page.locator(LINE)).to_contain_text("192x192", timeout=2000)
    expect(page.locator("#txt2img_interrupt")).to_be_visible()
    page.click("#txt2img_interrupt")
    expect(page.locator("#txt2img_interrupt")).to_be_hidden(timeout=60_000)
