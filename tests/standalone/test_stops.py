"""Ctrl-C, SIGTERM and SIGHUP, sent to real processes: a finished phase is never lost and never decoded twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demofusion_lib.standalone.stops import ONE_PRESS, SIGNALS, Stops

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends no signals to a single process")
ROOT = Path(__file__).parents[2]

SERVER = """
import json, os, signal, sys, time
from dataclasses import replace
from demofusion_lib.standalone import cli, keeping, output

class Late:
    # lives until the interpreter takes its modules apart
    def __init__(self, file, seconds):
        self.journal, self.seconds = os.open(file, os.O_WRONLY | os.O_APPEND), seconds

    def __del__(self, write=os.write, sleep=time.sleep):
        write(self.journal, b"late\\n")
        sleep(self.seconds)

from demofusion_lib.standalone.__main__ import main

def draw(order):
    journal = open(order["journal"], "a", buffering=1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a test run in the background ignores one
        signal.signal(number, signal.SIG_IGN if number == order["ignored"] else signal.SIG_DFL)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT), number)

    def note(what):
        print(what, file=journal)
        end = time.monotonic() + (order["seconds"] if what == order["slow"] else 0)
        while time.monotonic() < end:
            time.sleep(0.01)

    decode, load_model, phase, write = output.decode, cli.load_model, cli.Drawing._phase, keeping.write

    def loading(*given, **named):
        note("load")
        return load_model(*given, **named)

    def decoding(model, latent, way):
        if order["slow"] == "tile":
            way = replace(way, on_tile=lambda done, total: note("tile"))
        note(f"decode {8 * latent.shape[-1]}")
        images = decode(model, latent, way)
        note(f"decoded {8 * latent.shape[-1]}")
        return images

    def drawing(self, wanted, previous, before):
        note(f"phase {wanted.number}")
        return phase(self, wanted, previous, before)

    def saving(path, saved):
        write(path, saved)
        note(f"saved {saved.number}")

    cli.load_model, output.decode, cli.Drawing._phase, keeping.write = loading, decoding, drawing, saving
    sys.argv[1:] = order["argv"]
    if order["slow"] == "late":
        globals()["late"] = Late(order["journal"], order["seconds"])
    code = main()
    note(f"end {code}")
    sys.exit(code)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        draw(json.loads(line))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""The libraries take seconds to load: one process loads them and forks another for each command."""

IMPORTING = """
import sys, time

class Finder:
    def find_spec(name, path=None, target=None):
        if name == "torch":
            print("import", flush=True)
            time.sleep(30)

