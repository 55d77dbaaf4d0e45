"""Saved phases, and runs that go on from them: the same latents to the bit, or one line that says why not."""

import errno
import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from .test_endings import FAULTS, at_call, calls_before, from_call, raise_error

SIDE = 64
SIZE = {"width": SIDE, "height": SIDE, "steps": 4}
SETTINGS = {"scale": 3, "save_phases": True}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def files():
    return sorted(path.name for path in Path("out/demofusion").glob("*")) if Path("out/demofusion").exists() else []


def stopped(host, place, settings=SETTINGS, **fields):
    """A run that was interrupted at a place, and the file that it left."""
    number = calls_before(host, *place, **fields)
    host.model.hooks.on_call = at_call(number, host.state.interrupt)
    outcome = host.txt2img(settings, **{**SIZE, **fields})
    host.model.hooks.on_call = lambda n: None
    (name,) = files()
    assert f"resume {name} goes on from there" in outcome.comments and name in outcome.infotext
    return outcome, name


@pytest.mark.parametrize("sampler", ["Euler", "Euler a", "DPM++ 2M SDE", "Heun", "DDIM", "UniPC", "Restart", "LCM"])
@pytest.mark.parametrize("place", [(2, 1, 0), (3, 1, 0)], ids=str)
def test_it_goes_on_to_the_same_bits(host, place, sampler):
    fields = {"sampler_name": sampler, "batch_size": 2}
    undisturbed = host.txt2img({"scale": 3}, **SIZE, **fields)
    _, name = stopped(host, place, **fields)
    resumed = host.txt2img({**SETTINGS, "resume": name}, **SIZE, **fields)
    assert len(resumed.samplings) == 4 - place[0]
    assert torch.equal(resumed.latents[-1], undisturbed.latents[-1])
    assert all(map(np.array_equal, resumed.images, undisturbed.images))
    assert resumed.infotext == undisturbed.infotext
    assert files() == [] and not resumed.comments


@pytest.mark.parametrize("kind", ["sdxl", "seamless", "cropped", "v"])
def test_every_kind_of_picture(host, kind):
    settings, fields = dict(SETTINGS), {}
    if kind in ("sdxl", "v"):
        host.install(sdxl=kind == "sdxl", parameterization="v" if kind == "v" else "eps")
    if kind == "seamless":
        fields = {"tiling": True}
    if kind == "cropped":
        settings |= {"target_width": 128, "target_height": 192}
    undisturbed = host.txt2img({**settings, "save_phases": False}, **SIZE, **fields)
    number = len(undisturbed.base.calls) + len(undisturbed.phases[0].calls) + 1
    host.model.hooks.on_call = at_call(number, host.state.interrupt)
    host.txt2img(settings, **SIZE, **fields)
    resumed = host.txt2img({**settings, "resume": "last"}, **SIZE, **fields)
    assert torch.equal(resumed.latents[-1], undisturbed.latents[-1]) and len(resumed.samplings) == 1


def test_a_resumed_run_can_be_resumed(host):
    undisturbed = host.txt2img({"scale": 3}, **SIZE)
    _, name = stopped(host, (2, 1))
    host.model.hooks.on_call = at_call(len(undisturbed.phases[0].calls) + 1, host.state.interrupt)
    again = host.txt2img({**SETTINGS, "resume": name}, **SIZE)
    assert again.sizes == [(128, 128)] and files() == [name]
    host.model.hooks.on_call = lambda n: None
    last = host.txt2img({**SETTINGS, "resume": "last"}, **SIZE)
    assert torch.equal(last.latents[-1], undisturbed.latents[-1]) and len(last.samplings) == 1


def test_nothing_is_left_of_a_run_that_ends_well(host):
    outcome = host.txt2img(SETTINGS, **SIZE, n_iter=2)
    assert files() == [] and not outcome.comments and outcome.sizes == [(192, 192)] * 2


def test_nothing_is_written_unasked(host):
    host.model.hooks.on_call = at_call(calls_before(host, 3, 1), host.state.interrupt)
    outcome = host.txt2img({"scale": 3}, **SIZE)
    assert files() == [] and "resume" not in outcome.comments


@pytest.mark.parametrize("end", ["memory", "vae", "skip"])
def test_the_file_stays_however_a_run_ends(host, end):
    number = calls_before(host, 3, 1)
    hooks = host.model.hooks
    if end == "vae":
        hooks.decoded = lambda image: raise_error(FAULTS["memory"]) if image.shape[-1] > 128 else image
    else:
        hooks.on_call = from_call(
            number, lambda: raise_error(FAULTS["memory"]) if end == "memory" else host.state.skip()
        )
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [(128, 128)] and len(files()) == 1
    hooks.on_call, hooks.decoded = lambda n: None, lambda image: image
    resumed = host.txt2img({**SETTINGS, "resume": files()[0]}, **SIZE)
    assert resumed.sizes == [(192, 192)] and len(resumed.samplings) == (0 if end == "vae" else 1)


