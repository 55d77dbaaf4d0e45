"""Several pictures from one command, their names, seeds and lines of JSON; and the bar that tells how far it is."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from demofusion_lib.standalone import cli, telling
from demofusion_lib.standalone.drawing import Drawing

Run = Callable[..., int]
FAST = ("--preset", "fast", "--no-keep-phases")


def reports(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def values(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=float)


def test_count_and_batch_draw_what_single_commands_draw(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*FAST, "--count", "3", "--batch", "2", "--seed", "5", "--json") == 0
    three = reports(capsys)
    assert [one["seed"] for one in three] == [5, 6, 7]
    assert names(tmp_path / "out") == {"final.png", "final-2.png", "final-3.png"}
    assert [Path(one["final"]["file"]).name for one in three] == ["final.png", "final-2.png", "final-3.png"]
    assert [Image.open(one["final"]["file"]).info["parameters"].split("Seed: ")[1][0] for one in three] == [
        "5",
        "6",
        "7",
    ]
    assert run(*FAST, "--seed", "6", "--json", "--out", str(tmp_path / "alone")) == 0
    (alone,) = reports(capsys)
    assert np.abs(values(alone["final"]["file"]) - values(three[1]["final"]["file"])).max() <= 1
    own = [phase["evaluations"] for phase in alone["phases"]]
    assert all([phase["evaluations"] for phase in one["phases"]] == own for one in three)


@pytest.mark.parametrize("stdin", [False, True])
def test_prompts_of_a_file_or_of_standard_input(
    stdin: bool,
    tmp_path: Path,
    folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "a red disc\n\n  a blue square  \n"
    file = tmp_path / "prompts.txt"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    flags = ["--model", str(folders["sd"]), "--device", "cpu", "--sampling-steps", "2", *FAST, "--json"]
    named = ["--prompts", "-" if stdin else str(file), "--count", "2", "--batch", "3", "--out", str(tmp_path / "out")]
    assert cli.main([*flags, *named]) == 0
    told = reports(capsys)
    assert [(one["prompt"], one["seed"]) for one in told] == [
        ("a red disc", 1), ("a red disc", 2), ("a blue square", 1), ("a blue square", 2),
    ]  # fmt: skip
    assert len({Image.open(one["final"]["file"]).tobytes() for one in told}) == 4


def test_a_random_seed_is_told_and_saved(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*FAST, "--seed", "-1") == 0
    said = capsys.readouterr().out
    seed = int(said.split("seed: ")[1].split()[0])
    assert f"Seed: {seed}," in Image.open(tmp_path / "out" / "final.png").info["parameters"]
    assert run(*FAST, "--seed", str(seed), "--out", str(tmp_path / "again")) == 0
    assert "seed:" not in capsys.readouterr().out
    assert np.array_equal(values(tmp_path / "out" / "final.png"), values(tmp_path / "again" / "final.png"))
    assert run(*FAST, "--seed", "-1", "--json") == 0
    assert reports(capsys)[0]["seed"] != seed


def test_earlier_pictures_stay_unless_they_may_be_overwritten(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("--scale", "3", "--no-decode") == 0
    assert names(out) == {"phase1.safetensors", "phase2.safetensors", "phase3.safetensors", "final.safetensors"}
    assert run("--scale", "2") == 0
    first = {"phase1.safetensors", "phase2.safetensors", "phase3.safetensors", "final.safetensors"}
    assert names(out) == first | {"phase1-2.png", "phase2-2.png", "final-2.png"}
    assert run("--scale", "2", "--overwrite") == 0
    assert names(out) == {"phase1.png", "phase2.png", "final.png", "phase1-2.png", "phase2-2.png", "final-2.png"}
    assert run("--scale", "2", *FAST[2:], "--overwrite") == 0
    assert names(out) == {"final.png", "phase1-2.png", "phase2-2.png", "final-2.png"}


def test_a_run_that_is_gone_on_with_keeps_its_number(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, real = tmp_path / "out", Drawing._phase
    assert run("--scale", "2") == 0

    def fails(self: Drawing, phase: Any, *rest: torch.Tensor) -> torch.Tensor:
        if phase.number == 3:
            raise MemoryError
        return real(self, phase, *rest)

    monkeypatch.setattr(Drawing, "_phase", fails)
    assert run("--scale", "3", "--save-phases", "--seed", "3") == 1
    monkeypatch.setattr(Drawing, "_phase", real)
    capsys.readouterr()
    assert cli.main(["--resume", str(out / "resume.safetensors"), "--json"]) == 0
    assert Path(reports(capsys)[0]["final"]["file"]).name == "final-2.png"
    assert Image.open(out / "final.png").size == (128, 128) and Image.open(out / "final-2.png").size == (192, 192)
    assert names(out) == {f"{name}{n}.png" for n in ("", "-2") for name in ("phase1", "phase2", "final")} | {
        "phase3-2.png"
    }


BAD = {
    ("--prompts", "nowhere.txt"): "prompts is 'nowhere.txt', allowed without a prompt beside it",
    ("--count", "0"): "argument --count: is '0', allowed: whole numbers 1 to 10000",
    ("--batch", "65"): "argument --batch: is '65', allowed: whole numbers 1 to 64",
    ("--seed", "-2"): "argument --seed: is '-2', allowed: whole numbers -1 to",
    ("--batch", "2", "--save-phases"): "batch is 2, allowed with save_phases: 1",
    ("--resume", "x", "--count", "3"): "count is 3, allowed without resume alone",
    ("--resume", "x", "--overwrite"): "overwrite is given, allowed without resume alone",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_told_in_one_line(flags: tuple[str, ...], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*flags)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and BAD[flags] in said


@pytest.mark.parametrize(
    ("content", "words"), [(None, "is no file"), (b"\n \n", "has no prompt"), (b"\xff\xfe", "is no UTF-8")]
)
def test_a_bad_file_of_prompts(
    content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        cli.main(["--prompts", str(file), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and words in said


class Bar:
    """What tqdm would show on a terminal."""

    def __init__(self) -> None:
        self.n = self.total = 0
        self.seen: list[tuple[int, int]] = []

    def update(self, count: int) -> None:
        self.n += count
        self.seen.append((self.n, self.total))

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None: ...

    def set_description(self, text: str) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool = True) -> None: ...


@pytest.fixture
def bar(monkeypatch: pytest.MonkeyPatch) -> Bar:
    made = Bar()
    monkeypatch.setattr(cli, "progress_bar", lambda total, quiet: made)
    return made


WAYS = {
    "as it comes": ("--preset", "fast"),
    "the whole method": ("--scale", "3", "--preset", "none"),
    "both switches off": ("--no-skip-residual", "--no-dilated"),
    "only the last": ("--preset", "fast", "--no-keep-phases"),
    "latents": ("--preset", "none", "--no-decode"),
    "several at once": ("--preset", "fast", "--count", "2", "--batch", "2"),
    "second order": ("--sampler", "Heun", "--preset", "none"),
    "by diffusers": ("--vae", "host", "--preset", "fast"),
    "low-pass": ("--preset", "draft", "--scale", "3"),
    "strength 0.4": ("--image", "{image}", "--strength", "0.4", "--preset", "fast"),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_total_is_exact_from_the_planning_room(way: str, run: Run, bar: Bar, tmp_path: Path) -> None:
    image = tmp_path / "given.png"
    Image.effect_noise((64, 64), 80).convert("RGB").save(image)
    assert run(*(flag.replace("{image}", str(image)) for flag in WAYS[way])) == 0
    assert len({total for _, total in bar.seen}) == 1
    assert bar.n == bar.total > 0
    assert all(one[0] <= other[0] for one, other in zip(bar.seen, bar.seen[1:]))
    beside = [n for n, _ in bar.seen if n < bar.total]
    if way != "by diffusers":  # which tells of no tiles
        assert max(beside) > 0.85 * bar.total  # nothing of it is walked in one stride at the end


def test_a_solver_that_takes_as_many_as_it_likes_ends_where_the_total_is(run: Run, bar: Bar) -> None:
    assert run("--sampler", "DPM adaptive", "--preset", "none") == 0
    assert bar.n == bar.total and all(n <= total for n, total in bar.seen)


def test_no_jump_to_the_end_on_a_stop(run: Run, bar: Bar, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Drawing._phase

    def phase(self: Drawing, wanted: Any, *rest: torch.Tensor) -> torch.Tensor:
        if wanted.number == 3:
            raise KeyboardInterrupt
        return real(self, wanted, *rest)

    monkeypatch.setattr(Drawing, "_phase", phase)
    assert run("--scale", "3", "--preset", "none") == 130
    assert bar.n < 0.6 * bar.total


def test_no_bar_in_a_file(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--preset", "fast") == 0
    assert capsys.readouterr().err == ""
    telling.say_loading("toy")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(telling, "is_terminal", lambda stream: True)
    telling.say_loading("toy")
    assert capsys.readouterr().err == "demofusion: loading 'toy'\n"
    assert not telling.progress_bar(3, quiet=False).disable
