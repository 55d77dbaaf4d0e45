"""What `pip install ".[standalone]"` brings goes together, is all that is imported, and starts."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from demofusion_lib.standalone.toy import byte_letters, write_tokenizer

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
EXTRA = {
    requirement.name: requirement.specifier
    for requirement in map(
        Requirement,
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
            "standalone"
        ],
    )
}
HUB = [
    f"{major}.{minor}.0" for major, minors in ((0, range(20, 37)), (1, range(34)), (2, range(5))) for minor in minors
]
NEEDS = {
    "diffusers": {
        "0.31.0": ("1.4", ">=0.23.2"), "0.35.2": ("1.4", ">=0.34"), "0.39.0": ("2.6", ">=0.34,<2"),
        "0.40.0": ("2.6", ">=1.23,<2"), "0.41.0": ("2.6", ">=1.32,<2"), "0.42.1": ("2.6", ">=1.32,<3"),
    },
    "transformers": {
        "4.46.3": ("2.0", ">=0.23.2,<1"), "4.57.6": ("2.1", ">=0.34,<1"),
        "5.0.0": ("2.2", ">=1.3,<2"), "5.20.2": ("2.6", ">=1.31,<3"), "5.24.0": ("2.6", ">=1.31,<3"),
    },
}  # fmt: skip
"""The torch below which a release doesn't work, which pip isn't told, and the huggingface_hub it asks for."""
TORCHES = ("2.1.2", "2.4.1", "2.6.0", "2.9.1", "2.14.1")


def test_whatever_the_bounds_admit_goes_together() -> None:
    """Else pip tries release after release, for minutes, or keeps an old one that the new ones don't work with."""
    admitted = {
        name: [needs for version, needs in releases.items() if version in EXTRA[name]]
        for name, releases in NEEDS.items()
    }
    assert all(admitted.values())
    for _, hub in admitted["diffusers"]:
        for _, other_hub in admitted["transformers"]:
            assert list(SpecifierSet(f"{hub},{other_hub}").filter(HUB)), (hub, other_hub)
    oldest = next(torch for torch in TORCHES if torch in EXTRA["torch"])
    for lowest, _ in admitted["diffusers"] + admitted["transformers"]:
        assert oldest in SpecifierSet(f">={lowest}")


def imported(path: Path) -> set[str]:
    """The top-level packages that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).split(".")[0])
    return names


def test_all_that_is_imported_is_asked_for() -> None:
    package = ROOT / "demofusion_lib"
    files = [file for folder in ("core", "ranks", "standalone", "vae") for file in (package / folder).glob("*.py")]
    names = set.union(*map(imported, [*files, *package.glob("*.py")])) - set(sys.stdlib_module_names) - {"__future__"}
    assert {{"PIL": "Pillow"}.get(name, name) for name in names} <= set(EXTRA)


PROGRAM = """
import json, sys, tempfile, pathlib
absent = {absent}
sys.modules.update(dict.fromkeys(absent))  # an import of one raises ModuleNotFoundError
from demofusion_lib.standalone import cli, pipeline, toy
folder = pathlib.Path(tempfile.mkdtemp())
toy.write_tokenizer(folder)
print(json.dumps(len(json.loads((folder / "vocab.json").read_text()))))
"""


def test_it_starts_without_what_it_has_no_use_for() -> None:
    """What the webui's host has beside it, and what k-diffusion and clip brought along once."""
    absent = ["setuptools", "k_diffusion", "clip", "torchsde", "torchdiffeq", "scipy", "torchvision", "kornia", "wandb"]
    program = PROGRAM.format(absent=absent)
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == 49408


def test_the_tokenizer_is_clip_s(tmp_path: Path) -> None:
    """Beside the package that OpenAI's code is in, whose own first line needs what setuptools has no more."""
    package = find_spec("clip")
    assert package is not None and package.submodule_search_locations
    spec = spec_from_file_location(
        "simple_tokenizer", Path(package.submodule_search_locations[0]) / "simple_tokenizer.py"
    )
    assert spec is not None and spec.loader is not None
    clip = module_from_spec(spec)
    spec.loader.exec_module(clip)
    assert byte_letters() == list(clip.bytes_to_unicode().values())
    write_tokenizer(tmp_path)
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")) == clip.SimpleTokenizer().encoder
