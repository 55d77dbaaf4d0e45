"""The file that an ended run goes on from: every bit of it comes back, and no other file is taken for one."""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from demofusion_lib.core import Phase, climb, plan_phases, statistics
from demofusion_lib.saved import (
    MOST_HEADER,
    ResumeError,
    SavedPhase,
    check_made_of,
    differences,
    part_of,
    read,
    remove,
    write,
)
from demofusion_lib.setting import SettingsError

from .support import draws

MADE_OF = {"prompt": "a red disc\n\udcff ü", "seed": "7", "steps": "20"}


def saved(dtype: torch.dtype = torch.float32, images: int = 2, **fields: Any) -> SavedPhase:
    latent = draws(3, images, 4, 6, 5).mul(3).add(1).to(dtype)
    return SavedPhase(**{
        "number": 3, "latent": latent, "mean": latent.mean((1, 2, 3), keepdim=True),
        "deviation": latent.float().std((1, 2, 3), keepdim=True), "window_batch": 16, "made_of": MADE_OF, **fields,
    })  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "resume.safetensors", saved())
    return tmp_path / "resume.safetensors"


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy())


def refused(path: Path | str) -> str:
    with pytest.raises(ResumeError) as stop:
        read(path)
    message = str(stop.value)
    assert isinstance(stop.value, ValueError) and isinstance(stop.value, SettingsError)
    assert message.startswith("DemoFusion: resume is '") and len(message.splitlines()) == 1 and len(message) < 400
    return message


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_bit_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    """Of a view, too, as a cropped latent is."""
    whole = saved(dtype)
    for given in (whole, replace(whole, latent=whole.latent[:, :, 1:5, 2:].transpose(2, 3))):
        write(tmp_path / "x", given)
        got = read(tmp_path / "x")
        for name in ("latent", "mean", "deviation"):
            one, other = getattr(got, name), getattr(given, name)
            assert one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)
            assert one.is_contiguous()
        assert (got.number, got.window_batch, got.made_of) == (3, 16, MADE_OF)


def test_any_reader_of_the_format_can_open_it(path: Path) -> None:
    assert torch.equal(load_file(path)["latent"], saved().latent)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["demofusion made of"]) == MADE_OF
        assert file.metadata()["demofusion phase"] == "3"


def test_the_latent_can_be_worked_on(path: Path) -> None:
    """In place, while the file goes away and another takes its name."""
    got = read(path)
    write(path, saved(number=4))
    remove(path)
    got.latent.mul_(2)
    assert torch.equal(got.latent, saved().latent * 2)


