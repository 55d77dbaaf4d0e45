"""A run that was ended goes on from its last finished phase, and draws the picture of an undisturbed one, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from demofusion_lib import saved as files
from demofusion_lib.params import SETTINGS, Params
from demofusion_lib.saved import SavedPhase, read, write
from demofusion_lib.setting import quoted
from demofusion_lib.standalone import cli, keeping, output
from demofusion_lib.standalone.decoding import Way, decode
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.flags import NOT_HERE
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.names import SAMPLERS
from demofusion_lib.standalone.resuming import FREE, OWN, TABLE

from .test_output import no_room

Run = Callable[..., int]
SAVING = ("--save-phases", "--scale", "3")


def order(sampler: str = "Euler", images: int = 1, **settings: object) -> Order:
    params = Params.from_names({"enabled": True, "preset": "none", "scale": 3, **settings})
    return Order(["a red disc"] * images, [7, 2**63 - 1][:images], 64, 64, params, steps=3, sampler=sampler)


def bits(latents: list[torch.Tensor]) -> list[bytes]:
    return [bytes(latent.contiguous().view(-1).view(torch.uint8).numpy()) for latent in latents]


def goes_on(model: Model, wanted: Order, path: Path) -> None:
    """From each of its phases, by way of the file."""
    drawing = Drawing(model, wanted)
    done = []
    for phase in drawing.phases():
        done.append((phase, drawing.batch.size or 0))
    whole = bits([phase.latent for phase, _ in done])
    for number, (phase, batch) in enumerate(done):
        write(path, SavedPhase(phase.number, phase.latent, *phase.anchor, batch, {}))
        again = Drawing(model, wanted, saved=read(path))
        assert again.fits(read(path))
        if batch:
            again.batch.size = batch
        rest = list(again.phases())
        assert bits([phase.latent for phase in rest]) == whole[number:]
        assert [phase.number for phase in rest] == list(range(number + 1, len(whole) + 1))
        assert sum(phase.evaluations for phase in rest) == again.evaluations_left or wanted.sampler == "DPM adaptive"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_goes_on_bit_for_bit(sampler: str, models: dict[str, Model], tmp_path: Path) -> None:
    scale = 2 if sampler == "DPM adaptive" else 3  # it takes its time
    goes_on(models["sd"], order(sampler, scale=scale), tmp_path / "x")


@pytest.mark.parametrize(
    "wanted",
    [order("Euler a", images=2), order(target_width=128, target_height=192), order(scale=2.5, window_batch=3)],
    ids=["batch", "cropped", "scale"],
)  # fmt: skip
def test_sdxl_batches_and_crops_go_on_bit_for_bit(wanted: Order, models: dict[str, Model], tmp_path: Path) -> None:
    goes_on(models["sdxl"], wanted, tmp_path / "x")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Callable[..., contextlib.AbstractContextManager[None]]:
    """Within it, phase `number` ends in `error` after it was drawn."""

    @contextlib.contextmanager
    def within(number: int, error: BaseException) -> Iterator[None]:
        real = Drawing._phase

        def phase(self: Drawing, wanted: Any, previous: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            result = real(self, wanted, previous, *rest)
            if wanted.number == number:
                raise error
            return result

        with monkeypatch.context() as patched:
            patched.setattr(Drawing, "_phase", phase)
            yield

    return within


Ends = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.mark.parametrize(
    ("error", "code", "flags"),
    [
        (KeyboardInterrupt(), 130, ()), (torch.cuda.OutOfMemoryError("no memory"), 1, ("--no-keep-phases",)),
        (ArithmeticError("NaN"), 1, ("--sampler", "DPM++ SDE", "--dtype", "bfloat16", "--negative=--fog", "--vae", "exact",
                                     "--no-jitter", "--overlap", "0.25", "--cfg-scale", "2.5", "--seed", "9")),
    ],
    ids=["interrupt", "memory", "all kinds of flags"],
)  # fmt: skip
def test_from_whatever_ended_it(
    error: BaseException, code: int, flags: tuple[str, ...], run: Run, ends: Ends, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Twice in a row, with nothing but the file; in the end there is what an undisturbed run leaves."""
    out, file = tmp_path / "out", tmp_path / "out" / "resume.safetensors"
    assert run(*SAVING, *flags, prompt="-a red\ndisc ü") == 0
    undisturbed = contents(out)
    assert not file.exists() and undisturbed
    shutil.rmtree(out)
    with ends(2, error):
        assert run(*SAVING, *flags, prompt="-a red\ndisc ü") == code
    assert read(file).number == 1
    capsys.readouterr()
    with ends(3, error):
        assert cli.main(["--resume", str(file), "--json"]) == code
    said = capsys.readouterr()
    assert said.err.splitlines()[-1] == f"demofusion --resume {file} goes on from phase 2"
    report = json.loads(said.out)
    assert report["resume"] == {"file": str(file), "phase": 2} and report["final"]["phase"] == 2
    assert [phase["phase"] for phase in report["phases"]] == [1, 2]
    assert cli.main(["--resume", str(file), "--json"]) == 0
    said = capsys.readouterr()
    assert contents(out) == undisturbed
    report = json.loads(said.out)
    assert report["resume"] is None and report["notes"] == [] and "--resume" not in said.err
    assert [(phase["phase"], phase["evaluations"] > 0) for phase in report["phases"]] == [(2, False), (3, True)]


