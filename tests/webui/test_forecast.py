"""What a request is said to cost and to come to, against the run that it makes."""

import importlib
from time import perf_counter, thread_time
from types import SimpleNamespace

import pytest

from .test_planning import rows
from .test_samplers import NAMES

BASE = {"width": 128, "height": 128, "steps": 4, "cfg_scale": 3.0}
OURS = {"enabled": True, "preset": "none", "vae": "host"}


@pytest.fixture
def room(host):
    host.model  # noqa: B018
    return importlib.import_module("demofusion_lib.webui.forecast")


def drawn(outcome):
    return sum(rows(sampling) for sampling in outcome.samplings)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DPM adaptive"])
def test_what_a_run_evaluates(host, room, name):
    settings = {**OURS, "scale": 3, "plan": "doubling", "a2": 4.0, "steps": 5}
    told = room.forecast(settings, **BASE, sampler=name, batch_size=2, n_iter=2)
    outcome = host.txt2img(settings, sampler_name=name, batch_size=2, n_iter=2)
    assert told.evaluations == drawn(outcome) and told.exact and told.error is None
    assert told.images == 4 and told.sizes[0] == (128, 128) and told.sizes[-1] == outcome.sizes[0]
    assert told.times_base == pytest.approx(drawn(outcome) / (2 * rows(outcome.base)))


@pytest.mark.parametrize("scheduler", ["Automatic", "Karras", "SGM Uniform", "Beta", "Align Your Steps"])
@pytest.mark.parametrize("preset", ["paper", "draft"])
def test_with_any_schedule(host, room, scheduler, preset):
    settings = {**OURS, "preset": preset, "scale": 2}
    told = room.forecast(settings, **BASE, sampler="Euler", scheduler=scheduler)
    assert told.evaluations == drawn(host.txt2img(settings, sampler_name="Euler", scheduler=scheduler))


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "DDIM", "UniPC", "Restart"])
def test_before_a_model_is_loaded(host, sampler):
    """It is not asked for, and what its size and weights have no part in is told: the noise levels are SD's own."""
    room = importlib.import_module("demofusion_lib.webui.forecast")
    settings = {**OURS, "scale": 2, "a2": 4.0}
    before = room.forecast(settings, **BASE, sampler=sampler, scheduler="Automatic")
    assert host.shared.sd_model is None and before.memory_bytes is None and before.error is None
    host.model  # noqa: B018
    after = room.forecast(settings, **BASE, sampler=sampler, scheduler="Automatic")
    assert before.evaluations == after.evaluations and after.memory_bytes
    assert before.line() and after.line().startswith(before.line())


def test_what_only_the_model_knows_is_not_told_without_it(host):
    room = importlib.import_module("demofusion_lib.webui.forecast")
    told = room.forecast({**OURS}, **BASE, sampler="LCM")
    assert told.evaluations is None and told.line() == "128x128 -> 256x256 · 2 phases"
    assert room.forecast({**OURS}, **BASE, sampler="Euler", scheduler="Align Your Steps").evaluations


REFUSED = (
    {"scale": 9, "blur": -1, "plan": "evry", "scael": 2},
    {"target_width": 64, "target_height": 4096},
    {"phase_sampler": "Oiler"},
    {"phase_scheduler": "Karras", "phase_sampler": "DDIM"},
    {"target_width": 1001},
)


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_mistakes_in_the_words_of_the_run(host, room, settings):
    """And in the page's, where a label stands for a name."""
    told = room.forecast({**OURS, **settings}, **BASE, sampler="Euler")
    error = host.run(host.generation({**OURS, **settings}, sampler_name="Euler")).error
    assert str(told.error) == str(error) and told.line() == ""
    known = host.params.BY_NAME
    names = {name for name in settings if name in known and f"{name} is" in str(error)}
    assert names and names <= set(told.mistakes)
    for name in names:
        assert told.mistakes[name].startswith(f"{known[name].label} is {settings[name]!r}, allowed")
        assert told.mistakes[name].partition(" is ")[2] in str(error)


def test_mistakes_of_several_kinds_at_once(room):
    told = room.forecast({**OURS, "blur": 9, "target_width": 64}, **BASE)
    assert set(told.mistakes) == {"blur", "target_width"}
    assert told.mistakes["target_width"].endswith("(the nearest is 128)")


