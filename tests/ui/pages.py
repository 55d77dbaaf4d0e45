"""What a person does on the page."""

from __future__ import annotations

import io
import re
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Page, expect

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]  # fmt: skip
"""Nothing from elsewhere is asked for: gradio's page would wait for fonts."""
GROUPS = ("phases", "method", "windows", "memory")


def visit(page: Page, query: str = "/") -> None:
    page.goto(query, wait_until="domcontentloaded")
    page.wait_for_function(
        "typeof gradio_config !== 'undefined' && document.querySelector('#demofusion_scale[title]')", timeout=120_000
    )
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


def tick(page: Page, prefix: str = "demofusion_") -> None:
    """prefix: of the accordion's element ids."""
    page.locator(f"#{prefix}enabled .label-wrap").first.click()
    expect(page.locator(f"#{prefix}enabled-visible-checkbox")).to_be_checked()
    expect(page.locator(f"#{prefix}scale input[type=number]")).to_be_visible()


def generate(page: Page, tab: str = "txt2img") -> None:
    page.click(f"#{tab}_generate")
    page.wait_for_timeout(1500)  # the page shows its Interrupt button from the click until the answer is there
    expect(page.locator(f"#{tab}_interrupt")).to_be_hidden(timeout=60_000)
    page.wait_for_timeout(1000)


def picture(page: Page, tab: str = "txt2img") -> bytes:
    return urlopen(urljoin(page.url, page.locator(f"#{tab}_gallery img").first.get_attribute("src"))).read()


def open_groups(page: Page, prefix: str = "demofusion-") -> None:
    for group in GROUPS:
        page.locator(f"#{prefix}{group} > .label-wrap").click()


def choose(page: Page, element: str, value: str) -> None:
    page.locator(f"#{element} input[value='{value}']").check()


def go_to(page: Page, tab: str) -> None:
    """tab: as its button is called."""
    page.locator("#tabs > .tab-nav button", has_text=re.compile(f"^ *{tab} *$")).click()


def png(width: int, height: int, infotext: str = "") -> dict[str, Any]:
    """A file as somebody chooses it: of one colour, with what a picture of the webui says of itself."""
    file, told = io.BytesIO(), PngInfo()
    if infotext:
        told.add_text("parameters", infotext)
    Image.new("RGB", (width, height), (40, 120, 160)).save(file, "PNG", pnginfo=told)
    return {"name": f"{width}x{height}.png", "mimeType": "image/png", "buffer": file.getvalue()}


def give(page: Page, element: str, file: dict[str, Any]) -> None:
    page.locator(f"#{element} input[type=file]").first.set_input_files([file])


def reached_by_keyboard(page: Page, ours: str, parts: str) -> list[str]:
    """Ticks the box of an accordion, opens it with all of its parts and goes through them. ours, parts: what the element ids of
    its settings and of its other parts begin with. The ids of what was reached, in order."""
    box = page.locator(f"#{ours}enabled-visible-checkbox")
    box.focus()
    page.keyboard.press("Space")
    expect(box).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(f"#{ours}preset")).to_be_visible()
    expect(box).to_be_checked()
    reached: list[str] = []
    for _ in range(90):
        page.keyboard.press("Tab")
        element = page.evaluate(
            "() => { const a = document.activeElement, b = a.closest('[id^=demofusion]'); return b ? [b.id, a.className] : [a === document.body ? '-' : '', ''] }"
        )
        if element[0] == "-":  # the list of a dropdown that scrolls, which the focus has closed; it goes on from there
            continue
        if not element[0]:
            break
        reached.append(element[0])
        if element[0].removeprefix(parts) in GROUPS and "label-wrap" in element[1]:
            page.keyboard.press("Enter")
    return reached
