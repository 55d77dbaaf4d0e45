"""The command line: files, infotext, JSON, Ctrl-C, faults, and bad input in one line with exit code 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from demofusion_lib.params import SETTINGS
from demofusion_lib.standalone import output
from demofusion_lib.standalone.decoding import Way, decode
from demofusion_lib.standalone.drawing import Drawing
from demofusion_lib.standalone.flags import parser
from demofusion_lib.standalone.models import Model

Run = Callable[..., int]


def infotext(path: Path) -> str:
    return Image.open(path).info["parameters"]


def test_each_phase_and_the_final_picture(run: Run, tmp_path: Path) -> None:
    assert run("--scale", "3", "--seed", "9", "--negative", "fog", "--jitter") == 0
    out = tmp_path / "out"
    sizes = {path.name: Image.open(path).size for path in out.iterdir()}
    assert sizes == {
        "phase1.png": (64, 64),
        "phase2.png": (128, 128),
        "phase3.png": (192, 192),
        "final.png": (192, 192),
    }
    prompt, negative, settings = infotext(out / "final.png").split("\n")
    assert prompt == "a red disc" and negative == "Negative prompt: fog"
    assert settings.startswith("Steps: 3, Sampler: Euler, Schedule type: Uniform, CFG scale: 5, Seed: 9, Size: 64x64, ")
    assert "Model: sd, DemoFusion enabled: True, DemoFusion scale: 3" in settings
    assert Image.open(out / "final.png").tobytes() == Image.open(out / "phase3.png").tobytes()


def test_only_the_last(run: Run, tmp_path: Path) -> None:
    assert run("--no-keep-phases") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["final.png"]


def test_json(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "--overlap", "0.25", "--no-jitter", "--cfg-scale", "1") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["final"] == {"file": str(tmp_path / "out" / "final.png"), "width": 128, "height": 128, "phase": 2}
    assert report["phases"][0]["evaluations"] == 3
    assert report["settings"]["overlap"] == 0.25 and report["settings"]["jitter"] is False
    assert report["stopped"] is None and report["device"] == "cpu" and report["dtype"] == "float32"


BAD = {
    "--scale": ("9", "1 to 8"),
    "--blur": ("x", "0 to 5"),
    "--plan": ("straight", "every, doubling, direct"),
    "--window-batch": ("65", "whole numbers 0 to 64"),
    "--width": ("100", "multiples of 8"),
    "--height": ("-64", "whole numbers 64 to 16384"),
    "--sampling-steps": ("0", "whole numbers 1 to 150"),
    "--cfg-scale": ("nan", "1 to 30"),
    "--seed": ("1.5", "whole numbers"),
    "--sampler": ("Eulr", "DPM++ 2M"),
    "--scheduler": ("Fast", "Karras"),
    "--device": ("nowhere", "torch can't use"),
    "--target-width": ("32", "64 to 512 for this base image"),
    "--model": ("nowhere.safetensors", "which is no file"),
    "--dtype": ("float8", "bfloat16"),
    "--frobnicate": ("1", "unrecognized arguments"),
}


@pytest.mark.parametrize("flag", BAD)
def test_bad_input_is_told_in_one_line(flag: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value, words = BAD[flag]
    with pytest.raises(SystemExit) as stop:
        run(f"{flag}={value}")
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err.count("\n") == 1 and said.out == ""
    assert value in said.err and words in said.err and flag.strip("-").replace("-", "_") in said.err.replace("-", "_")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2 and "out is" in capsys.readouterr().err


def test_every_setting_has_its_flag() -> None:
    help_text = parser().format_help()
    for setting in SETTINGS[1:]:
        here = setting.name != "tile_units"  # the webui's ControlNet's
        assert here == (f"--{setting.name.replace('_', '-')}" in help_text)


def test_the_help_tells_what_a_plain_run_does() -> None:
    text = " ".join(parser().format_help().split())
    assert "(doubling; every without a preset)" in text and "(0.25; 0.5 without a preset)" in text
    assert "(False; True without a preset)" in text and "(fine)" in text


@pytest.mark.parametrize(
    ("sampler", "steps", "least"), [("DPM fast", 3, 4), ("DPM++ 2M SDE", 1, 2), ("DPM++ 3M SDE Exponential", 1, 2)]
)
def test_too_few_steps_for_a_sampler(
    run: Run, sampler: str, steps: int, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run("--phase-sampler", "same", "--sampler", sampler, "--steps", str(steps))
    said = capsys.readouterr().err
    assert stop.value.code == 2 and f"steps is {steps}, allowed in phases with {sampler[:8]}" in said
    assert f": {least} or more" in said


def test_what_is_rounded_is_told(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--scale", "1.05", "--json") == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("scale 1.05 of 64x64 px is 64x64 px again")


@pytest.fixture
def fails_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Makes phase `number` raise after it has begun."""

    def arrange(number: int, error: BaseException) -> None:
        real = Drawing._phase

        def phase(self: Drawing, wanted: object, previous: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            result = real(self, wanted, previous, *rest)  # type: ignore[arg-type]
            if wanted.number == number:  # type: ignore[attr-defined]
                raise error
            return result

        monkeypatch.setattr(Drawing, "_phase", phase)

    return arrange


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (torch.cuda.OutOfMemoryError("no memory for it"), 1, "out of memory (no memory for it)"),
    ],
)
def test_what_ends_a_phase_leaves_the_one_before(
    error: BaseException, code: int, words: str, run: Run, tmp_path: Path,
    fails_in: Callable[[int, BaseException], None], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fails_in(3, error)
    assert run("--scale", "3") == code
    assert f"stopped: {words}" in capsys.readouterr().err
    out = tmp_path / "out"
    assert Image.open(out / "final.png").size == (128, 128)
    assert not (out / "phase3.png").exists()


def test_a_picture_that_cannot_be_decoded_leaves_the_one_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def limited(model: Model, latent: torch.Tensor, way: Way) -> list[Image.Image]:
        if latent.shape[-1] > 16:
            raise RuntimeError("too large")
        return decode(model, latent, way)

    monkeypatch.setattr(output, "decode", limited)
    assert run("--scale", "3") == 1
    assert Image.open(tmp_path / "out" / "final.png").size == (128, 128)
    assert "too large" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to a single process")
def test_ctrl_c(tmp_path: Path, folders: dict[str, Path]) -> None:
    """The real thing, in a process of its own."""
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "demofusion_lib.standalone",
        "a red disc",
        "--model",
        str(folders["sd"]),
        "--scale",
        "8",
        "--preset",
        "none",
    ]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--out", str(out)], stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip
    end = time.monotonic() + 120
    while not (out / "phase2.png").exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped: interrupted" in said and "Traceback" not in said
    last = max(int(path.stem.removeprefix("phase")) for path in out.glob("phase*.png"))
    assert Image.open(out / "final.png").size == (64 * last, 64 * last)
