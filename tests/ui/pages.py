"""What a person does on the page."""

from __future__ import annotations

from urllib.parse import urljoin
from urllib.request import urlopen

from playwright.sync_api import Page, expect

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip
"""Nothing from elsewhere is asked for: gradio's page would wait for fonts."""
GROUPS = ("phases", "method", "windows", "memory")


def visit(page: Page, query: str = "/") -> None:
    page.goto(query, wait_until="domcontentloaded")
    page.wait_for_function("typeof gradio_config !== 'undefined' && document.querySelector('#demofusion_scale[title]')")
    if not page.locator("body[data-ready]").count():
        page.wait_for_timeout(2000)  # the host goes on building the page for a while


def number(page: Page, element: str, value: str) -> None:
    field = page.locator(f"#{element} input[type=number]").first
    field.fill(value)
    field.press("Tab")


def prepare(page: Page) -> None:
    page.fill("#txt2img_prompt textarea", "a red disc")
    for element, value in {"width": "64", "height": "64", "steps": "4", "seed": "5"}.items():
        number(page, f"txt2img_{element}", value)


def tick(page: Page) -> None:
    page.locator("#demofusion_enabled .label-wrap").first.click()
    expect(page.locator("#demofusion_enabled-visible-checkbox")).to_be_checked()
    expect(page.locator("#demofusion_scale input[type=number]")).to_be_visible()


def generate(page: Page) -> None:
    page.click("#txt2img_generate")
    page.wait_for_timeout(1500)  # the page shows its Interrupt button from the click until the answer is there
    expect(page.locator("#txt2img_interrupt")).to_be_hidden(timeout=60_000)
    page.wait_for_timeout(1000)


def picture(page: Page) -> bytes:
    return urlopen(urljoin(page.url, page.locator("#txt2img_gallery img").first.get_attribute("src"))).read()


def open_groups(page: Page) -> None:
    for group in GROUPS:
        page.locator(f"#demofusion-{group} > .label-wrap").click()


def choose(page: Page, element: str, value: str) -> None:
    page.locator(f"#{element} input[value='{value}']").check()