def test_it_is_whole_on_the_disk_before_it_takes_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, sync, move = [], os.fsync, os.replace

    def syncing(number: int) -> None:
        done.append("sync")
        assert part_of(path).stat().st_size == path.stat().st_size or len(done) > 2
        sync(number)

    def moving(source: Path, target: Path) -> None:
        done.append("move")
        assert (source, target) == (part_of(path), path) and read(source).number == 4 and read(target).number == 3
        move(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", moving)
    write(path, saved(number=4))
    assert done[:2] == ["sync", "move"] and read(path).number == 4
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_cannot_be_written_leaves_the_one_before(
    error: BaseException, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        write(path, saved(number=4))
    assert read(path).number == 3 and [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_went_away_is_made_again(tmp_path: Path) -> None:
    write(tmp_path / "one" / "two" / "x", saved())
    assert read(tmp_path / "one" / "two" / "x").number == 3
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write(tmp_path / "file" / "x", saved())


@pytest.mark.parametrize(
    "bad",
    [
        {"latent": torch.full((2, 4, 6, 5), float("nan"))}, {"mean": torch.full((2, 1, 1, 1), float("inf"))},
        {"latent": torch.zeros(2, 3, 6, 5)}, {"latent": torch.zeros(2, 4, 6, 5, dtype=torch.int32)},
        {"mean": torch.zeros(1, 1, 1, 1)}, {"deviation": torch.zeros(2)}, {"number": 0}, {"number": 101},
        {"made_of": {"seed": 7}}, {"made_of": {"prompt": "x" * MOST_HEADER}},
    ],
    ids=lambda bad: next(iter(bad)),
)  # fmt: skip
def test_what_could_not_be_gone_on_from_takes_no_good_ones_place(bad: dict[str, Any], path: Path) -> None:
    with pytest.raises(ValueError):
        write(path, saved(**bad))
    assert read(path).number == 3


def test_it_is_removed(path: Path) -> None:
    part_of(path).write_text("what a killed process has left")
    remove(path)
    assert not list(path.parent.iterdir())
    remove(path)
    path.mkdir()
    remove(path)


def test_nothing_there(tmp_path: Path) -> None:
    assert f"resume is {str(tmp_path / 'x')!r}, which is not there" in refused(tmp_path / "x")
    assert "which is no file" in refused(tmp_path)
    assert "can't be read (Not a directory)" in refused(tmp_path / "file" / "x") if _file(tmp_path) else True
    assert "can't be read" in refused("x\0y")
    assert "can't be read (File name too long)" in refused("x" * 5000)


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "which is no file" in refused(tmp_path / "pipe")


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\x89PNG\r\n\x1a\n" + bytes(64), b"prompt: a red disc\n" * 9, bytes(64), b"\xff" * 64,
     struct.pack("<Q", 40) + b"[" * 40, struct.pack("<Q", 100_000) + b"[" * 100_000, struct.pack("<Q", 2) + b"[]"],
)  # fmt: skip
def test_other_kinds_of_files(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(data)
    assert "which is damaged or another kind of file, allowed: " in refused(tmp_path / "x")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_models_weights(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    given = {name: getattr(saved(), name) for name in ("latent", "mean", "deviation")}
    save_file(given, tmp_path / "x", metadata)
    assert "another kind of file" in refused(tmp_path / "x")


def test_every_bit_counts(path: Path) -> None:
    """One in each byte: of the header's length, of the header, of the latent, of the anchor."""
    write(path, saved(latent=draws(5, 2, 4, 1, 2), made_of={"seed": "7"}))
    data, random_bit = path.read_bytes(), random.Random(1)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << random_bit.randrange(8)
        path.write_bytes(changed)
        refused(path)


def test_no_part_of_a_file_is_taken_for_it(path: Path) -> None:
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path)
    assert "is damaged" in refused(path)
    path.write_bytes(data + b"\0")
    assert "is damaged" in refused(path)


Header = dict[str, Any]


def forge(path: Path, change: Callable[[Header], object], data: bytes | None = None) -> None:
    """Changes the header of a good file as `change` does."""
    given = path.read_bytes()
    (length,) = struct.unpack("<Q", given[:8])
    header = json.loads(given[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + (given[8 + length :] if data is None else data))


@pytest.mark.parametrize(("version", "words"), [("2", "has the newer format 2, allowed: up to 1"), ("x", "is damaged")])
def test_a_newer_format(version: str, words: str, path: Path) -> None:
    """Whatever else it has changed."""
    forge(path, lambda header: header["__metadata__"].update({"demofusion format": version}))
    assert words in refused(path)
    forge(path, lambda header: header.pop("latent"))
    assert words in refused(path)


HUGE = 2**40
MALICIOUS: dict[str, Callable[[Header], object]] = {
    "large": lambda h: h["latent"].update(shape=[1, 4, 2**18, 2**18], data_offsets=[0, HUGE]),
    "larger": lambda h: h["latent"].update(shape=[2**62] * 4, data_offsets=[0, 2**62]),
    "beyond": lambda h: h["latent"].update(shape=[2**200, 4, 6, 5]),
    "negative": lambda h: h["latent"].update(shape=[-1, -4, 6, 5]),
    "empty": lambda h: h["latent"].update(shape=[0, 4, 6, 5], data_offsets=[0, 0]),
    "true": lambda h: h["latent"].update(shape=[True, 4, 6, 5]),
    "turned": lambda h: h["latent"].update(shape=[2, 4, 5, 6]),
    "flat": lambda h: h["latent"].update(shape=[2 * 4 * 6 * 5]),
    "twice": lambda h: h["mean"].update(data_offsets=h["deviation"]["data_offsets"]),
    "backwards": lambda h: h["latent"].update(data_offsets=[HUGE, 0]),
    "type": lambda h: h["latent"].update(dtype="I32"),
    "no type": lambda h: h["latent"].update(dtype=["F32"]),
    "no entry": lambda h: h.update(latent=[]),
    "no place": lambda h: h["latent"].pop("data_offsets"),
    "one place": lambda h: h["latent"].update(data_offsets=[0]),
    "missing": lambda h: h.pop("mean"),
    "more": lambda h: h.update(more=h["mean"]),
    "no fields": lambda h: h.update(__metadata__=[]),
    "no texts": lambda h: h["__metadata__"].update({"demofusion phase": 3}),
    "no checksum": lambda h: h["__metadata__"].pop("demofusion checksum"),
}


@pytest.mark.parametrize("change", MALICIOUS)
def test_what_a_header_says_is_not_believed(change: str, path: Path) -> None:
    """No memory is taken for it: the file has 2 KB."""
    forge(path, MALICIOUS[change])
    tracemalloc.start()
    try:
        assert "is damaged" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def signed(monkeypatch: pytest.MonkeyPatch, path: Path, given: SavedPhase) -> None:
    """A file with the right checksum of what `write` would not write."""
    with monkeypatch.context() as patched:
        patched.setattr("demofusion_lib.saved._check", lambda *given: None)
        write(path, given)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"latent": torch.full((2, 4, 6, 5), float("nan"))}, "its latent is not finite"),
        ({"deviation": torch.full((2, 1, 1, 1), float("-inf"))}, "its deviation is not finite"),
        ({"latent": torch.zeros(2, 3, 6, 5)}, "its latent is (2, 3, 6, 5)"),
        ({"latent": torch.zeros(2, 4, 1, 16385)}, "its latent is (2, 4, 1, 16385)"),
        ({"mean": torch.zeros(3, 1, 1, 1)}, "its mean is (3, 1, 1, 1)"), ({"number": 0}, "its phase is 0"),
        ({"number": 10**9}, "its phase is '1000000000'"), ({"number": -1}, "its phase is '-1'"),
        ({"window_batch": 10**12}, "its window batch is"),
    ],
)  # fmt: skip
def test_what_no_phase_ends_with(bad: dict[str, Any], words: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed(monkeypatch, path, saved(**bad))
    assert f"which is damaged ({words}" in refused(path)


def test_what_differs_is_named_in_one_line() -> None:
    assert differences(MADE_OF, dict(MADE_OF)) == []
    names = differences(MADE_OF, {**MADE_OF, "seed": "8", "steps": "21", "vae": "x"})
    assert names == ["seed", "steps", "vae"] == differences({**MADE_OF, "vae": "x"}, {"prompt": MADE_OF["prompt"]})
    check_made_of("x", [])
    with pytest.raises(ResumeError, match="^DemoFusion: resume is 'x', which was made with another seed, steps, vae$"):
        check_made_of("x", names)
    with pytest.raises(ResumeError) as stop:
        check_made_of("x" * 200, ["a\nb", *map(str, range(50))])
    assert "'a\\nb', 0, 1, 2, 3, 4, 5, 6 and 43 more" in str(stop.value) and len(str(stop.value)) < 250


def test_a_climb_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """From every phase, by way of the file. A phase's own statistics are phase 1's but for rounding: they would not do."""
    base, phases = draws(1, 2, 4, 9, 7).mul(2).add(1), plan_phases((9, 7), (36, 28), "every")

    def denoise(phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return previous.square() + phase.number

    undisturbed = list(climb(base, phases, denoise))
    anchor = statistics(base)
    for done, (_, latent) in enumerate([(None, base), *undisturbed]):
        write(tmp_path / "x", SavedPhase(done + 1, latent, *anchor, 0, {}))
        got = read(tmp_path / "x")
        rest = list(climb(got.latent, phases[done:], denoise, anchor=got.anchor))
        assert [phase for phase, _ in rest] == phases[done:]
        for (_, ours), (_, theirs) in zip(rest, undisturbed[done:]):
            assert torch.equal(ours, theirs)
    own = list(climb(undisturbed[0][1], phases[1:], denoise))
    assert not torch.equal(own[-1][1], undisturbed[-1][1])
