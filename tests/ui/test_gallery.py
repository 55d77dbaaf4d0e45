"""The button beside the gallery's own upscale button, against a running webui with a small checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from time import time_ns
from urllib.parse import urljoin
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from .pages import generate, number, picture, prepare, tick

BUTTON = "#txt2img_demofusion_upscale"
TOLD = "taken over from an earlier run"


def set_option(address: str, **values: object) -> None:
    request = Request(
        urljoin(address, "/sdapi/v1/options"), json.dumps(values).encode(), {"Content-Type": "application/json"}
    )
    urlopen(request).read()


@pytest.fixture
def held(address: str, page: Page) -> Iterator[Page]:
    set_option(address, demofusion_held_mb=64)
    yield page
    set_option(address, demofusion_held_mb=256)


def press(page: Page, button: str = BUTTON) -> str:
    """What is told below the gallery then."""
    page.locator(button).focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(1500)
    expect(page.locator("#txt2img_interrupt")).to_be_hidden(timeout=60_000)
    page.wait_for_timeout(1000)
    return page.locator("#html_log_txt2img").first.inner_text()


def thumbnails(page: Page) -> list[int]:
    """The widths of the pictures in the gallery's row."""
    return page.eval_on_selector_all(
        "#txt2img_gallery .thumbnail-item.thumbnail-small img", "images => images.map(image => image.naturalWidth)"
    )


def choose(page: Page, index: int) -> None:
    page.locator("#txt2img_gallery .thumbnail-item.thumbnail-small").nth(index).click()
    page.wait_for_timeout(1000)


def test_it_has_a_name_and_says_what_it_needs(page: Page) -> None:
    button = page.locator(BUTTON)
    title = button.get_attribute("title")
    assert title and title.startswith("Enlarge the selected picture") and button.get_attribute("aria-label") == title
    assert page.locator(f"#txt2img_upscale + {BUTTON}").count() == 1
    assert "there is no picture in the gallery" in press(page)


def test_twice_then_four_times_as_generate_draws_it(held: Page) -> None:
    page = held
    prepare(page)
    number(page, "txt2img_seed", str(time_ns() % 10**9))  # of which nothing is held yet
    generate(page)
    page.fill("#txt2img_prompt textarea", "something else")  # the picture's own counts
    assert f"phase 1 is {TOLD}" in press(page)
    tick(page)
    number(page, "demofusion_scale", "4")
    assert f"phases 1 to 2 are {TOLD}" in press(page)
    drawn = picture(page)
    assert thumbnails(page) == [256]
    page.fill("#txt2img_prompt textarea", "a red disc")
    page.locator("#demofusion_enabled-visible-checkbox").check()
    generate(page)
    assert picture(page) == drawn


def test_one_picture_of_a_batch_and_none_of_a_grid(held: Page) -> None:
    page = held
    prepare(page)
    number(page, "txt2img_batch_size", "2")
    generate(page)
    choose(page, 0)
    assert "a grid is selected" in press(page) and thumbnails(page) == [128, 64, 64]
    choose(page, 2)
    assert TOLD in press(page) and thumbnails(page) == [128, 64, 128]
    assert "Seed: 6" in page.locator("#html_info_txt2img").first.inner_text()


def test_without_a_latent_and_the_hosts_own_button(held: Page, address: str) -> None:
    page = held
    prepare(page)
    generate(page)
    set_option(address, demofusion_held_mb=0)
    assert "the picture itself goes through the VAE" in press(page)
    assert "DemoFusion: left out" not in press(page, "#txt2img_upscale") and thumbnails(page) == [128]
