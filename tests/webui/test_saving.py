"""What is on disk after a run: each finished picture that is shown, once, under its name."""

import importlib
import os

import numpy as np
import pytest
from PIL import Image

SETTINGS = {"scale": 3}
SIZE = {"width": 64, "height": 64, "steps": 4}
CALL_IN_PHASE_3 = 14
"""Of a batch of one, with all windows at once: 4 calls for the base image, 2 an evaluation for phase 2."""


def stop_at(host, number, press="interrupt"):
    host.model.hooks.on_call = lambda n: getattr(host.state, press)() if n == number else None


def saved(host):
    return [entry for entry in host.images._saved if not entry.grid]


def assert_each_shown_is_saved_once(host, outcome):
    """As many files as pictures, and pixel by pixel the same."""
    files = {entry.file: np.array(entry.image) for entry in saved(host)}  # what was written last stands there
    assert len(files) == len(outcome.images)
    for image in outcome.images:
        assert sum(np.array_equal(image, file) for file in files.values()) == 1


@pytest.mark.parametrize("press", ["interrupt", "skip"])
def test_a_stopped_run(host, press):
    stop_at(host, CALL_IN_PHASE_3, press)
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [(128, 128)]
    assert_each_shown_is_saved_once(host, outcome)
    (entry,) = saved(host)
    assert entry.file.endswith("-demofusion-phase-2.png")
    assert "DemoFusion stopped: phase 2 of 3" in entry.info


def test_a_stopped_run_with_kept_phases_shows_and_saves_each_once(host):
    stop_at(host, CALL_IN_PHASE_3)
    outcome = host.txt2img({**SETTINGS, "keep_phases": True}, **SIZE)
    assert outcome.sizes == [(128, 128), (64, 64)]
    assert_each_shown_is_saved_once(host, outcome)
    assert sorted(name[-23:] for name in {entry.file for entry in saved(host)}) == [
        "-demofusion-phase-1.png", "-demofusion-phase-2.png"
    ]  # fmt: skip


def test_the_picture_on_disk_has_the_last_touches(host):
    """What other extensions do to a finished picture is in the file, also where the phase had been saved before."""

    class Inverts(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def postprocess_image(self, p, pp, *args):
            pp.image = pp.image.point(lambda value: 255 - value)

    stop_at(host, CALL_IN_PHASE_3)
    outcome = host.txt2img({**SETTINGS, "keep_phases": True}, **SIZE, scripts=(Inverts(),))
    assert_each_shown_is_saved_once(host, outcome)


def test_no_second_file_where_the_host_numbers_files(host, monkeypatch):
    """It would write the kept phase's file again with a number behind its name, so that one is taken away first."""
    removed = []
    kept = vars(importlib.import_module("demofusion_lib.webui.kept"))
    monkeypatch.setattr(kept["os"], "remove", removed.append)
    monkeypatch.setattr(kept["os"].path, "exists", lambda name: True)
    monkeypatch.setitem(kept, "written", lambda file: file)
    host.opts.save_images_replace_action = "Add number suffix"
    stop_at(host, CALL_IN_PHASE_3)
    host.txt2img({**SETTINGS, "keep_phases": True}, **SIZE)
    assert removed == [saved(host)[-1].file]


def test_an_earlier_runs_file_is_left_alone_where_the_host_numbers_files(host, tmp_path):
    """The host says the name without its number: what is taken away is the file that was just written."""
    kept = vars(importlib.import_module("demofusion_lib.webui.kept"))
    host.opts.save_images_replace_action = "Add number suffix"
    for number, name in enumerate(("a.png", "a-1.png", "a-3.png")):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (number, number))
    assert kept["written"](str(tmp_path / "a.png")) == str(tmp_path / "a-1.png")
    (tmp_path / "a-2.png").write_text("just now, in a gap")
    assert kept["written"](str(tmp_path / "a.png")) == str(tmp_path / "a-2.png")
    host.opts.save_images_replace_action = "Replace"
    assert kept["written"](str(tmp_path / "a.png")) == str(tmp_path / "a.png")


