"""What a very large run takes of a process's memory, whole: the command line from 2048 to 16384 px on a CPU.

The UNet is a stub that answers a tenth of its input, since 2000 windows of 2048 px are a GPU's work; so is the VAE a thin
one (8 channels, no attention) that the layers' file must still hold at every level. All else is what a user runs: windows,
sub-images, fusion, residual, files, the picture. Peaks are the process's own (`VmHWM`), imports and all.

    python -m bench.large [--base 2048] [--scale 8] [--runs latents picture]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

RUNS = {"latents": ["--no-decode"], "picture": ["--vae", "exact"]}


def peak_mib() -> float:
    """Of this process, since it began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def stub_models() -> None:
    """Puts the stub UNet and the thin VAE into whatever the command line loads."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from demofusion_lib import vae
    from demofusion_lib.standalone import cli

    def forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        return (x * 0.1,)

    thin = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False, scaling_factor=0.18215,
    ).eval()  # fmt: skip
    load, find = cli.load_model, vae.Memory.find
    UNet2DConditionModel.forward = forward
    cli.load_model = lambda *args, **kwargs: replace(load(*args, **kwargs), vae=thin)

    def little(device: torch.device, folder: str | None = None) -> vae.Memory:
        """As on a machine whose memory is taken: the layers go to the file."""
        return replace(find(device, folder), device=1 << 30, host=1 << 30)

    vae.Memory.find = little  # type: ignore[assignment]


def child(argv: Sequence[str]) -> None:
    """Runs the command line in this process, and prints its peak."""
    stub_models()
    from demofusion_lib.standalone.cli import main as command_line

    began = perf_counter()
    code = command_line(argv)
    print(json.dumps({"code": code, "peak": peak_mib(), "seconds": perf_counter() - began}), file=sys.stderr)


def measure(run: str, base: int, scale: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        argv = [
            "a red disc", "--width", str(base), "--height", str(base), "--scale", str(scale), "--plan", "direct",
            "--sampling-steps", "1", "--steps", "2", "--window-batch", "2", "--no-keep-phases", "--out", folder, "--json",
            *RUNS[run],
        ]  # fmt: skip
        command = [sys.executable, "-m", "bench.large", "--child", json.dumps(argv)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        files = sorted(path.name for path in Path(folder).iterdir())
        result: dict[str, Any] = json.loads(done.stderr.strip().splitlines()[-1])
        return {**result, "files": files, "report": json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=int, default=2048)
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--child")
    args = parser.parse_args()
    if args.child:
        child(json.loads(args.child))
        return
    print("| run | result | process peak | seconds | files |\n|---|---|---|---|---|")
    for run in args.runs:
        got = measure(run, args.base, args.scale)
        final = got["report"]["final"] or {}
        size = f"{final.get('width')}x{final.get('height')}"
        print(f"| {run} | {size} | {got['peak'] / 1024:.2f} GiB | {got['seconds']:.0f} | {', '.join(got['files'])} |")


if __name__ == "__main__":
    main()