@pytest.mark.parametrize("field", ["width", "height", "steps", "batch_size", "n_iter"])
@pytest.mark.parametrize("value", [None, "", 0, -8, float("nan"), 2.5])
def test_a_field_that_is_being_typed(room, field, value):
    told = room.forecast([True, 2.0], **{**BASE, field: value})
    assert told.line() == "" and f"{field} is {value!r}" in told.mistakes[""]


def test_a_base_image_without_a_cell(room):
    assert "below 8 px" in room.forecast([True, 2.0], **{**BASE, "width": 4}).mistakes[""]


@pytest.mark.parametrize("field", ["width", "height", "steps"])
def test_what_nobody_can_draw_takes_no_time(host, room, field):
    """Nor memory. A run is refused in the same words."""
    begun = perf_counter()
    told = room.forecast(OURS, **{**BASE, field: 10**9})
    assert told.error is not None and perf_counter() - begun < 1
    fields = {"width": 64, "height": 64, "steps": 2} | {field: 10**9}
    outcome = host.run(host.generation({"scale": 2}, **fields))
    assert str(outcome.error) == str(told.error)


def test_a_picture_too_large_to_reckon_its_decode(room):
    assert room.forecast({**OURS, "scale": 8}, **{**BASE, "width": 4096, "height": 4096}).memory_bytes is None
    assert room.forecast(OURS, **BASE).memory_bytes


def test_too_many_arguments(room):
    assert "100 arguments" in room.forecast([True] * 100, **BASE).mistakes[""]


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ({"target_width": 256, "target_height": 128}, {}),
        ({"scale": 1.55}, {}),
        ({"scale": 2}, {"enable_hr": True}),
        ({"scale": 2}, {"width": 130}),
    ],
    ids=str,
)
def test_what_the_run_will_tell(host, room, settings, fields):
    told = room.forecast({**OURS, **settings}, **{**BASE, **fields})
    comments = host.txt2img({**OURS, **settings}, **fields).comments
    assert told.warnings and all(f"DemoFusion: {text}." in comments for text in told.warnings if "far from" not in text)
    assert (told.cropped != "") == ("cropped" in comments)


def test_nothing_to_do(host, room):
    told = room.forecast({**OURS, "scale": 1}, **BASE, enable_hr=True)
    assert told.nothing == told.line() == "scale 1: nothing will be done, the image stays 128x128 px"
    assert not [text for text in told.warnings if "Hires" in text] and told.times_base == 1
    same = room.forecast({**OURS, "target_width": 128}, **BASE)
    assert f"DemoFusion: {same.nothing}." in host.txt2img({**OURS, "target_width": 128}).comments


def test_a_base_image_far_from_the_native_size(host, room):
    host.opts.data["demofusion_native_sd1"] = 128
    assert room.forecast([True, 2.0], **BASE).warnings == []
    assert room.forecast([True, 2.0], **{**BASE, "width": 192, "height": 96}).warnings == []
    (large,) = room.forecast([True, 2.0], **{**BASE, "width": 512}).warnings
    assert "far from 128x128 px, at which SD 1 was trained: objects may repeat" in large
    assert "draws badly" in room.forecast([True, 2.0], **{**BASE, "width": 64, "height": 64}).warnings[0]


def info(name, **metadata):
    return SimpleNamespace(name_for_extra=name, filename=f"/models/{name}.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    ("checkpoint", "family"),
    [
        (info("juggernautXL_v9"), "SDXL"),
        (info("my-model", **{"modelspec.architecture": "stable-diffusion-xl-v1-base"}), "SDXL"),
        (info("my-model", ss_base_model_version="sdxl_base_v1-0"), "SDXL"),
        (info("v2-1_768-ema-pruned"), "SD 2-v"),
        (info("my-model", ss_base_model_version="sd_v2_768_v"), "SD 2-v"),
        (info("my-model", **{"modelspec.architecture": "stable-diffusion-v1"}), "SD 1"),
        (info("pixlart"), ""),
        (info("my-model"), ""),
    ],
    ids=lambda value: getattr(value, "name_for_extra", value),
)
def test_a_checkpoint_that_is_not_loaded(host, room, checkpoint, family):
    host.sd_models.checkpoint_aliases["other"] = checkpoint
    told = room.forecast([True, 2.0], **BASE, wanted_checkpoint="other")
    assert (told.family, told.checkpoint, told.memory_bytes) == (family, checkpoint.name_for_extra, None)
    assert told.evaluations and any("far from" in text for text in told.warnings) == (family != "")