def test_patterns_of_file_names_know_the_image(host, monkeypatch):
    """`[batch_number]` and `[generation_number]` ask the object for its `batch_index`."""
    seen = []
    original = host.images.save_image
    monkeypatch.setattr(
        host.images, "save_image", lambda *args, p, **more: seen.append(p.batch_index) or original(*args, p=p, **more)
    )
    outcome = host.txt2img({"scale": 2, "keep_phases": True}, **SIZE, batch_size=2, n_iter=2)
    assert seen == [0, 1, 0, 1] * 2
    assert outcome.sizes.count((64, 64)) == 4


@pytest.mark.parametrize("keep", [False, True])
def test_batches_of_several_pictures(host, keep):
    """Two at a time, twice, stopped in the first batch by Skip: the second is drawn to its end."""
    stop_at(host, CALL_IN_PHASE_3, "skip")
    outcome = host.txt2img({**SETTINGS, "keep_phases": keep}, **SIZE, batch_size=2, n_iter=2)
    assert outcome.sizes[:4] == [(128, 128)] * 2 + [(192, 192)] * 2
    assert_each_shown_is_saved_once(host, outcome)
    named = [entry.file for entry in saved(host) if entry.suffix == "" and "phase" in entry.file]
    assert len(named) == 2


def test_pressed_when_everything_is_finished(host):
    """While the last picture decodes: it is whole."""
    host.model.hooks.decoded = lambda image: host.state.interrupt() or image
    outcome = host.txt2img(SETTINGS, **SIZE)
    assert outcome.sizes == [(192, 192)]
    (entry,) = saved(host)
    assert "phase" not in entry.file


@pytest.mark.parametrize("keep", [False, True])
def test_after_a_fault(host, keep):
    def fails(image):
        if image.shape[-1] == 192:
            raise RuntimeError("out of memory")
        return image

    host.model.hooks.decoded = fails
    outcome = host.txt2img({**SETTINGS, "keep_phases": keep}, **SIZE)
    assert outcome.sizes[0] == (128, 128)
    assert_each_shown_is_saved_once(host, outcome)


@pytest.mark.parametrize("option", [False, True])
def test_an_unfinished_base_image_is_the_hosts_matter(host, option):
    host.opts.save_incomplete_images = option
    stop_at(host, 1)
    host.txt2img(SETTINGS, **SIZE)
    assert len(saved(host)) == option


@pytest.mark.parametrize("how", ["samples_save", "do_not_save_samples"])
def test_nothing_is_saved_where_nothing_is_to_be(host, how):
    fields = {}
    if how == "samples_save":
        host.opts.samples_save = False
    else:
        fields["do_not_save_samples"] = True
    stop_at(host, CALL_IN_PHASE_3)
    host.txt2img(SETTINGS, **SIZE, **fields)
    assert not saved(host)


def test_the_next_run_is_named_as_ever(host):
    p = host.generation(SETTINGS, **SIZE)
    stop_at(host, CALL_IN_PHASE_3)
    host.run(p)
    stop_at(host, -1)
    assert host.run(p).error is None
    assert "phase" not in saved(host)[-1].file


# Kept phases