sys.meta_path.insert(0, Finder)
from demofusion_lib.standalone.__main__ import main
sys.exit(main())
"""


@dataclass
class Run:
    server: subprocess.Popen[str]
    pid: int
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def notes(self) -> list[str]:
        return (self.folder / "journal").read_text().splitlines()

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait_for(self, note: str) -> None:
        end = time.monotonic() + 120
        while note not in self.notes():
            assert time.monotonic() < end, (self.notes(), (self.folder / "stderr").read_text())
            time.sleep(0.01)

    def end(self, code: int) -> dict[str, Any]:
        """The one line of JSON."""
        assert self.server.stdout is not None
        ended = int(self.server.stdout.readline())
        said, complaint = ((self.folder / name).read_text() for name in ("stdout", "stderr"))
        assert (ended, said.count("\n")) == (code, 1), complaint
        assert "Traceback" not in complaint
        assert not list(self.out.glob("*.part"))
        return json.loads(said)

    def killed(self) -> None:
        """On the spot, with no time for anything."""
        self.send(signal.SIGKILL)
        assert self.server.stdout is not None
        assert int(self.server.stdout.readline()) == -signal.SIGKILL

    def forget(self) -> None:
        """Makes room for another command."""
        (self.folder / "journal").write_text("")
        for name in ("stdout", "stderr"):
            (self.folder / name).unlink(missing_ok=True)

    def size(self, name: str = "final.png") -> int:
        with Image.open(self.out / name) as image:
            image.load()  # whole
            return image.width


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    yield process
    process.kill()
    process.communicate()


Start = Callable[..., Run]


@pytest.fixture
def start(server: subprocess.Popen[str], tmp_path: Path, folders: dict[str, Path]) -> Start:
    """Starts the command on the tiny model. slow: what takes `seconds`; ignored: a signal that the process is to ignore.

    alone: with these flags and nothing else.
    """

    def command(slow: str, *flags: str, seconds: float = 0.5, ignored: int | None = None, alone: bool = False) -> Run:
        given = [
            "--model",
            str(folders["sd"]),
            "--sampling-steps",
            "3",
            "--device",
            "cpu",
            "--out",
            str(tmp_path / "out"),
        ]
        argv = [*flags, "--json"] if alone else ["a red disc", *given, "--preset", "none", "--json", *flags]
        order = {"argv": argv, "slow": slow, "seconds": seconds, "ignored": ignored}
        files = {name: str(tmp_path / name) for name in ("journal", "stdout", "stderr")}
        (tmp_path / "journal").touch()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps({**order, **files}) + "\n")
        server.stdin.flush()
        return Run(server, int(server.stdout.readline()), tmp_path)

    return command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("flags", [[], ["--no-keep-phases"]])
def test_while_the_last_picture_decodes(number: int, flags: list[str], start: Start) -> None:
    run = start("decode 128", *flags)
    run.wait_for("decode 128")
    run.send(number)
    report = run.end(130)
    assert report["stopped"] == "interrupted" and report["error"] is None
    assert report["final"] == {"file": str(run.out / "final.png"), "width": 128, "height": 128, "phase": 2}
    assert run.size() == 128
    assert [note for note in run.notes() if note.endswith(" 128")] == ["decode 128", "decoded 128"]


def test_while_an_earlier_picture_decodes(start: Start) -> None:
    run = start("decode 128", "--scale", "4")
    run.wait_for("decode 128")
    run.send(signal.SIGTERM)
    report = run.end(130)
    assert report["final"]["phase"] == 2 and run.size() == run.size("phase2.png") == 128
    decoding = [note for note in run.notes() if note.startswith("decode")]
    assert decoding == ["decode 64", "decoded 64", "decode 128", "decoded 128"]
    assert "phase 3" not in run.notes()


@pytest.mark.parametrize("flags", [[], ["--no-keep-phases"]])
def test_while_a_phase_is_drawn(flags: list[str], start: Start) -> None:
    run = start("", "--scale", "4", *flags)
    run.wait_for("phase 4")
    run.send(signal.SIGTERM)
    report = run.end(130)
    assert report["final"]["phase"] == report["phases"][-1]["phase"] == 3 and run.size() == 192
    assert run.notes().count("decode 192") == 1


def test_a_key_pressed_many_times_is_one_press(start: Start) -> None:
    run = start("decode 128", "--no-keep-phases", seconds=1.0)
    run.wait_for("decode 128")
    for _ in range(5):
        run.send(signal.SIGINT)
        time.sleep(ONE_PRESS / 10)
    assert run.end(130)["final"]["phase"] == 2
    assert run.notes().count("decode 128") == 1


@pytest.mark.parametrize("flags", [[], ["--no-keep-phases"]])
def test_a_second_press_stops_the_decoder(flags: list[str], start: Start) -> None:
    """What has been decoded is there; nothing else is begun."""
    run = start("decode 128", "--scale", "3" if not flags else "2", *flags, seconds=60)
    run.wait_for("decode 128")
    for _ in range(2):
        run.send(signal.SIGINT)
        time.sleep(1.2 * ONE_PRESS)
    report = run.end(130)
    assert run.notes()[-2:] == ["decode 128", "end 130"]
    assert report["stopped"] == "interrupted"
    if flags:
        assert report["final"] is None and not list(run.out.iterdir())
    else:
        assert report["final"]["phase"] == 1 and run.size() == 64


def test_a_killed_process_loses_the_phase_under_way(start: Start, tmp_path: Path) -> None:
    """Within a phase, between two, while the last is decoded, within the first that has one before it.

    The pictures of the run that goes on are the undisturbed one's, byte for byte.
    """
    out, flags = tmp_path / "out", ["--scale", "3", "--save-phases", "--sampler", "Euler a"]
    run = start("", *flags)
    run.end(0)
    undisturbed = {path.name: path.read_bytes() for path in out.iterdir()}
    for moment, phase in (("phase 3", 2), ("saved 2", 2), ("decode 192", 3), ("phase 2", 1)):
        shutil.rmtree(out)
        run.forget()
        run = start(moment, *flags, seconds=60)
        run.wait_for(moment)
        run.killed()
        run.forget()
        run = start("", "--resume", str(out / "resume.safetensors"), alone=True)
        report = run.end(0)
        assert [entry["phase"] for entry in report["phases"]] == list(range(phase, 4)), moment
        assert {path.name: path.read_bytes() for path in out.iterdir()} == undisturbed, moment


def test_a_second_press_while_tiles_are_decoded(start: Start) -> None:
    """Between two tiles, by the way of a handler: what is saved stays, and tells how to go on."""
    run = start("tile", "--no-keep-phases", "--save-phases", seconds=60)
    run.wait_for("tile")
    for _ in range(2):
        run.send(signal.SIGINT)
        time.sleep(1.2 * ONE_PRESS)
    report = run.end(130)
    assert run.notes()[-2:] == ["tile", "end 130"]
    assert report["final"] is None and report["resume"] == {"file": str(run.out / "resume.safetensors"), "phase": 2}
    assert [path.name for path in run.out.iterdir()] == ["resume.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_model_loads(number: int, start: Start) -> None:
    run = start("load", seconds=30)
    run.wait_for("load")
    run.send(number)
    assert run.end(130) == {"error": "interrupted"}
    assert not run.out.exists()


def test_while_the_libraries_load() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", IMPORTING, "a red disc", "--json"], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "import\n"
    process.send_signal(signal.SIGTERM)
    said, complaint = process.communicate(timeout=60)
    assert (process.returncode, said, complaint) == (130, '{"error": "interrupted"}\n', "demofusion: interrupted\n")


@pytest.mark.parametrize("when", ["end 0", "late"])
def test_after_everything_is_told(when: str, start: Start) -> None:
    """The interpreter's own end takes a while."""
    run = start(when)
    run.wait_for(when)
    run.send(signal.SIGINT)
    assert run.end(0)["final"]["phase"] == 2


def test_one_that_is_ignored_stays_ignored(start: Start) -> None:
    """As `nohup` and a shell's background want it."""
    run = start("decode 128", ignored=signal.SIGHUP)
    run.wait_for("decode 128")
    run.send(signal.SIGHUP)
    assert run.end(0)["stopped"] is None


def test_the_signals_answers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stops() as stops:
        assert {signal.getsignal(number) for number in SIGNALS} == {stops._answer} or signal.SIG_IGN in before
    assert [signal.getsignal(number) for number in SIGNALS] == before
