"""The page as a person uses it, in Chromium, against a running webui with a small checkpoint (see `make ui`)."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from demofusion_lib.params import SETTINGS
from demofusion_lib.webui.tabs import PICTURE_HELP

from .pages import choose, generate, number, open_groups, picture, prepare, tick


@pytest.mark.page
def test_every_setting_has_a_tooltip(page: Page) -> None:
    titles = page.evaluate(
        "() => [...document.querySelectorAll('[id^=demofusion_]')].filter(e => /^demofusion_[a-z0-9_]+$/.test(e.id))"
        ".map(e => [e.id, e.title || e.querySelector('.label-wrap')?.title])"
    )
    of_picture = {f"demofusion_img2img_{s.name}": PICTURE_HELP.get(s.name, s.help) for s in SETTINGS}
    assert dict(titles) == {s.elem_id: s.help for s in SETTINGS} | of_picture


def test_one_tick_draws_the_larger_image(page: Page) -> None:
    prepare(page)
    tick(page)
    generate(page)
    size = page.locator("#txt2img_gallery img").first.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [128, 128]


def test_reading_generation_parameters_brings_the_same_picture(page: Page) -> None:
    prepare(page)
    tick(page)
    open_groups(page)
    number(page, "demofusion_scale", "1.5")
    number(page, "demofusion_blur", "1.2")
    page.locator("#demofusion_jitter input").uncheck()
    generate(page)
    first, infotext = picture(page), page.locator("#html_info_txt2img").first.inner_text()
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector("#demofusion_scale[title]", state="attached")
    page.wait_for_timeout(2000)
    page.fill("#txt2img_prompt textarea", infotext)
    page.click("#paste")
    expect(page.locator("#demofusion_scale input[type=number]")).to_have_value("1.5")
    expect(page.locator("#demofusion_jitter input")).not_to_be_checked()
    expect(page.locator("#demofusion_enabled-visible-checkbox")).to_be_checked()
    generate(page)
    assert picture(page) == first


def fast(page: Page) -> None:
    prepare(page)
    tick(page)
    open_groups(page)
    number(page, "demofusion_blur", "1.2")
    choose(page, "demofusion_preset", "fast")


@pytest.mark.page
def test_a_preset_sets_what_it_says(page: Page) -> None:
    fast(page)
    expect(page.locator("#demofusion_start input[type=number]")).to_have_value("601")
    expect(page.locator("#demofusion_residual input[value=x0]")).to_be_checked()
    expect(page.locator("#demofusion_dilated input")).not_to_be_checked()
    expect(page.locator("#demofusion_blur input[type=number]")).to_have_value("1.2")  # no preset sets it


def test_what_is_changed_after_a_preset_counts(page: Page) -> None:
    """And a picture's infotext brings both back."""
    fast(page)
    generate(page)
    infotext = page.locator("#html_info_txt2img").first.inner_text()
    assert (
        "DemoFusion preset: fast" in infotext
        and "DemoFusion blur: 1.2" in infotext
        and "DemoFusion start" not in infotext
    )
    number(page, "demofusion_steps", "4")
    generate(page)
    infotext = page.locator("#html_info_txt2img").first.inner_text()
    assert "DemoFusion preset: fast" in infotext and "DemoFusion steps: 4" in infotext
    choose(page, "demofusion_preset", "none")
    expect(page.locator("#demofusion_start input[type=number]")).to_have_value("1000")
    page.fill("#txt2img_prompt textarea", infotext)
    page.click("#paste")
    expect(page.locator("#demofusion_start input[type=number]")).to_have_value("601")
    expect(page.locator("#demofusion_steps input[type=number]")).to_have_value("4")


def test_bad_setting_is_told_in_red(page: Page) -> None:
    prepare(page)
    tick(page)
    number(page, "demofusion_target_width", "16")
    number(page, "demofusion_target_height", "24")
    generate(page)
    error = page.locator("#html_log_txt2img .error")
    expect(error).to_contain_text("DemoFusion: not drawn")
    expect(error).to_contain_text("Target width is 16, allowed: 0, or 64 to 512 for this base image")
    expect(error).to_contain_text("Target height is 24")
    expect(page.locator("#txt2img_gallery img")).to_have_count(0)
    red, green, blue = error.evaluate("e => getComputedStyle(e).color.match(/\\d+/g).slice(0, 3).map(Number)")
    assert red > 2 * max(green, blue)


def test_takes_the_place_of_hires_fix(page: Page) -> None:
    prepare(page)
    tick(page)
    page.locator("#txt2img_hr-visible-checkbox").check()
    generate(page)
    expect(page.locator("#html_log_txt2img .comments")).to_contain_text("takes the place of Hires. fix")


def test_a_good_run_after_a_bad_one_is_not_red(page: Page) -> None:
    prepare(page)
    tick(page)
    number(page, "demofusion_target_width", "16")
    generate(page)
    expect(page.locator("#html_log_txt2img .error")).to_have_count(1)
    number(page, "demofusion_target_width", "0")
    generate(page)
    expect(page.locator("#html_log_txt2img .error")).to_have_count(0)
    expect(page.locator("#txt2img_gallery img").first).to_be_visible()


def test_one_press_of_interrupt_ends_a_single_picture(page: Page) -> None:
    """At default settings, with the host's own wish to end a picture first: there is only one."""
    prepare(page)
    tick(page)
    open_groups(page)
    number(page, "demofusion_steps", "150")
    page.click("#txt2img_generate")
    expect(page.locator("#txt2img_results .progress")).to_contain_text("DemoFusion phase 2 of 2", timeout=60_000)
    page.click("#txt2img_interrupt")
    expect(page.locator("#txt2img_generate")).to_be_visible(timeout=20_000)
    expect(page.locator("#html_log_txt2img .comments")).to_contain_text(
        "interrupted in phase 2 of 2; this is the image of phase 1", timeout=20_000
    )
    page.wait_for_timeout(1000)
    size = page.locator("#txt2img_gallery img").first.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert size == [64, 64]