@pytest.mark.parametrize("n_iter", [1, 2])
def test_the_page_shows_each_phase_behind_its_picture(host, n_iter):
    """And tells its "reuse seed" and "save" of each what is its own."""
    p = host.generation(
        {**SETTINGS, "keep_phases": True}, **SIZE, batch_size=2, n_iter=n_iter, prompt=["a", "b"] * n_iter
    )
    outcome = host.run(p, page=True)
    count = 2 * n_iter
    assert outcome.sizes == [(192, 192), (64, 64), (128, 128)] * count
    processed = outcome.processed
    for i, text in enumerate(processed.infotexts):
        seed = 5 + i // 3
        assert text.startswith("ab"[i // 3 % 2]) and f"Seed: {seed}," in text
        assert processed.all_seeds[i] == seed and processed.all_prompts[i] == "ab"[i // 3 % 2]
        assert text == processed.images[i].info["parameters"]
        assert [f"DemoFusion phase: {n} of 3" in text for n in (1, 2)] == [i % 3 == 1, i % 3 == 2]
    assert len(processed.images) == len(processed.infotexts) == len(processed.all_seeds) == 3 * count
    assert len(p.all_seeds) == len(p.all_prompts) == count
    assert_each_shown_is_saved_once(host, outcome)
    for entry in saved(host):
        told = [n for n in (1, 2) if f"DemoFusion phase: {n} of 3" in entry.info]
        assert [n for n in (1, 2) if entry.file.endswith(f"-demofusion-phase-{n}.png")] == told
    assert "DemoFusion phase" not in p.extra_generation_params


def test_behind_a_grid_and_before_what_others_have_added(host):
    def others(p, processed):
        processed.images.insert(0, processed.images[0].resize((8, 8)))
        processed.infotexts.insert(0, "grid")
        processed.index_of_first_image = 1
        processed.images.append(processed.images[0].resize((16, 16)))
        ours(p, processed)

    p = host.generation({"scale": 2, "keep_phases": True}, **SIZE, batch_size=2)
    ours, p.scripts.postprocess = p.scripts.postprocess, others
    outcome = host.run(p, page=True)
    assert outcome.sizes == [(8, 8), (128, 128), (64, 64), (128, 128), (64, 64), (16, 16)]
    assert outcome.processed.infotexts[0] == "grid" and len(outcome.processed.infotexts) == 5


def test_a_stopped_run_on_the_page(host):
    stop_at(host, CALL_IN_PHASE_3, "skip")
    p = host.generation({**SETTINGS, "keep_phases": True}, **SIZE, n_iter=2)
    outcome = host.run(p, page=True)
    assert outcome.sizes == [(128, 128), (64, 64), (192, 192), (64, 64), (128, 128)]
    assert ["DemoFusion stopped" in text for text in outcome.processed.infotexts] == [True, False, False, False, False]
    assert_each_shown_is_saved_once(host, outcome)


def test_what_the_page_saves_by_hand_bears_the_phases_number_too(host):
    p = host.generation({**SETTINGS, "keep_phases": True}, **SIZE)
    outcome = host.run(p, page=True)
    host.images._saved.clear()
    for image, text in zip(outcome.processed.images, outcome.processed.infotexts):
        host.images.save_image(image, "log", "", info=text, p=object())
    assert [entry.file.partition("demofusion")[2] for entry in saved(host)] == ["", "-phase-1.png", "-phase-2.png"]
    host.images.save_image(
        outcome.processed.images[0], "log", "", info="DemoFusion phase: 2 of 3\nSteps: 4", p=object()
    )
    assert "demofusion" not in saved(host)[-1].file
    host.images.save_image(outcome.processed.images[0], "log", "", info=None, p=object())
    assert not host.swallowed


# Large pictures


@pytest.mark.parametrize(
    ("name", "size", "written"),
    [
        ("a.jpg", (65504, 8), "a.png"), ("a.jpg", (65500, 8), "a.jpg"), ("a.jpeg", (8, 65504), "a.png"),
        ("a.webp", (16384, 8), "a.png"), ("a.webp", (16376, 8), "a.webp"), ("a.png", (65504, 8), "a.png"),
    ],
)  # fmt: skip
def test_a_format_that_cant_hold_a_picture_is_another(host, name, size, written):
    """libjpeg's limit is 65500 px a side, the host's 65535."""
    formats = importlib.import_module("demofusion_lib.webui.formats")
    params = host.script_callbacks.ImageSaveParams(Image.new("L", size), None, f"out/{name}", {})
    formats.name_by_size(params)
    assert params.filename == f"out/{written}"


def test_a_jpeg_of_one_side_too_many_is_a_png_on_disk(host):
    host.opts.samples_format = "jpg"
    limits = importlib.import_module("demofusion_lib.webui.formats").LIMITS_PX
    limits["jpg"] = 191
    outcome = host.txt2img({"scale": 3, "keep_phases": True}, **SIZE)
    assert [os.path.splitext(entry.file)[1] for entry in saved(host)] == [".jpg", ".jpg", ".png"]
    assert "jpg holds 191 px a side at most" in outcome.comments


def test_a_picture_of_ours_is_no_attack_when_it_is_read_again(host, monkeypatch, tmp_path):
    """The page's Save, Zip and "Send to" open its file."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    outcome = host.txt2img({"scale": 3}, **SIZE)
    outcome.processed.images[0].save(tmp_path / "large.png")
    assert Image.open(tmp_path / "large.png").size == (192, 192)
    assert Image.MAX_IMAGE_PIXELS == 192 * 192
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    host.txt2img({"scale": 3}, **SIZE)
    assert Image.MAX_IMAGE_PIXELS is None
