"""The button beside the gallery's own upscale button."""

import importlib
import json
import types
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from PIL import Image

SIDE = 64
STEPS = 4
TOLD = "taken over from an earlier run"
THROUGH = "the picture itself goes through the VAE in place of phase 1"


class Page:
    """The txt2img tab: its fields, its gallery and what it knows of the pictures there."""

    def __init__(self, host, folder):
        self.host, self.folder = host, folder
        self.gallery, self.known, self.comments, self.drawn = [], "", "", None
        host.opts.data["demofusion_held_mb"] = 16
        host.opts.data["demofusion_native_sd1"] = SIDE
        host.opts.samples_save = False
        assert host.model is not None
        self.lib = importlib.import_module("demofusion_lib.webui.gallery")
        self.store = importlib.import_module("demofusion_lib.webui.held").STORE

    def args(self, settings=None, **fields):
        """What txt2img is handed: the prompt first, the scripts' last. The sampler and the seed are scripts' in the webui."""
        host, scripts = self.host, self.host.scripts
        values = {
            "prompt": "cat",
            "negative_prompt": "dog",
            "styles": [],
            "n_iter": 1,
            "batch_size": 1,
            "cfg_scale": 3.0,
        }
        self.fields = {"steps": STEPS, "seed": 5, "sampler_name": "Euler", **fields}
        values |= {name: self.fields.pop(name) for name in values if name in self.fields}
        sides = [self.fields.pop(side, SIDE) for side in ("height", "width")]
        scripts.scripts_txt2img = runner = scripts.ScriptRunner()
        runner._add(host.our_script(), self.by_position(settings))
        fields = self.fields

        class Fields(scripts.Script):
            def show(self, is_img2img):
                return scripts.AlwaysVisible

            def setup(self, p, *args):
                for name, value in fields.items():
                    setattr(p, name, value)

        runner._add(Fields(), [])
        runner.scripts[-1].filename = "processing_scripts/fields.py"
        runner._add(host.witness, [])
        runner.inputs[0] = 0
        return [*values.values(), *sides, False, 0.7, 2, None, 0, 0, 0, None, None, None, "", "", [], *runner.inputs]

    def by_position(self, settings):
        params = self.host.params
        values = params.preset_values("none") | {"window_batch": 64, "vae": "host"} | (settings or {})
        return [values[setting.name] for setting in params.SETTINGS]

    def generate(self, settings=None, **fields):
        args = self.args(settings, **fields)
        p = importlib.import_module("modules.txt2img").txt2img_create_processing("task(1)", SimpleNamespace(), *args)
        self.host.state.begin("txt2img")
        self.host.witness.samplings.clear()
        processed = self.host.processing.process_images(p)
        self.comments = processed.comments
        self.show(processed)

    def show(self, processed):
        self.drawn = processed.images
        self.gallery = [self.entry(i, image) for i, image in enumerate(processed.images)]
        self.known = json.dumps({
            "infotexts": processed.infotexts, "index_of_first_image": processed.index_of_first_image,
            **{name: list(getattr(processed, name)) for name in ("all_prompts", "all_seeds")},
        })  # fmt: skip

    def entry(self, number, image):
        path = self.folder / f"{len(list(self.folder.iterdir()))}-{number}.png"
        image.save(path)
        return {"name": f"{path}?1.5", "data": None, "is_file": True}

    def press(self, settings=None, index=0, **fields):
        """The pictures that the gallery has now; None where it stays as it is."""
        self.host.witness.samplings.clear()
        self.host.model.decoded.clear()
        args = self.args(settings, **fields)
        pictures, known, info, comments = self.lib.enlarge(
            "task(1)", SimpleNamespace(), self.gallery, index, self.known, *args
        )
        self.comments, self.info = comments, info
        if known == gr.update():
            assert pictures == info == gr.update()
            return None
        self.known, self.drawn = known, pictures
        kept = {}
        for i, picture in enumerate(pictures):
            kept[i] = (
                {"name": picture.already_saved_as} if hasattr(picture, "already_saved_as") else self.entry(i, picture)
            )
        self.gallery = list(kept.values())
        return [Image.open(entry["name"].rsplit("?", 1)[0]) for entry in self.gallery]

    @property
    def infotexts(self):
        return json.loads(self.known)["infotexts"]


