"""Imports run one way: `core` <- `params`, with `setting` and `targets` below it, <- `plan` <- everything else."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "demofusion_lib"
CORE = sorted((PACKAGE / "core").rglob("*.py"))
LIBRARIES = {
    "__future__", "collections", "contextlib", "contextvars", "dataclasses", "functools", "hashlib", "itertools", "math", "torch",
    "typing", "weakref",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    package = ".".join(path.relative_to(PACKAGE.parent).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(importlib.util.resolve_name("." * node.level + node.module, package))
        elif isinstance(node, ast.ImportFrom):
            names |= {importlib.util.resolve_name("." * node.level + alias.name, package) for alias in node.names}
    return names


def is_core(name: str) -> bool:
    return name == "demofusion_lib.core" or name.startswith("demofusion_lib.core.")


BELOW = {"demofusion_lib.setting", "demofusion_lib.targets"}
"""What the table of settings is made of; whoever may import it may import them."""


def test_there_is_a_core() -> None:
    assert len(CORE) >= 7


@pytest.mark.parametrize("path", CORE, ids=[path.name for path in CORE])
def test_the_core_imports_torch_and_itself(path: Path) -> None:
    """No host, no gradio, no settings, no files."""
    outside = {name for name in imported(path) if not is_core(name)}
    assert {name.split(".")[0] for name in outside} <= LIBRARIES


@pytest.mark.parametrize("path", CORE, ids=[path.name for path in CORE])
def test_the_core_opens_no_files_and_keeps_no_state(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"open", "exec", "eval", "__import__", "print", "input"}
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Global, ast.Nonlocal))]


def test_params_imports_the_core_alone() -> None:
    rooms = {"demofusion_lib.presets", "demofusion_lib.regions", *BELOW}
    files = ("params.py", "setting.py", "targets.py")
    outside = {name for file in files for name in imported(PACKAGE / file) if not is_core(name)} - rooms
    assert {name for name in imported(PACKAGE / "regions.py") if name.startswith("demofusion_lib")} == {
        "demofusion_lib.core"
    }
    assert imported(PACKAGE / "presets.py") <= {"__future__", "collections.abc", "typing"}
    assert {name.split(".")[0] for name in outside} <= (LIBRARIES - {"torch"}) | {"difflib"}


def test_plan_imports_the_core_and_params_alone() -> None:
    outside = {name for name in imported(PACKAGE / "plan.py") if not is_core(name)}
    outside -= {"demofusion_lib.params", *BELOW}
    assert {name.split(".")[0] for name in outside} <= LIBRARIES | {"functools"}


def test_work_imports_the_core_params_and_plan_alone() -> None:
    """Both hosts weigh runs by it."""
    rooms = {"demofusion_lib.params", "demofusion_lib.plan", *BELOW}
    outside = {name for name in imported(PACKAGE / "work.py") if not is_core(name)} - rooms
    assert {name.split(".")[0] for name in outside} <= LIBRARIES


def test_saved_imports_the_settings_alone() -> None:
    """Both hosts go on from its files."""
    names = imported(PACKAGE / "saved.py")
    assert {name for name in names if name.startswith("demofusion_lib")} == BELOW
    assert not {name.split(".")[0] for name in names} & {
        "modules",
        "gradio",
        "diffusers",
        "transformers",
        "k_diffusion",
    }


@pytest.mark.parametrize(("room", "barred"), [("webui", "standalone"), ("standalone", "webui")])
def test_the_two_hosts_know_nothing_of_each_other(room: str, barred: str) -> None:
    names = {name for path in sorted((PACKAGE / room).glob("*.py")) for name in imported(path)}
    assert "demofusion_lib.core" in names
    assert not [name for name in names if name.startswith(f"demofusion_lib.{barred}")]
    others = {"modules", "gradio"} if room == "standalone" else {"diffusers", "transformers", "k_diffusion"}
    assert not {name.split(".")[0] for name in names} & others


def test_the_core_loads_without_the_rest() -> None:
    program = (
        "import sys, demofusion_lib.core\n"
        "loaded = {name.split('.')[0] for name in sys.modules} & {'modules', 'gradio', 'k_diffusion'}\n"
        "ours = [name for name in sys.modules if name.startswith('demofusion_lib.') and '.core' not in name]\n"
        "print(sorted(loaded), ours)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[] []"
