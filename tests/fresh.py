"""`make install-check`: the extra in fresh environments, at the lower and the upper ends of its bounds, draws a small picture.

For every Python from 3.10 to 3.13 that this machine has; pip takes what it is configured to, gigabytes of it, so it is no test
of `make test`. `--pythons 3.10 3.13 --bounds lower` for less; `--pip "--index-url ..."` for torch's builds without CUDA.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
BOUNDS = ("lower", "upper")
DRAWING = ["a red disc", "--sampling-steps", "2", "--width", "128", "--height", "128", "--json", "--device", "cpu"]
LIBRARY = """
import sys, torch
from PIL import Image
from diffusers import StableDiffusionPipeline
from demofusion_lib import DemoFusionPipeline
from demofusion_lib.standalone.loading import load_pipeline
from demofusion_lib.standalone.sources import Source
pipe = DemoFusionPipeline.from_pipe(load_pipeline(Source("toy"), torch.device("cpu"), torch.float32))
pipe.set_progress_bar_config(disable=True)
(image,) = pipe("a red disc", width=128, height=128, num_inference_steps=2, preset="fast").images
assert image.size == (256, 256), image.size
import diffusers, transformers, huggingface_hub
print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {transformers.__version__}, hub {huggingface_hub.__version__}")
"""


def found(version: str) -> str | None:
    """The interpreter, on the path or of pyenv."""
    named = [shutil.which(f"python{version}")]
    named += map(
        str, Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python")
    )
    for name in named:
        if name and subprocess.run([name, "-c", "import venv"], capture_output=True).returncode == 0:
            return name
    return None


def lower_bounds(pyproject: str) -> list[str]:
    """`name==version` of each of the extra's requirements that has a lower bound."""
    extra = pyproject.split("standalone = [", 1)[1].split("]", 1)[0]
    return [f"{name}=={version}" for name, version in re.findall(r'"([\w-]+)>=([\d.]+)', extra)]


def checked(python: str, bound: str, options: list[str]) -> str:
    """What was installed. Raises CalledProcessError where it does not install or draw."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        own = str(Path(folder) / "bin" / "python")
        pins = lower_bounds((ROOT / "pyproject.toml").read_text(encoding="utf-8")) if bound == "lower" else []
        install = [own, "-m", "pip", "install", "-q", "--no-compile", *options, f"{ROOT}[standalone]", *pins]
        run(install, cwd=folder)
        # from the folder of the environment: what is drawn with is what was installed, not what lies in this repository
        run([str(Path(folder) / "bin" / "demofusion"), *DRAWING, "--out", str(Path(folder) / "out")], cwd=folder)
        return run([own, "-c", LIBRARY], cwd=folder).strip().splitlines()[-1]


def run(command: list[str], cwd: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, choices=PYTHONS)
    parser.add_argument("--bounds", nargs="+", default=BOUNDS, choices=BOUNDS)
    parser.add_argument("--pip", default="", help="options for pip install")
    args = parser.parse_args()
    failed = 0
    for version in args.pythons:
        python = found(version)
        for bound in args.bounds:
            begun = monotonic()
            if python is None:
                told = "no such Python on this machine"
            else:
                try:
                    told = checked(python, bound, shlex.split(args.pip))
                except subprocess.CalledProcessError as error:
                    failed += 1
                    told = f"FAILED: {shlex.join(map(str, error.cmd))[:200]}\n{(error.stderr or '')[-2000:]}"
            print(f"Python {version}, {bound} bounds, {monotonic() - begun:.0f} s: {told}", flush=True)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