def test_memory(host, room, monkeypatch):
    coder = host.model.first_stage_model
    memory = importlib.import_module("demofusion_lib.webui.needed")
    monkeypatch.setattr(memory.vae, "chosen", lambda given, *size, **more: asked.append((given, size, more["mode"])))
    asked = []
    told = room.forecast({**OURS, "scale": 3, "vae": "exact"}, **BASE)
    assert asked == [(coder, (48, 48), "exact")]
    assert told.fits is False and "can't be decoded" in told.warnings[-1]
    grown = room.forecast({**OURS, "scale": 4, "vae": "exact"}, **BASE)
    assert grown.memory_bytes > told.memory_bytes > 0
    assert room.forecast({**OURS, "scale": 3}, **BASE).fits is None  # by the host in one piece: nobody knows


def test_what_is_free_is_asked_for_between_runs(host, room, monkeypatch):
    """What a run holds it gives back; and a device is not to be asked at every key."""
    asked = []
    memory = importlib.import_module("demofusion_lib.webui.needed")
    monkeypatch.setattr(memory.vae.Memory, "find", lambda *given: asked.append(given) or len(asked))
    now = [0.0]
    monkeypatch.setattr(memory, "monotonic", lambda: now[0])
    free = memory.Free()
    assert (free(), free()) == (1, 1)
    now[0] = 10.0
    host.state.job = "txt2img"
    assert free() == 1
    host.state.job = ""
    assert free() == 2


def test_at_once(room):
    """While somebody types; the first one reads tables."""
    settings = {"enabled": True, "preset": "paper", "scale": 8, "overlap": 0.9}
    fields = {**BASE, "width": 1024, "height": 1024, "steps": 150}
    room.forecast(settings, **fields)
    began = thread_time()  # what other programs take says nothing
    for _ in range(5):
        room.forecast(settings, **fields)
    assert (thread_time() - began) / 5 < 0.15


def test_words(host, room):
    seconds = (0.2, 4, 12.4, 59, 70, 840, 3500, 3600, 4800, 39000)
    assert [room.duration_text(s) for s in seconds] == [
        "1 s", "4 s", "10 s", "1 min", "1 min", "14 min", "58 min", "1 h", "1 h 20 min", "11 h"
    ]  # fmt: skip
    assert [room.bytes_text(n) for n in (1, 64_300_000, 1e9, 6_140_000_000, 31e9)] == [
        "1 MB", "64 MB", "1.0 GB", "6.1 GB", "31 GB"
    ]  # fmt: skip
    assert [room.times_text(n, "the base image") for n in (3.75, 2.0, 9.96, 112.9)] == [
        f"{n}x the base image" for n in ("3.8", "2", "10", "113")
    ]
    assert room.count_text(5650, True) == "5,650 evaluations" and room.count_text(5650, False).startswith("about 5,600")


def test_time_from_earlier_runs_alone(host, room, monkeypatch):
    speeds = importlib.import_module("demofusion_lib.webui.speeds")
    work = importlib.import_module("demofusion_lib.work")
    settings = {**OURS, "scale": 2, "dilated": False}
    first = room.forecast(settings, **BASE)
    assert first.seconds is None and "this machine" not in first.line()
    asked = []
    known = work.Speeds(row=2.0, decoded_px=0.5, encoded_px=0.25, base_row=3.0)
    monkeypatch.setattr(room, "known", lambda *given: asked.append(given) or known)
    told = room.forecast(settings, **BASE, n_iter=3)
    base, phase = told.phases
    pixels = work.vae_px(256, 256)
    expected = 3 * (base["evaluations"] * 3.0 + phase["evaluations"] * 2.0 + pixels * 0.5)
    assert told.seconds == pytest.approx(expected) and asked == [(host.model, (16, 16), "host")]
    assert f"about {room.duration_text(expected)} on this machine" in told.line() and speeds.known is not known
