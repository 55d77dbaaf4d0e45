"""What the webui reads of an extension before it loads it: `install.py`, `metadata.ini`, and the entry for its index."""

from __future__ import annotations

import ast
import configparser
import datetime
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TAGS = {
    "script", "localization", "tab", "dropdown", "ads", "training", "models", "UI related", "prompting", "editing",
    "manipulations", "online", "animation", "query", "science", "extras",
}  # fmt: skip
"""Of the index's `extension_template.json`."""
TAKEN = {"DemoFusion"}
"""In the index since 2024-04-03: https://github.com/sebaxakerhtc/sd-webui-demofusion."""


@pytest.fixture(scope="module")
def install() -> Any:
    spec = importlib.util.spec_from_file_location("demofusion_install", ROOT / "install.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder: Path) -> str:
    """As the webui does: its own folder first on the path, and what is printed goes to the console."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}elsewhere"}
    command = [sys.executable, str(ROOT / "install.py")]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("## 1.10.1\n\n### Bug Fixes:\n\n## 1.10.0\n", ""),
        ("## 1.9.4\n\n## 1.9.3\n", "DemoFusion needs the webui 1.10 or newer, and this is 1.9.4.\n"),
        ("## 1.11.0-RC\n", ""),
        ("## 2.0\n", ""),
        ("nothing", ""),
        ("## Unreleased\n## 1.2.3", ""),
    ],
)
def test_a_webui_that_is_too_old_is_told_of_in_one_line(tmp_path: Path, log: str, told: str) -> None:
    (tmp_path / "CHANGELOG.md").write_text(log)
    assert run(tmp_path) == told


def test_a_folder_without_a_log(tmp_path: Path) -> None:
    assert run(tmp_path) == ""


def test_a_python_that_is_too_old(install: Any) -> None:
    assert install.too_old((3, 9, 13), (1, 10, 1)) == "DemoFusion needs Python 3.10 or newer, and this is 3.9.13."
    both = install.too_old((3, 9, 13), (1, 8, 0))
    assert both.count("\n") == 0 and "3.9.13; the webui 1.10 or newer" in both
    assert install.too_old((3, 12, 1), None) == ""


def test_an_old_python_can_read_it() -> None:
    """Or it would say something else; and it imports nothing that takes time at every start."""
    tree = ast.parse((ROOT / "install.py").read_text(), feature_version=(3, 7))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported == {"os", "sys"} and not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]


def test_python_is_the_packages_own(install: Any) -> None:
    project = (ROOT / "pyproject.toml").read_text()
    (wanted,) = re.findall(r'requires-python = ">=([\d.]+)"', project)
    assert install.text(install.PYTHON) == wanted


def test_metadata() -> None:
    """In the webui's own way of reading: sections by their exact names."""
    config = configparser.ConfigParser()
    assert config.read(ROOT / "metadata.ini")
    assert config.sections() == ["Extension", "scripts"]
    assert config.get("Extension", "Name") == "sd-webui-demofusion"
    assert {config.get("scripts", name) for name in ("Requires", "Before", "After")} == {""}


def test_the_entry_for_the_index() -> None:
    """What its `validate.py` asks for."""
    entry = json.loads((ROOT / "docs" / "index-entry.json").read_text())
    assert list(entry) == ["name", "url", "description", "tags", "added"]
    assert set(entry["tags"]) <= TAGS and entry["tags"]
    assert datetime.date.fromisoformat(entry["added"])
    assert re.fullmatch(r"https://[^ ]+\.git", entry["url"])
    assert entry["name"] not in TAKEN and "\n" not in entry["description"]
    assert "sebaxakerhtc" not in entry["url"] and not entry["url"].endswith("/sd-webui-demofusion.git")
