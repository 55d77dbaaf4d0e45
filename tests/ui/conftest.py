"""Chromium, and a page in it: with WEBUI_URL that of a running webui, else the double's (`double.py`), in which the tests run
that are marked `page`: they need nothing but our part of it.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser import found, why_not
from .double import TOLD

HERE = Path(__file__).parent
WEBUI_URL = os.environ.get("WEBUI_URL")
MISSING = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
WHY_NOT = (
    f"pip install --no-deps -r tests/ui/requirements.txt: no {MISSING[0]}" if MISSING else "" if found() else why_not()
)
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "page: needs no webui, only the accordion in a page like its")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if WEBUI_URL:
        return
    left_out = [item for item in items if HERE in item.path.parents and not item.get_closest_marker("page")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if WHY_NOT:
        terminalreporter.write_line(f"tests/ui: the page was NOT looked at: {WHY_NOT}", red=True, bold=True)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    if WEBUI_URL:
        yield WEBUI_URL
        return
    double = subprocess.Popen([sys.executable, "-m", "tests.ui.double"], stdout=subprocess.PIPE, text=True)
    try:
        assert double.stdout is not None
        port = next(line for line in double.stdout if line.startswith(TOLD))[len(TOLD) :].strip()
        yield f"http://127.0.0.1:{port}"
    finally:
        double.terminate()
        double.wait()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    from playwright.sync_api import sync_playwright

    from .pages import QUIET

    chromium = found()
    assert chromium is not None
    with sync_playwright() as driver:
        launched = driver.chromium.launch(
            executable_path=chromium.path, args=QUIET, env={**os.environ, **chromium.env}
        )  # fmt: skip
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    from .pages import visit

    page = browser.new_page(viewport={"width": 1400, "height": 1300}, base_url=address)
    visit(page)
    yield page
    page.close()