@pytest.fixture
def page(host, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gallery").mkdir()
    return Page(host, tmp_path / "gallery")


def from_nothing(page, settings, **fields):
    """Generate with DemoFusion on, nothing held."""
    page.store.clear()
    page.generate({"enabled": True, **settings}, **fields)
    page.store.clear()
    return page.drawn, page.infotexts


def same(one, other):
    return all(np.array_equal(np.array(a), np.array(b)) for a, b in zip(one, other)) and len(one) == len(other)


def test_it_stands_beside_the_hosts_and_takes_and_answers_the_same(host, page):
    script = host.our_script()
    with gr.Blocks() as blocks:
        with gr.Row() as row:
            hosts = host.ui_components.ToolButton(value="x", elem_id="txt2img_upscale")
            script.after_component(hosts)
        fields, gallery, log = [gr.Textbox(), gr.Slider()], gr.Gallery(), gr.HTML()
        before = hosts.click(
            fn=lambda *values: values, _js="submit_txt2img_upscale", inputs=[*fields, gallery], outputs=[gallery, log],
            show_progress=False,
        )  # fmt: skip
        hosts.click(fn=lambda *values: values, inputs=fields, outputs=[log])  # another extension's: not ours too
    assert before["targets"] == [hosts._id]
    ours = row.children[row.children.index(hosts) + 1]
    assert ours.elem_id == "txt2img_demofusion_upscale" and ours.webui_tooltip.startswith(
        "Enlarge the selected picture"
    )
    theirs, mine = ([d for d in blocks.dependencies if d["targets"] == [button._id]] for button in (hosts, ours))
    assert len(theirs) == 2 and len(mine) == 1
    for name in ("inputs", "outputs", "js", "show_progress"):
        assert mine[0][name] == theirs[0][name]


@pytest.mark.parametrize("word", ["_js", "js"])
def test_the_browsers_part_by_the_name_that_gradio_has_for_it(host, monkeypatch, word):
    """Forge's page says `js` where others say `_js`: an error there takes its API down."""
    gallery, wired = importlib.import_module("demofusion_lib.webui.gallery"), []
    ours = types.SimpleNamespace(click=lambda **said: wired.append(said))
    monkeypatch.setattr(gallery, "ToolButton", lambda **said: ours)
    theirs = types.SimpleNamespace(elem_id="txt2img_upscale", click=lambda **said: "theirs")
    gallery.made(theirs)
    assert theirs.click(fn=print, inputs=[1], outputs=[2], **{word: "press"}) == "theirs"
    (said,) = wired
    assert said[word] == "press" and said["inputs"] == [1] and said["outputs"] == [2]


def test_as_if_it_had_been_drawn_with_demofusion(page):
    expected, infotexts = from_nothing(page, {"scale": 2})
    page.generate()
    pictures = page.press({"scale": 2}, prompt="another", seed=77, steps=9, batch_size=3, n_iter=2, width=96)
    assert f"phase 1 is {TOLD}" in page.comments and len(page.host.witness.samplings) == 1
    assert same(pictures, expected) and page.infotexts == infotexts
    assert infotexts[0].splitlines()[0] in page.info.replace("<br>", "")


def test_twice_and_then_four_times(page):
    expected, infotexts = from_nothing(page, {"scale": 4})
    page.generate()
    page.press({"scale": 2})
    pictures = page.press({"scale": 4})
    assert f"phases 1 to 2 are {TOLD}" in page.comments
    assert same(pictures, expected) and page.infotexts == infotexts
    page.generate({"enabled": True, "scale": 4})  # and what Generate draws afterwards has it all
    assert same(page.drawn, expected) and f"phases 1 to 4 are {TOLD}" in page.comments


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M SDE", "DDIM"])
def test_a_picture_of_a_batch(page, sampler):
    page.generate(batch_size=3, sampler_name=sampler)
    before = [np.array(Image.open(entry["name"].rsplit("?", 1)[0])) for entry in page.gallery]
    pictures = page.press({"scale": 2}, index=1)
    assert TOLD in page.comments and [picture.size[0] for picture in pictures] == [SIDE, 2 * SIDE, SIDE]
    assert all(np.array_equal(before[i], np.array(pictures[i])) for i in (0, 2))
    assert ["Seed: 6" in text for text in page.infotexts] == [False, True, False]
    drawn = np.array(pictures[1], dtype=int)
    expected, _ = from_nothing(page, {"scale": 2}, batch_size=3, sampler_name=sampler)
    assert abs(np.array(expected[1], dtype=int) - drawn).max() <= 1  # other groups of rows


def test_kept_phases_come_along_and_one_of_them_can_be_chosen(page):
    page.generate(batch_size=2)
    pictures = page.press({"scale": 3, "keep_phases": True}, index=0)
    assert [picture.size[0] for picture in pictures] == [3 * SIDE, SIDE, 2 * SIDE, SIDE]
    known = json.loads(page.known)
    assert len(known["infotexts"]) == 4 and known["all_seeds"] == [5, 5, 5, 6]
    assert "DemoFusion phase: 1 of 3" in known["infotexts"][1]
    pictures = page.press({"scale": 4}, index=2)
    assert f"phases 1 to 3 are {TOLD}" in page.comments
    assert [picture.size[0] for picture in pictures] == [3 * SIDE, SIDE, 4 * SIDE, SIDE]


@pytest.mark.parametrize("scale", [2, 1.5])
def test_without_a_latent_the_picture_itself_is_phase_1(page, scale):
    page.generate()
    page.store.clear()
    pictures = page.press({"scale": scale})
    assert THROUGH in page.comments and THROUGH in page.infotexts[0]
    assert pictures[0].size == (SIDE * scale, SIDE * scale)
    assert [s.x.shape[-1] for s in page.host.witness.samplings] == [SIDE * scale // 8]
    assert "Seed: 5" in page.infotexts[0]


def test_a_picture_that_was_enlarged_before_and_is_no_longer_held(page):
    """Its own size counts then, and windows are of the model's."""
    page.generate({"enabled": True, "scale": 2})
    page.store.clear()
    pictures = page.press({"scale": 2})
    assert THROUGH in page.comments and pictures[0].size == (4 * SIDE, 4 * SIDE)


def test_what_is_held_goes_when_it_is_turned_off(page):
    page.generate()
    page.host.opts.data["demofusion_held_mb"] = 0
    page.press({"scale": 2})
    assert THROUGH in page.comments


def test_a_picture_of_another_model_is_not_gone_on_from(page):
    page.host.install()
    page.generate()
    page.host.install("other.safetensors")
    page.host.opts.sd_model_checkpoint = "other"
    page.host.sd_models.reload_model_weights()
    page.press({"scale": 2})
    assert THROUGH in page.comments


def test_its_settings_are_the_pictures_own(page):
    page.host.opts.CLIP_stop_at_last_layers = 2
    expected, infotexts = from_nothing(page, {"scale": 2}, subseed=3, subseed_strength=0.5, cfg_scale=4)
    page.generate(subseed=3, subseed_strength=0.5, cfg_scale=4)
    pictures = page.press({"scale": 2, "resume": "x"})
    assert same(pictures, expected) and page.infotexts == infotexts


@pytest.mark.parametrize("what", ["empty", "grid", "unknown", "no infotext", "scale", "settings", "nonsense"])
def test_what_can_not_be_enlarged_is_told_in_a_line_and_nothing_changes(page, what):
    page.generate()
    settings, told = {"scale": 2}, ""
    if what == "empty":
        page.gallery, page.known, told = [], "", "there is no picture in the gallery"
    elif what == "grid":
        page.known, told = (
            page.known.replace('"index_of_first_image": 0', '"index_of_first_image": 1'),
            "a grid is selected",
        )
    elif what == "unknown":
        page.known, told = "", "nothing is known of the picture"
    elif what == "no infotext":
        page.known, told = json.dumps({**json.loads(page.known), "infotexts": [""]}), "nothing is known"
    elif what == "nonsense":
        page.known = json.dumps(
            {**json.loads(page.known), "infotexts": ["cat\nSteps: many, Sampler: Euler, Seed: 5, Size: 64x64"]}
        )
        told = "Steps of the selected picture can"
    elif what == "scale":
        settings, told = {"scale": 1}, "the target is the picture"
    else:
        settings, told = {"overlap": 7}, "Window overlap is 7, allowed: 0 to 0.9"
    with pytest.warns(UserWarning, match="DemoFusion: not drawn"):
        assert page.press(settings) is None
    assert f"DemoFusion: not drawn: {told}" in page.comments.replace("&#x27;", "'")
    assert not page.host.witness.samplings and not page.host.swallowed


def test_a_run_that_was_stopped_ends_with_what_was_finished(page):
    page.generate()
    page.host.model.hooks.on_call = lambda n: page.host.state.interrupt()
    pictures = page.press({"scale": 2})
    assert pictures[0].size == (SIDE, SIDE) and "interrupted in phase 2 of 2" in page.comments