def test_each_finished_phase_is_there_while_the_next_is_drawn(host):
    """A killed process loses no more than the phase under way."""
    saved = importlib.import_module("demofusion_lib.saved")
    seen = []

    def look(number):
        seen.extend(saved.read(f"out/demofusion/{name}").number for name in files() if name.endswith(".safetensors"))

    host.model.hooks.on_call = look
    host.txt2img(SETTINGS, **SIZE)
    assert sorted(set(seen)) == [1, 2] and seen == sorted(seen)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"prompt": "fog"}, ["Prompt"]),
        ({"seed": 6}, ["Seed"]),
        ({"steps": 5, "cfg_scale": 4.0}, ["Steps", "CFG scale"]),
        ({"sampler_name": "Heun"}, ["Sampler"]),
        ({"s_churn": 5.0, "eta": 0.3}, ["eta", "s_churn"]),
        ({"s_min_uncond": 3.0, "s_noise": 1.5}, ["s_min_uncond", "s_noise"]),
        ({"eta": 0.0, "s_tmax": 9.0}, ["eta", "s_tmax"]),
        ({"width": 72}, ["Width"]),
        ({"batch_size": 2}, ["another Batch size"]),
    ],
    ids=str,
)
def test_another_picture_is_refused(host, change, names):
    _, name = stopped(host, (3, 1))
    outcome = host.run(host.generation({**SETTINGS, "resume": name}, **{**SIZE, **change}))
    assert outcome.calls == 0 and "which was made with another" in str(outcome.error)
    assert all(name in str(outcome.error) for name in names) and len(files()) == 1


@pytest.mark.parametrize("change", [{"a1": 2.0}, {"scale": 4}, {"overlap": 0.25}, {"plan": "doubling"}], ids=str)
def test_other_settings_are_refused(host, change):
    _, name = stopped(host, (3, 1))
    outcome = host.run(host.generation({**SETTINGS, "resume": name, **change}, **SIZE))
    assert outcome.calls == 0 and f"DemoFusion {next(iter(change))}" in str(outcome.error)


@pytest.mark.parametrize(
    "change", [{"window_batch": 1}, {"keep_phases": True}, {"vae": "auto"}, {"save_phases": False}], ids=str
)
def test_what_leaves_the_latents_as_they_are_may_differ(host, change):
    _, name = stopped(host, (3, 1))
    resumed = host.txt2img({**SETTINGS, "resume": name, **change}, **SIZE)
    assert resumed.sizes[0] == (192, 192) and len(resumed.samplings) == 1 and files() == []


def test_a_run_of_several_batches_goes_on_with_the_one_that_was_ended(host):
    """The first is drawn anew, as its pictures are on the disk and its file is gone."""
    fields = {**SIZE, "n_iter": 2}
    undisturbed = host.txt2img({"scale": 3}, **fields)
    per_image = sum(len(sampling.calls) for sampling in undisturbed.samplings[:3])
    host.model.hooks.on_call = at_call(per_image + calls_before(host, 3, 1), host.state.interrupt)
    host.txt2img(SETTINGS, **fields)
    host.model.hooks.on_call = lambda n: None
    (name,) = files()
    for resume in ("last", name):
        saved = Path("out/demofusion", name).read_bytes()
        resumed = host.txt2img({**SETTINGS, "resume": resume}, **fields)
        assert len(resumed.samplings) == 4 and files() == []
        assert all(map(np.array_equal, resumed.images, undisturbed.images))
        Path("out/demofusion").mkdir()
        Path("out/demofusion", name).write_bytes(saved)


def test_options_that_samplers_write_into_the_request_are_the_same_before_and_after(host):
    host.opts.s_churn, host.opts.s_noise = 2.0, 1.01
    fields = {**SIZE, "n_iter": 2, "s_churn": 4.0}
    undisturbed = host.txt2img({"scale": 3}, **fields)
    per_image = sum(len(sampling.calls) for sampling in undisturbed.samplings[:3])
    host.model.hooks.on_call = at_call(per_image + calls_before(host, 3, 1), host.state.interrupt)
    host.txt2img(SETTINGS, **fields)
    host.model.hooks.on_call = lambda n: None
    resumed = host.txt2img({**SETTINGS, "resume": "last"}, **fields)
    assert all(map(np.array_equal, resumed.images, undisturbed.images)) and files() == []


def test_the_file_of_a_batch_that_is_done_is_removed_before_the_next(host):
    seen = []
    host.model.hooks.on_call = lambda n: seen.append(files())
    host.txt2img(SETTINGS, **SIZE, n_iter=3)
    assert max(map(len, seen)) == 1 and not Path("out/demofusion").exists()


def test_a_run_that_came_farther_is_not_written_over(host):
    saved = importlib.import_module("demofusion_lib.saved")
    _, name = stopped(host, (3, 1))
    host.model.hooks.on_call = at_call(calls_before(host, 2, 1), host.state.interrupt)
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert saved.read(f"out/demofusion/{name}").number == 2
    assert f"resume {name} goes on" in outcome.comments


