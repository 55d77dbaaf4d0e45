"""`torchrun -m demofusion_lib.standalone`: what several processes say and write, and what is left where one of them is lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from demofusion_lib.ranks import Ranks, beats
from demofusion_lib.saved import read
from demofusion_lib.setting import SettingsError
from demofusion_lib.standalone import cli, guidance
from demofusion_lib.standalone import ranks as joining
from demofusion_lib.standalone.errors import UserError
from demofusion_lib.standalone.started import NEEDED, is_one_of_several
from demofusion_lib.standalone.stops import Stops

from .forks import FORKS, forked

pytestmark = FORKS
Answer = tuple[int, str, str]


def told(argv: list[str], ranks: Ranks | None) -> Answer:
    """The exit code, and what was said on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    quiet = contextlib.nullcontext() if ranks is None or ranks.is_first else joining.silent()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), quiet:
        try:
            code = cli.answered(argv, Stops(), ranks)
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def flags(model: Path, out: Path) -> list[str]:
    given = "--sampling-steps 2 --device cpu --preset none --window-batch 4 --scale 2 --json"
    return ["a red disc", "--model", str(model), "--out", str(out), *given.split()]


@pytest.fixture
def argv(folders: dict[str, Path], tmp_path: Path) -> list[str]:
    return flags(folders["sd"], tmp_path / "out")


@pytest.fixture(scope="module")
def alone(
    folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What one process says, and its files."""
    folder = tmp_path_factory.mktemp("alone")
    code, out, _ = forked(0, folder / "it", lambda ranks: told(flags(folders["sd"], folder / "out"), ranks))[0]
    assert code == 0
    return json.loads(out.replace(str(folder), "FOLDER")), {p.name: p.read_bytes() for p in (folder / "out").iterdir()}


def test_said_and_written_once(argv: list[str], alone: Any, tmp_path: Path) -> None:
    """As by one process: the same files of the same bytes, and JSON with what each rank did beside."""
    first, second = forked(2, tmp_path / "a", lambda ranks: told(argv, ranks))
    undivided, files = alone
    assert (first[0], second[0]) == (0, 0) and second[1:] == ("", "")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files and len(files) == 3
    (line,) = first[1].splitlines()
    report = json.loads(line.replace(str(tmp_path), "FOLDER"))
    assert "rank_evaluations" not in undivided
    assert sum(report["rank_evaluations"]) == sum(phase["evaluations"] for phase in undivided["phases"])
    assert min(report.pop("rank_evaluations")) > 0
    for phase, own in zip(report["phases"], undivided["phases"]):
        assert phase.pop("seconds") > 0
        phase["seconds"] = own["seconds"]
    assert report == undivided


def test_bad_input_is_told_once(argv: list[str], tmp_path: Path) -> None:
    first, second = forked(2, tmp_path / "a", lambda ranks: told([*argv, "--sampler", "no such"], ranks))
    assert first[0] == second[0] == 2 and second[1:] == ("", "")
    assert json.loads(first[1])["error"].startswith("sampler is 'no such'")


def test_what_one_rank_lacks_ends_all(argv: list[str], tmp_path: Path) -> None:
    """Before anything is drawn, and the first tells which."""

    def lacking(ranks: Ranks | None) -> Answer:
        assert ranks is not None
        model = "no/such folder" if ranks.rank == 1 else argv[2]
        return told([argv[0], "--model", model, *argv[3:]], ranks)

    first, second = forked(2, tmp_path / "a", lacking)
    assert first[0] == 1 and second[0] == 2
    assert "rank 1 failed (UserError: model is 'no/such folder'" in json.loads(first[1])["error"]


network = guidance.Guided._network


def at_second_phase(do: Callable[[], object]) -> Callable[..., torch.Tensor]:
    """A network that does it when the phase after the base image is under way."""

    def asked(self: guidance.Guided, *given: Any) -> torch.Tensor:
        if self.engine is not None:
            do()
        return network(self, *given)

    return asked


def fails() -> None:
    raise ArithmeticError("it is the card")


@pytest.mark.parametrize("end", ["SIGKILL", "SIGSTOP", "fault", "Ctrl-C"])
def test_a_rank_is_lost(end: str, argv: list[str], alone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one ends, with the phase before saved; torchrun's next start goes on from there."""
    monkeypatch.setattr(beats, "EVERY", 0.1)
    monkeypatch.setattr(beats, "SILENCE", 3.0)
    file = tmp_path / "out" / "resume.safetensors"

    def disturbed(ranks: Ranks | None) -> tuple[Answer, float]:
        assert ranks is not None
        begun = time.monotonic()
        if ranks.rank == 1:
            number = signal.SIGTERM if end == "Ctrl-C" else getattr(signal, end, None)
            do = fails if number is None else lambda: os.kill(os.getpid(), number)
            guidance.Guided._network = at_second_phase(do)  # type: ignore[method-assign]
            with Stops() as stops:
                cli.answered(argv, stops, ranks)
        return told(argv, ranks), time.monotonic() - begun

    lost = () if end in ("fault", "Ctrl-C") else (1,)
    (code, out, _), seconds = forked(2, tmp_path / "b", disturbed, lost=lost)[0]
    report = json.loads(out)
    assert code == (130 if end == "Ctrl-C" else 1) and seconds < 30
    words = {
        "SIGKILL": "a rank has gone",
        "SIGSTOP": "no sign of life",
        "fault": "it is the card",
        "Ctrl-C": "interrupted",
    }
    assert words[end] in report["stopped"]
    assert report["resume"] == {"file": str(file), "phase": 1} and read(file).number == 1

    if not lost:
        return
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    (code, out, _), _ = forked(2, tmp_path / "c", lambda ranks: told(argv, ranks))
    report = json.loads(out)
    assert code == 0 and [phase["evaluations"] > 0 for phase in report["phases"]] == [False, True]
    assert (tmp_path / "out" / "final.png").read_bytes() == alone[1]["final.png"] and not file.exists()


def test_what_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        unlike = True

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="device is 'cuda:1', allowed with 2 ranks on a machine: auto, cuda"):
        joining.device_of("cuda:1", Two())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="sampler is 'DPM adaptive', whose steps"):
        joining.check_shared(Two(), {"DPM adaptive": "sample_dpm_adaptive"})  # type: ignore[arg-type]
    joining.check_shared(Two(), {"Euler": "sample_euler"})  # type: ignore[arg-type]
    joining.check_shared(None, {"DPM adaptive": "sample_dpm_adaptive"})
    assert joining.device_of("cuda:1", None) == "cuda:1"
    assert issubclass(UserError, ValueError) and not issubclass(UserError, SettingsError)


def test_unlike_kinds_of_devices(tmp_path: Path) -> None:
    def used(ranks: Ranks | None) -> str:
        assert ranks is not None
        try:
            joining.use(ranks, torch.device(["cpu", "meta"][ranks.rank]))
        except UserError as error:
            return str(error)
        return ""

    words = "the ranks' devices are cpu and meta, allowed: all of one kind"
    assert forked(2, tmp_path / "a", used, uses=False) == [words, words]


def test_one_process_is_asked_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        monkeypatch.delenv(name, raising=False)
    assert (
        not is_one_of_several()
        and joining.of_program() is None
        and joining.run_joined(lambda ranks: 7 if ranks is None else 0) == 7
    )
    assert is_one_of_several({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
    assert not is_one_of_several({"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"})
