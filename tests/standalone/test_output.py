"""What the disk, the terminal and a stranger's bytes do to a run: told in one line, before the drawing where it can be."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from demofusion_lib.params import Params
from demofusion_lib.standalone import cli, output
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.files import replacing, save
from demofusion_lib.standalone.folders import check_folder
from demofusion_lib.standalone.models import load_model
from demofusion_lib.standalone.telling import progress_bar, say

from .conftest import CPU

ROOT = Path(__file__).parents[2]
Run = Callable[..., int]


@pytest.fixture
def loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: object, **named: object) -> None:
        raise AssertionError("loads")

    monkeypatch.setattr(cli, "load_model", load)


def refused(run: Run, capsys: pytest.CaptureFixture[str], *flags: str, **named: str) -> str:
    """What is said, on stderr and in the one line of JSON."""
    with pytest.raises(SystemExit) as stop:
        run("--json", *flags, **named)
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert said.err.count("\n") == said.out.count("\n") == 1
    report = json.loads(said.out)
    assert said.err == f"demofusion: {report['error']}\n" and list(report) == ["error"]
    return report["error"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="a folder that not even root can write to")
def test_a_folder_that_is_there_and_cannot_be_written(
    run: Run, loads_nothing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "out is '/proc/self/task', which can't be written to" in refused(run, capsys, "--out", "/proc/self/task")


def test_a_folder_where_a_picture_goes(
    run: Run, tmp_path: Path, loads_nothing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "phase2.png").mkdir(parents=True)
    assert "where phase2.png is a folder" in refused(run, capsys)


def test_a_disk_without_room(run: Run, tmp_path: Path, loads_nothing: None, capsys: pytest.CaptureFixture[str]) -> None:
    with no_room(1000):
        told = refused(run, capsys)
    assert "out', which can't be written to (File too large), allowed: " in told
    assert not (tmp_path / "out").exists()


def test_a_folder_is_only_tried(tmp_path: Path) -> None:
    check_folder(tmp_path / "one" / "two")
    assert not list(tmp_path.iterdir())
    (tmp_path / "one").mkdir()
    check_folder(tmp_path / "one" / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["one"] and not list((tmp_path / "one").iterdir())


@contextlib.contextmanager
def no_room(most: int) -> Iterator[None]:
    """No file grows beyond this many bytes: the system's own refusal, with nothing to mount.

    Not for longer than the call: what pytest writes goes into a file, too, where its output is redirected.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_disk_gets_full(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second picture doesn't fit. What has been written stays, whole; no phase is drawn for nothing."""
    out = tmp_path / "out"
    few = ["--width", "256", "--height", "256", "--sampling-steps", "1", "--cfg-scale", "1"]
    assert run(*few) == 0
    small, large = ((out / f"phase{number}.png").stat().st_size for number in (1, 2))
    assert large > small + 1000 and small > 2**16
    for path in out.iterdir():
        path.unlink()
    capsys.readouterr()
    with no_room(small + 1000):
        assert run(*few, "--scale", "3", "--json") == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert (
        said.err.strip()
        .splitlines()[-1]
        .startswith("demofusion: stopped: phase2.png can't be written (File too large)")
    )
    assert report["error"] == report["stopped"] and "Traceback" not in said.err
    assert [phase["file"] for phase in report["phases"]] == [str(out / "phase1.png"), None]
    assert report["final"] == {"file": str(out / "final.png"), "width": 256, "height": 256, "phase": 1}
    assert sorted(path.name for path in out.iterdir()) == ["final.png", "phase1.png"]
    for path in out.iterdir():
        assert Image.open(path).load() is not None and Image.open(path).size == (256, 256)


def test_not_even_a_copy_fits(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the picture that is there is the result."""

    def copy(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(output, "copy", copy)
    assert run("--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["stopped"] == "final.png can't be written (No space left on device)"
    assert report["final"]["file"] == str(tmp_path / "out" / "phase2.png")


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["one.png"] and path.read_text() == "before"


def test_the_folder_goes_away_while_drawing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = output.decode

    def decode(*given: object) -> object:
        if (tmp_path / "out").exists():
            (tmp_path / "out").rmdir()
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(output, "decode", decode)
    assert run("--no-keep-phases") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["final.png"]


@pytest.mark.parametrize("name", ["prompt", "negative"])
def test_bytes_that_are_no_utf8(name: str, run: Run, loads_nothing: None, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"prompt": "a \udcff disc"} if name == "prompt" else {}
    flags = ["--negative", "a \udcff disc"] if name == "negative" else []
    assert refused(run, capsys, *flags, **given) == f"{name} is 'a \\udcff disc', allowed: text in UTF-8"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere names are text")
def test_names_of_any_bytes(
    run: Run, tmp_path: Path, folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the pictures' folder, and of a model's, which the infotext names."""
    out = tmp_path / "o\udcff"
    assert run("--out", str(out)) == 0
    assert "picture: " in capsys.readouterr().out
    model = replace(load_model(str(folders["sd"]), CPU, torch.float32), name="m\udcff")
    drawing = Drawing(model, Order(["a red disc"], [1], 64, 64, Params.from_names({"enabled": True, "preset": "none"})))
    save([Image.new("RGB", (8, 8))], [out / "final.png"], drawing)
    assert "Model: m?, " in Image.open(out / "final.png").info["parameters"]


def test_a_value_of_any_length_is_told_in_short(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 200_000
    for flag in (
        "--scale",
        "--seed",
        "--dtype",
        "--sampler",
        "--scheduler",
        "--device",
        "--prediction-type",
        "--plan",
        "--x",
    ):
        assert len(refused(run, capsys, f"{flag}={long}")) < 700


def test_json_is_one_line_even_of_a_fault_of_ours(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*given: object, **named: object) -> None:
        print("chatter")
        raise KeyError("what")

    monkeypatch.setattr(cli, "load_model", load)
    with pytest.raises(KeyError):
        run("--json")
    assert capsys.readouterr().out == '{"error": "KeyError: \'what\'"}\n'


def test_whatever_a_phase_raises_ends_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def phase(*given: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr(cli.Drawing, "_phase", phase)
    assert run("--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["error"] == report["stopped"] == "KeyError: 'what'" and report["final"]["phase"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a stream that takes nothing")
@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--json",), 1)])
def test_nobody_listens(flags: tuple[str, ...], code: int, tmp_path: Path, folders: dict[str, Path]) -> None:
    """Full, and closed: the pictures are there. Python's own complaint at its end would make the exit code 120."""
    given = [
        sys.executable, "-m", "demofusion_lib.standalone", "a red disc", "--model", str(folders["sd"]), "--sampling-steps",
        "2", "--device", "cpu", "--out", str(tmp_path), *flags,
    ]  # fmt: skip
    reading, writing = os.pipe()
    os.close(reading)
    with open("/dev/full", "w") as full:
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        assert subprocess.run(given, cwd=ROOT, stdout=full, stderr=writing, env=buffered).returncode == code
    os.close(writing)
    assert (tmp_path / "final.png").exists()


def test_what_an_encoding_lacks_is_spelt(tmp_path: Path) -> None:
    with open(tmp_path / "log", "w", encoding="ascii") as stream:
        assert say("é \udcff", stream)
    assert (tmp_path / "log").read_text() == "\\xe9 \\udcff\n"
    assert not say("x", None) and not say("x", stream)  # closed


def test_a_bar_that_cannot_be_drawn_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        bar = progress_bar(1000, quiet=False)
        for _ in range(3):
            bar.set_description("phase")
            bar.update(300)
        bar.close()
        monkeypatch.undo()