def test_another_model_is_refused(host):
    _, name = stopped(host, (3, 1))
    host.install("other.safetensors")
    host.opts.sd_model_checkpoint = "other"
    outcome = host.run(host.generation({**SETTINGS, "resume": name}, **SIZE))
    assert outcome.calls == 0 and "was made with another Checkpoint" in str(outcome.error)


def damage(path, how):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:-10])
    elif how == "bit":
        path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    elif how == "foreign":
        path.write_bytes(b"PK" + data[2:])
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize("page", [False, True])
@pytest.mark.parametrize("how", ["cut", "bit", "foreign", "empty"])
def test_a_damaged_file_is_refused_in_one_line(host, how, page):
    _, name = stopped(host, (3, 1))
    damage(Path("out/demofusion", name), how)
    p = host.generation({**SETTINGS, "resume": name}, **SIZE)
    outcome = host.run(p, page=page)
    assert outcome.calls == 0
    told = outcome.comments if page else str(outcome.error)
    assert (
        f"{'Resume' if page else 'resume'} is '{name}', which is damaged" in told
        and len(told.strip().splitlines()) == 1
    )


@pytest.mark.parametrize("name", ["5-0000.safetensors", "../5-0000.safetensors", "last"])
def test_a_file_that_is_not_there_is_told_while_it_is_typed(host, name):
    """In the run's words, by the page and the API; where either of them saves is looked."""
    forecast = importlib.import_module("demofusion_lib.webui.forecast").forecast
    asked = {"enabled": True, **SETTINGS, "resume": name}
    told = forecast(asked, **SIZE, sampler="Euler")
    assert str(told.error) == str(host.run(host.generation(asked, **SIZE)).error)
    assert told.mistakes["resume"].startswith(f"Resume is {name!r}, ")
    assert forecast({**asked, "scale": 1}, **SIZE).error is None
    if name.startswith(".."):
        return
    (Path("elsewhere") / "demofusion").mkdir(parents=True)
    (Path("elsewhere") / "demofusion" / "5-0000.safetensors").touch()
    for option in ("outdir_samples", "outdir_txt2img_samples"):
        host.opts.set(option, "elsewhere")
        assert forecast(asked, **SIZE, sampler="Euler").error is None
        host.opts.set(option, "")


@pytest.mark.parametrize(
    "name", ["nothing.safetensors", "../x.safetensors", "/etc/passwd", "a\\b", "C:x", "out/demofusion/x", ".."]
)
def test_a_file_that_is_not_there_or_elsewhere_is_refused(host, name):
    outcome = host.run(host.generation({**SETTINGS, "resume": name}, **SIZE))
    assert outcome.calls == 0 and str(outcome.error).startswith(f"DemoFusion: resume is {name!r}, ")


def test_the_last_of_none(host):
    outcome = host.run(host.generation({**SETTINGS, "resume": "last"}, **SIZE))
    assert "no run has left a file" in str(outcome.error)


def test_a_full_disk_while_a_phase_is_saved_ends_no_run(host, monkeypatch):
    saved = importlib.import_module("demofusion_lib.saved")
    tries = []

    def write(path, phase):
        tries.append(phase.number)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved, "write", write)
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [(192, 192)] and tries == [1]
    assert "the latent of phase 1 can't be saved (No space left on device)" in outcome.comments


class TestPictures:
    """What is shown is on the disk too, or it is said that it can't be."""

    @pytest.fixture
    def full(self, monkeypatch):
        usage = shutil.disk_usage(".")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type(usage)(usage.total, usage.used, 100_000))

    def test_without_room_they_are_shown_and_it_is_said(self, host, full):
        outcome = host.txt2img(SETTINGS, **SIZE)
        assert outcome.sizes == [(192, 192)]
        assert "what is shown can't be saved (0 MiB are free" in outcome.comments
        assert "can't be saved" in outcome.infotext
        assert not list(Path("out").glob("*.png"))
        assert len(files()) == 1  # what it was drawn from is still needed

    def test_a_folder_that_can_not_be_written_to(self, host):
        Path("out").write_text("a file where the folder should be")
        outcome = host.txt2img({"scale": 3}, **SIZE)
        assert outcome.sizes == [(192, 192)] and "what is shown can't be saved (" in outcome.comments

    def test_with_room_they_are_saved(self, host):
        outcome = host.txt2img({"scale": 3}, **SIZE)
        assert not outcome.comments and not os.path.exists("out/demofusion")

    def test_a_kept_phase_without_room_ends_no_run(self, host, monkeypatch):
        original = host.images.save_image

        def save_image(image, *args, **kwargs):
            if image.size[0] == 128:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(image, *args, **kwargs)

        monkeypatch.setattr(host.images, "save_image", save_image)
        outcome = host.txt2img({"scale": 3, "keep_phases": True}, **SIZE)
        assert sorted(outcome.sizes) == [(64, 64), (128, 128), (192, 192)]
        assert "the picture of phase 2 can't be saved (No space left on device)" in outcome.comments