def test_the_folder_was_moved(run: Run, ends: Ends, tmp_path: Path) -> None:
    """The pictures go to where the file is; to another place if that is said. The owner of a copy keeps it."""
    run(*SAVING)
    undisturbed = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    with ends(3, MemoryError()):
        run(*SAVING)
    moved = tmp_path / "else where"
    (tmp_path / "out").rename(moved)
    shutil.copytree(moved, tmp_path / "copy")
    assert cli.main(["--resume", str(moved / "resume.safetensors")]) == 0
    assert contents(moved) == undisturbed and not (tmp_path / "out").exists()
    file = tmp_path / "copy" / "resume.safetensors"
    assert cli.main(["--resume", str(file), "--out", str(tmp_path / "out")]) == 0
    assert contents(tmp_path / "out")["final.png"] == undisturbed["final.png"]
    assert file.exists() and not (tmp_path / "out" / "resume.safetensors").exists()


@pytest.fixture
def ended(run: Run, ends: Ends, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The file of a run that ended in phase 3, with `--sampler Euler --scheduler Karras --seed 5`."""
    with ends(3, MemoryError()):
        run(*SAVING, "--scheduler", "Karras", "--seed", "5")
    capsys.readouterr()
    return tmp_path / "out" / "resume.safetensors"


def refused(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([*flags, "--json"])
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.err.count("\n") == said.out.count("\n") == 1
    assert said.err == f"demofusion: {json.loads(said.out)['error']}\n"
    return json.loads(said.out)["error"]


@pytest.fixture
def loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*given: object, **named: object) -> None:
        raise AssertionError("loads")

    monkeypatch.setattr(cli, "load_model", load)


OTHERS = {
    "prompt": ["a blue disc"], "negative": ["--negative", "fog"], "seed": ["--seed", "6"], "model": ["--model", "toy"],
    "variant": ["--variant", "fp16"], "config": ["--config", "sdxl"], "prediction_type": ["--prediction-type", "sample"],
    "width": ["--width", "72"], "height": ["--height", "72"], "sampling_steps": ["--sampling-steps", "4"],
    "sampler": ["--sampler", "Heun"], "scheduler": ["--scheduler", "Automatic"], "cfg_scale": ["--cfg-scale", "1"],
    "dtype": ["--dtype", "bfloat16"], "regions": ["--regions", "fog ADDCOL a forest"],
}  # fmt: skip


def another(name: str) -> list[str]:
    """A flag that contradicts the file."""
    if name in OTHERS:
        return OTHERS[name]
    setting, flag = TABLE[name], f"--{name.replace('_', '-')}"
    if setting.kind is bool:
        return [f"--no-{name.replace('_', '-')}"]
    if setting.names:
        return [flag, {"phase_sampler": "Heun", "phase_scheduler": "Exponential"}[name]]
    if setting.choices:
        return [flag, setting.choices[-1] if setting.default != setting.choices[-1] else setting.choices[0]]
    if setting.is_prompt:
        return [flag, "fog"]
    assert setting.high is not None
    other = "2" if name == "scale" else "0" if setting.default else f"{min(setting.high, 64):g}"
    return [flag, other]


def test_what_is_given_besides_must_not_contradict(
    ended: Path, loads_nothing: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every flag that the picture depends on, one by one, before anything is loaded."""
    for name in [*OWN, *(name for name in TABLE if name not in FREE)]:
        told = refused(capsys, "--resume", str(ended), *another(name))
        assert told == f"resume is {quoted(str(ended))}, which was made with another {name}", name
    told = refused(capsys, "--resume", str(ended), "a blue disc", "--seed", "6", "--overlap", "0.25")
    assert told.endswith("which was made with another prompt, seed, overlap")


def test_what_may_be_given_besides(ended: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    """The same once more, and what leaves the latents as they are."""
    same = [
        "a red disc",
        "--seed",
        "5",
        "--scale",
        "3",
        "--dtype",
        "auto",
        "--sampler",
        "Euler Karras",
        "--width",
        "64",
    ]
    model = os.path.relpath(folders["sd"])
    free = [
        "--no-keep-phases",
        "--vae",
        "host",
        "--window-batch",
        "2",
        "--no-save-phases",
        "--device",
        "cpu",
        "--preset",
        "fine",
    ]
    assert cli.main(["--resume", str(ended), *same, "--model", model, *free, "--out", str(tmp_path / "new")]) == 0
    assert list(contents(tmp_path / "new")) == ["final.png"]
    assert {name.removeprefix("--").removeprefix("no-").replace("-", "_") for name in free if name[0] == "-"} > set(
        FREE
    )


def test_another_model_of_the_same_name(
    ended: Path, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that was only moved is the same."""
    moved = tmp_path / "moved" / folders["sd"].name
    shutil.copytree(folders["sd"], moved)
    flags = ["--resume", str(ended), "--model", str(moved), "--out", str(tmp_path / "new")]
    weights = next((moved / "unet").glob("*.safetensors"))
    changed = {name: tensor * (1 + 1e-6 * (tensor.ndim > 1)) for name, tensor in load_file(weights).items()}
    before = weights.read_bytes()
    save_file(changed, weights, {"format": "pt"})
    told = refused(capsys, *flags)
    assert told == f"resume is {quoted(str(ended))}, which was made with another model's weights"
    weights.write_bytes(before)
    assert cli.main(flags) == 0


def rewrite(path: Path, **made_of: str | None) -> None:
    got = read(path)
    texts = {**got.made_of, **{name: text for name, text in made_of.items() if text is not None}}
    write(path, replace(got, made_of={name: text for name, text in texts.items() if made_of.get(name, "") is not None}))


def test_files_that_are_not_this_commands(ended: Path, loads_nothing: None, capsys: pytest.CaptureFixture[str]) -> None:
    good = ended.read_bytes()
    for change, words in (
        ({"host": "webui"}, "which was not made by the command line, allowed: "),
        ({"seed": None}, "which was not made by the command line, allowed: "),
        ({"colour": "1"}, "which has settings that this version lacks: ['colour']"),
        ({"seed": "x"}, "which is damaged (argument --seed: is 'x', allowed: "),
        ({"overlap": "7"}, "which is damaged (argument --overlap: "),
    ):
        rewrite(ended, **change)  # type: ignore[arg-type]
        assert words in refused(capsys, "--resume", str(ended))
        ended.write_bytes(good)
    ended.write_bytes(good[:-1])
    assert "which is damaged (" in refused(capsys, "--resume", str(ended))
    assert "which is not there" in refused(capsys, "--resume", str(ended.with_name("x")))
    assert "which is no file" in refused(capsys, "--resume", str(ended.parent))
    assert "required: prompt" in refused(capsys, "--seed", "1")


def test_a_setting_of_a_later_version_has_its_default(ended: Path) -> None:
    rewrite(ended, step_normalised=None)
    assert cli.main(["--resume", str(ended)]) == 0


def test_a_phase_that_the_order_does_not_have(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change in ({"number": 4}, {"latent": torch.zeros(1, 4, 16, 24)}, {"number": 1}):
        good = ended.read_bytes()
        write(ended, replace(read(ended), **change))  # type: ignore[arg-type]
        assert "has another size)" in refused(capsys, "--resume", str(ended))
        ended.write_bytes(good)


def test_a_name_of_any_bytes(run: Run, ends: Ends, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o ut\udcff"
    with ends(3, MemoryError()):
        run(*SAVING, "--out", str(out))
    assert "demofusion --resume '" in capsys.readouterr().err
    assert cli.main(["--resume", str(out / "resume.safetensors")]) == 0
    assert sorted(contents(out)) == ["final.png", "phase1.png", "phase2.png", "phase3.png"]


def test_a_run_that_ends_well_leaves_the_files_of_others(run: Run, ended: Path) -> None:
    assert run() == 0
    assert read(ended).number == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], contextlib.AbstractContextManager[None]]]]:
    """A folder, and what fills it up: a file system of 400 KB where one may be mounted, else a limit of files' sizes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(1024)):
                pass
        try:
            yield
        finally:
            (folder / "filler").unlink()

    yield folder, full if mounted else lambda: no_room(1000)
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_disk_is_full_while_a_phase_is_saved(
    small_disk: tuple[Path, Callable[[], contextlib.AbstractContextManager[None]]], run: Run, ends: Ends,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Once: it is told, the drawing goes on, and the phase before is there to go on from."""
    folder, full = small_disk
    real = keeping.write

    def writing(path: Path, phase: SavedPhase) -> None:
        with full() if phase.number == 2 else contextlib.nullcontext():
            real(path, phase)

    monkeypatch.setattr(keeping, "write", writing)
    with ends(3, MemoryError("no memory")):
        assert run(*SAVING, "--no-keep-phases", "--out", str(folder), "--json") == 1
    said = capsys.readouterr()
    report = json.loads(said.out)
    (note,) = report["notes"]
    assert note.startswith("phase 2 can't be saved in resume.safetensors (") and f"demofusion: {note}\n" in said.err
    assert "No space left on device" in note or "File too large" in note
    assert report["final"]["phase"] == 2 and report["resume"] == {
        "file": str(folder / "resume.safetensors"),
        "phase": 1,
    }
    assert read(folder / "resume.safetensors").number == 1 and not list(folder.glob("*.part"))
    monkeypatch.undo()
    assert cli.main(["--resume", str(folder / "resume.safetensors"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["final"]["phase"] == 3 and report["error"] is None
    assert [path.name for path in folder.iterdir()] == ["final.png"]


def test_a_disk_that_stays_full_costs_no_picture(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*given: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(keeping, "write", write)
    assert run(*SAVING, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["notes"]) == 3 and report["error"] is None and report["resume"] is None
    assert report["final"]["phase"] == 3


def test_a_phase_of_nan_takes_no_good_ones_place(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = Drawing._phase

    def phase(self: Drawing, wanted: Any, previous: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return real(self, wanted, previous, *rest) * (torch.nan if wanted.number == 3 else 1)

    with monkeypatch.context() as patched:
        patched.setattr(Drawing, "_phase", phase)
        assert run(*SAVING, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["notes"] == ["phase 3 can't be saved in resume.safetensors (its latent is not finite)"]
    assert report["final"]["phase"] == 2 and report["resume"]["phase"] == 2
    assert cli.main(["--resume", report["resume"]["file"]]) == 0
    assert Image.open(tmp_path / "out" / "final.png").size == (192, 192)


@pytest.mark.parametrize("flags", [["--save-phases"], ["--no-keep-phases"], []])
def test_the_last_picture_fails(
    flags: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left to do then is to decode it: no step is drawn again. It is saved even where nobody asked for that."""

    def limited(model: Model, latent: torch.Tensor, way: Way) -> list[Image.Image]:
        if latent.shape[-1] > 16:
            raise RuntimeError("too large")
        return decode(model, latent, way)

    with monkeypatch.context() as patched:
        patched.setattr(output, "decode", limited)
        assert run("--scale", "3", *flags) == 1
    file = tmp_path / "out" / "resume.safetensors"
    assert capsys.readouterr().err.splitlines()[-1] == f"demofusion --resume {file} goes on from phase 3"
    assert cli.main(["--resume", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [phase["evaluations"] for phase in report["phases"]] == [0] and report["final"]["phase"] == 3
    assert not file.exists()


@pytest.fixture
def no_vae(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise AssertionError("decodes")

    monkeypatch.setattr(output, "decode", refuse)


def test_latents_instead_of_pictures(
    run: Run, tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """They say what a picture would, and can be made one later."""
    out = tmp_path / "out"
    assert run() == 0
    undisturbed = contents(out)
    shutil.rmtree(out)
    with monkeypatch.context() as patched:
        patched.setattr(output, "decode", lambda *given: 1 / 0)
        patched.setattr("diffusers.AutoencoderKL.decode", lambda *given: 1 / 0)
        assert run("--no-decode") == 0
    assert f"latent: {out / 'final.safetensors'}\n" in capsys.readouterr().out
    assert sorted(contents(out)) == ["final.safetensors", "phase1.safetensors", "phase2.safetensors"]
    for name, size in (("phase1", 8), ("phase2", 16), ("final", 16)):
        with safe_open(out / f"{name}.safetensors", "pt") as file:
            assert file.get_tensor("latent").shape == (1, 4, size, size)
            info = Image.open(_put(tmp_path, undisturbed[f"{name}.png"])).info["parameters"]
            assert file.metadata()["parameters"] == info
    assert cli.main(["--resume", str(out / "final.safetensors"), "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "final.png").read_bytes() == undisturbed["final.png"]
    assert run("--no-decode", "--no-keep-phases", "--out", str(tmp_path / "last")) == 0
    assert sorted(contents(tmp_path / "last")) == ["final.safetensors"]


def _put(folder: Path, data: bytes) -> Path:
    (folder / "x.png").write_bytes(data)
    return folder / "x.png"


def test_settings_are_all_accounted_for() -> None:
    """One that is appended belongs to what a picture is made of, unless it is said to be free."""
    assert {*TABLE, *NOT_HERE} == {setting.name for setting in SETTINGS}
    assert set(FREE) < set(TABLE)
    assert files.VERSION == 1


def test_another_runs_file_stays(run: Run, ends: Ends, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was ended can be gone on from, whatever is drawn in the same folder since."""
    with ends(2, RuntimeError("broken")):
        run(*SAVING, "--out", str(tmp_path), "--seed", "1")
    first = (tmp_path / "resume.safetensors").read_bytes()
    assert run(*SAVING, "--out", str(tmp_path), "--seed", "2") == 0
    assert (tmp_path / "resume.safetensors").read_bytes() == first
    with ends(2, RuntimeError("broken")):
        run(*SAVING, "--out", str(tmp_path), "--seed", "3")
    assert "resume-2.safetensors goes on from phase 1" in capsys.readouterr().err
    assert run("--resume", str(tmp_path / "resume-2.safetensors"), "--out", str(tmp_path)) == 0
    assert run(*SAVING, "--out", str(tmp_path), "--seed", "1") == 0  # its own run takes its place
    assert sorted(path.name for path in tmp_path.glob("resume*")) == []
