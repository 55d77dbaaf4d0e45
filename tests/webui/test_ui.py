"""The accordion, and the way back from an image's infotext."""

import importlib
import json
import re
import sys

import gradio as gr
import pytest

CHANGED = {
    "enabled": True, "scale": 2.5, "target_width": 256, "target_height": 192, "plan": "doubling", "steps": 7, "a1": 2.0,
    "a2": 1.5, "a3": 0.5, "step_normalised": False, "blur": 0.4, "overlap": 0.25, "jitter": False, "border": "paper",
    "window_batch": 8, "sdxl_size": "phase", "keep_phases": True, "skip_residual": False, "dilated": False,
    "vae": "host", "save_phases": False, "resume": "", "start": 601, "residual": "x0", "gate": 0.1, "window_weight": "gaussian",
    "guidance": "low-pass", "guidance_until": 300, "preset": "fast", "phase_sampler": "DPM++ 2M",
    "phase_scheduler": "Karras", "enlarge": "pixels", "phase_cfg": 2.0, "phase_prompt": "sea, sun", "phase_negative": "fog",
    "regions": "sea ADDCOL sun", "tile_units": True,
}  # fmt: skip


@pytest.fixture
def script(host):
    script = host.our_script()
    with gr.Blocks() as script.blocks:
        script.components = script.ui(False)
    return script


def test_identity(script):
    assert script.title() == "DemoFusion Hires"


def test_it_is_there_in_both_tabs(host, script):
    assert script.show(False) is host.scripts.AlwaysVisible
    assert script.show(True) is host.scripts.AlwaysVisible


def test_components_are_the_table(host, script):
    assert len(script.components) == len(host.params.SETTINGS)
    first = host.params.preset_values("fine")
    for component, setting in zip(script.components, host.params.SETTINGS):
        assert component.label == setting.label
        assert component.value == first[setting.name]
        assert component.webui_tooltip == setting.help
        assert component.elem_id.removesuffix("-checkbox") == f"demofusion_{setting.name}"
        if isinstance(component, gr.Slider):
            assert (component.minimum, component.maximum, component.step) == (setting.low, setting.high, setting.step)
        elif isinstance(component, (gr.Dropdown, gr.Radio)):
            listed = {
                "phase_sampler": [sampler.name for sampler in host.sd_samplers.samplers],
                "phase_scheduler": [scheduler.label for scheduler in host.sd_schedulers.schedulers],
            }.get(setting.name)
            shown = [choice if isinstance(choice, str) else choice[1] for choice in component.choices]
            assert shown == (["same", *listed] if listed else list(setting.choices))
        elif setting.is_text:
            assert isinstance(component, gr.Textbox)
        else:
            assert isinstance(component, gr.Checkbox)


def test_an_accordion_that_takes_no_tooltip(host, monkeypatch):
    """Forge's: an error while the page is made takes its API down too."""
    made = gr.Accordion.__init__

    def strict(self, *args, **kwargs):
        assert "tooltip" not in kwargs
        made(self, *args, **kwargs)

    monkeypatch.setattr(gr.Accordion, "__init__", strict)
    with gr.Blocks():
        (enabled, *_) = host.our_script().ui(False)
    assert enabled.webui_tooltip == host.params.SETTINGS[0].help


def test_the_order_is_public():
    from demofusion_lib.params import SETTINGS

    assert [setting.name for setting in SETTINGS][: len(CHANGED)] == list(CHANGED)


def test_all_of_it_is_within_the_accordion(host, script):
    assert isinstance(script.components[0], host.ui_components.InputAccordion)
    accordion = script.components[0].accordion
    for component in script.components[1:]:
        parent = component.parent
        while parent is not None and parent is not accordion:
            parent = parent.parent
        assert parent is accordion


def test_infotext_keys_can_be_read_back(host, script):
    assert script.paste_field_names == [setting.key for setting in host.params.SETTINGS]
    assert all(re.fullmatch(r"\w[\w \-/]+", key) for key in script.paste_field_names)
    assert [component for component, _ in script.infotext_fields] == script.components


def pasted(script, host, infotext):
    found = host.infotext_utils.parse_generation_parameters(infotext)
    return [restore(found) for _, restore in script.infotext_fields]


def test_round_trip(host, script):
    """All settings changed, drawn, read back and drawn again: the same picture and the same infotext."""
    told = [(value, setting) for value, setting in zip(CHANGED.values(), host.params.SETTINGS) if setting.told]
    assert all(value != setting.default for value, setting in told)
    first = host.txt2img(list(CHANGED.values()))
    values = pasted(script, host, first.infotext)
    assert values == list(CHANGED.values())
    assert [type(value) for value in values] == [type(value) for value in CHANGED.values()]
    again = host.txt2img(values)
    assert again.infotext == first.infotext
    assert (again.images[0] == first.images[0]).all()


def test_what_the_infotext_leaves_out_is_at_its_default(host, script):
    values = pasted(script, host, host.txt2img({"scale": 2, "window_batch": 0, "vae": "auto"}).infotext)
    assert values == [True, *list(host.params.preset_values("none").values())[1:]]


def test_what_cant_be_read_is_named_and_the_rest_restored(host, script):
    """Of another version, or changed by hand."""
    text = host.txt2img({"scale": 3, "steps": 7, "phase_sampler": "LMS"}).infotext
    spoilt = text.replace("steps: 7", "steps: many").replace("sampler: LMS", "sampler: Gone")
    spoilt += ", DemoFusion plan: tripling, DemoFusion blur: 1.5"
    with pytest.warns(UserWarning) as told:
        values = dict(zip((s.name for s in host.params.SETTINGS), pasted(script, host, spoilt)))
    assert [values[name] for name in ("enabled", "scale", "blur", "window_batch")] == [True, 3.0, 1.5, 64]
    assert [values[name] for name in ("steps", "plan", "phase_sampler")] == [0, "every", "same"]
    (words,) = {str(warning.message) for warning in told if "not pasted" in str(warning.message)}
    assert words.startswith("DemoFusion: not pasted: Plan is 'tripling', allowed: ") or "Plan is 'tripling'" in words
    assert "Steps per phase is 'many', allowed: " in words and "Phase sampler is 'Gone', allowed: same, " in words


def test_a_requests_infotext_that_cant_be_read_is_told_of_its_picture_alone(host, script):
    """The host's API reads it in the context that it draws in."""
    spoilt = host.txt2img({"scale": 3, "steps": 7}).infotext.replace("steps: 7", "steps: many")
    with pytest.warns(UserWarning, match="not pasted"):
        values = pasted(script, host, spoilt)
    told = "not pasted: Steps per phase is 'many', allowed: whole numbers 0 to"
    first, second = host.txt2img(values), host.txt2img(values)
    assert told in first.comments and "DemoFusion note" in first.infotext
    assert "not pasted" not in second.comments and "DemoFusion note" not in second.infotext


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DemoFusion enabled: True, DemoFusion scale: 4", {"scale": 4.0, "preset": "none", "vae": "auto"}),
        ("DemoFusion enabled: True, DemoFusion target width: 512, DemoFusion a1: 2.5, DemoFusion border: paper",
         {"target_width": 512, "a1": 2.5, "border": "paper", "preset": "none"}),
        ("DemoFusion enabled: True, DemoFusion plan: doubling, DemoFusion vae: exact, DemoFusion preset: fast",
         {"plan": "doubling", "vae": "exact", "preset": "fast", "steps": 2, "phase_cfg": 0.0, "phase_prompt": ""}),
    ],
)  # fmt: skip
def test_infotexts_of_earlier_versions(host, script, text, expected):
    values = dict(zip((s.name for s in host.params.SETTINGS), pasted(script, host, f"cat\nSteps: 4, Seed: 5, {text}")))
    assert {name: values[name] for name in expected} == expected


def test_an_image_without_us_only_switches_off(host, script):
    values = pasted(script, host, host.txt2img(None).infotext)
    assert values[0] is False
    assert values[1:] == [gr.update()] * (len(values) - 1)


def test_nonsense_in_an_infotext_is_left_out(host, script):
    values = pasted(script, host, "cat\nSteps: 4, DemoFusion enabled: True, DemoFusion scale: huge")
    assert values[1] == host.params.BY_NAME["scale"].default


def test_an_unknown_preset_is_not_taken_for_the_dearest(host, script):
    """One of a later version: what the infotext tells beside it is kept, the rest is the default preset's."""
    values = pasted(
        script, host, "cat\nSteps: 4, DemoFusion enabled: True, DemoFusion scale: 3, DemoFusion preset: superb"
    )
    found = dict(zip((s.name for s in host.params.SETTINGS), values))
    assert {name: found[name] for name in ("preset", "scale", "plan", "steps")} == {
        "preset": "fine", "scale": 3.0, "plan": "doubling", "steps": 5,
    }  # fmt: skip


OURS, OTHER = "customscript/demofusion.py/txt2img", "customscript/demofusion.py/img2img"


@pytest.mark.parametrize(
    ("kept", "preset"),
    [
        (None, "fine"),
        ("{", "fine"),
        ("[]", "fine"),
        ({"txt2img/Steps/value": 20, "customscript/other.py/txt2img/Preset/value": "x"}, "fine"),
        ({f"{OURS}/Scale/value": 2.0, f"{OURS}/Plan/value": "every"}, "none"),
        ({f"{OURS}/Scale/value": 2.0, f"{OURS}/Preset/value": "draft"}, "fine"),
        ({f"{OTHER}/Scale/value": 2.0, f"{OTHER}/Plan/value": "every"}, "fine"),
    ],
    ids=str,
)
def test_the_page_begins_with_the_default_preset_or_as_it_was_kept(host, tmp_path, monkeypatch, kept, preset):
    """A version without presets has left its values in the webui's file, which puts them into their parts again."""
    ui, shared = (importlib.import_module(name) for name in ("demofusion_lib.webui.ui", "modules.shared"))
    file = tmp_path / "ui-config.json"
    if kept is not None:
        file.write_text(kept if isinstance(kept, str) else json.dumps(kept))
    monkeypatch.setattr(shared.cmd_opts, "ui_config_file", str(file), raising=False)
    with gr.Blocks():
        values = [
            part.value for part in ui.accordion(importlib.import_module("demofusion_lib.webui.following").Following())
        ]
    assert values == list(host.params.preset_values(preset).values())


def page_of(host, tmp_path, monkeypatch, values):
    """What the browser is told of each part, after the host has put back what it has kept, as its `UiLoadsave` does."""
    ui, shared, following = (
        importlib.import_module(name)
        for name in ("demofusion_lib.webui.ui", "modules.shared", "demofusion_lib.webui.following")
    )
    file = tmp_path / "ui-config.json"
    labels = {s.name: s.label for s in host.params.SETTINGS}
    file.write_text(json.dumps({f"{OURS}/{labels[name]}/value": value for name, value in values.items()}))
    monkeypatch.setattr(shared.cmd_opts, "ui_config_file", str(file), raising=False)
    with gr.Blocks():
        parts = dict(zip(labels, ui.accordion(following.Following())))
    for name, value in values.items():
        parts[name].value = value
    return {name: part.get_config()["value"] for name, part in parts.items()}, {n: p.value for n, p in parts.items()}


@pytest.mark.parametrize("preset", ["paper", "fast", "draft"])
def test_a_preset_written_into_the_webuis_file(host, tmp_path, monkeypatch, preset):
    """It has kept every part's value at its first start, which are then those of `fine`: the page begins with the values
    of the preset that it names. So it does where there is nothing but the name."""
    fine = host.params.preset_values("fine") | {"scale": 3.0}
    shown, kept = page_of(host, tmp_path, monkeypatch, {**fine, "preset": preset})
    assert shown == host.params.preset_values(preset) | {"scale": 3.0}
    assert kept == fine | {"preset": preset}  # as the host's Defaults tab compares it with the page
    assert page_of(host, tmp_path, monkeypatch, {"preset": preset})[0] == host.params.preset_values(preset)


@pytest.mark.parametrize(
    "changed",
    [{"preset": "fast", "steps": 3}, {"preset": "fine"}, {"preset": "none"}, {"preset": "quick"}, {"preset": ["fast"]}],
    ids=str,
)
def test_what_was_kept_besides_a_preset_is_left(host, tmp_path, monkeypatch, changed):
    values = host.params.preset_values("fine") | changed
    assert page_of(host, tmp_path, monkeypatch, values)[0] == values


def test_choosing_a_preset_sets_its_values(host, script):
    """By hand alone: pasting sets every component by itself, and `change` would come behind it."""
    ui = importlib.import_module("demofusion_lib.webui.ui")
    parts = dict(zip((setting.name for setting in host.params.SETTINGS), script.components))
    (choice,) = [d for d in script.blocks.dependencies if parts["preset"]._id in d["inputs"]]
    assert choice["targets"] == [(parts["preset"]._id, "input")] or choice["trigger"] == "input"
    assert choice["outputs"] == [parts[name]._id for name in ui.SET_BY_PRESETS]
    for preset in parts["preset"].choices:
        name = preset if isinstance(preset, str) else preset[1]
        chosen = {key: update["value"] for key, update in zip(ui.SET_BY_PRESETS, ui.choose(name))}
        made = host.params.Params.from_names({**chosen, "preset": name})
        assert made == host.params.Params.from_names({"preset": name})


def ancestors(component):
    while component is not None:
        yield component
        component = component.parent


def test_every_setting_stands_once_and_the_first_level_is_open(host, script):
    ui = importlib.import_module("demofusion_lib.webui.ui")
    groups = {
        setting.name: [c.label for c in ancestors(part) if isinstance(c, gr.Accordion)][:-1]
        for part, setting in zip(script.components[1:], host.params.SETTINGS[1:])
    }
    assert [name for name, around in groups.items() if not around] == [
        "scale", "target_width", "target_height", "keep_phases", "preset",
    ]  # fmt: skip
    assert {around[0] for around in groups.values() if around} == {"Phases", "Method", "Windows", "Memory"}
    placed = [name for rows in ui.groups().values() for row in rows for name in row]
    assert sorted([*placed, *ui.FIRST, "enabled"]) == sorted(host.params.BY_NAME)


def test_a_setting_that_is_placed_nowhere_is_there_all_the_same(host, monkeypatch):
    ui = importlib.import_module("demofusion_lib.webui.ui")
    kept = {label: tuple(row for row in rows if "vae" not in row) for label, rows in ui.GROUPS.items()}
    monkeypatch.setattr(ui, "GROUPS", kept)
    assert ui.groups()["Phases"][-1] == ("vae",)


def test_choices_are_shown_in_words_and_kept_as_they_are(host, script):
    """The host looks for the value that it has kept among the first of each pair of choices."""
    for component, setting in zip(script.components, host.params.SETTINGS):
        if setting.choices:
            assert len(setting.words) == len(set(setting.words)) == len(setting.choices)
            assert [list(pair) for pair in component.get_config()["choices"]] == [
                [word, choice] for word, choice in zip(setting.words, setting.choices)
            ]
            assert [pair[0] for pair in component.choices] == list(setting.choices)


OF_HOST = {
    "width": 128, "height": 128, "steps": 4, "batch_size": 1, "n_iter": 1, "sampler": "Euler", "scheduler": "Automatic",
    "cfg_scale": 7.0, "enable_hr": False,
}  # fmt: skip


def answered(host, of_host=(), **settings):
    following = importlib.import_module("demofusion_lib.webui.following")
    host.install()
    values = {**host.params.preset_values("none"), "enabled": True, "vae": "host", **settings}
    return following.answer(list(values.values()), {**OF_HOST, **dict(of_host)})


def test_the_line_is_of_the_page_as_it_stands(host):
    assert answered(host)["line"].startswith("128x128 -> 256x256 · 2 phases · ")
    assert answered(host, {"width": 64}, scale=3.0)["line"].startswith("64x128 -> 128x256 -> 192x384 · 3 phases · ")
    assert "for 6 images" in answered(host, {"batch_size": 2, "n_iter": 3})["line"]


def test_what_is_wrong_is_told_by_its_field_in_its_labels_words(host):
    told = answered(host, overlap=99, target_width=1001, scale=None)["mistakes"]
    assert told == {
        "scale": "Scale is empty, allowed: 1 to 8",
        "target_width": "Target width is 1001, allowed: 0, or 128 to 1024 for this base image, multiples of 8 (the nearest is 1000)",
        "overlap": "Window overlap is 99, allowed: 0 to 0.9 (the nearest is 0.9)",
    }


def test_what_is_wrong_with_the_hosts_own_fields_is_told_in_its_labels_words(host):
    told = answered(host, {"width": None, "steps": 0, "n_iter": 2.5})["said"]
    assert told == [
        "Width is empty, allowed: whole numbers, 1 or more; Sampling steps is 0, allowed: whole numbers, 1 or more; "
        "Batch count is 2.5, allowed: whole numbers, 1 or more"
    ]
    assert answered(host, {"steps": 5000})["said"][0] == "Sampling steps is 5000, allowed for the base image: 1 to 1000"


def test_what_will_be_otherwise_is_said(host):
    assert "nothing will be done" in answered(host, scale=1.0)["line"]
    assert any("Hires. fix" in text for text in answered(host, {"enable_hr": True})["said"])
    assert any("cropped" in text for text in answered(host, target_width=256, target_height=128)["said"])
    assert answered(host)["amber"] and any("far from" in text for text in answered(host)["said"])
    assert not answered(host, {"width": 512, "height": 512})["amber"]


def test_a_fault_of_the_forecast_is_reported_and_not_thrown(host, monkeypatch):
    following = importlib.import_module("demofusion_lib.webui.following")
    forecast = importlib.import_module("demofusion_lib.webui.forecast")
    monkeypatch.setattr(forecast, "forecast", lambda *args, **fields: 1 / 0)
    assert following.answer([], {}) == {}
    assert host.swallowed


@pytest.mark.parametrize("name", ["txt2img", "img2img"])
def test_the_page_asks_with_everything_that_the_forecast_is_made_of(host, name):
    """The host's components come before ours, and behind."""
    tabs = importlib.import_module("demofusion_lib.webui.tabs")
    tab = tabs.tab_of(name == "img2img")
    script = host.our_script()
    with gr.Blocks() as blocks:
        elements = list(tab.of_host.values())
        made = [gr.Number(elem_id=element) for element in elements[:5]]
        for component in made:
            script.after_component(component)
        ours = script.ui(name == "img2img")
        for element in elements[5:]:
            made.append(gr.Number(elem_id=element))
            script.after_component(made[-1])
        script.after_component(gr.Gallery(elem_id=tab.last))
    ids = {block.elem_id: block._id for block in blocks.blocks.values() if block.elem_id}
    ask, seen = ids[tab.element("ask")], ids[tab.element("seen")]
    (asked,) = [d for d in blocks.dependencies if d["targets"] in ([ask], [(ask, "click")]) and d["backend_fn"]]
    assert asked["inputs"] == [*(part._id for part in (*ours, *made)), seen]
    assert asked["queue"] is False and asked["show_progress"] == "hidden" and f"demofusionPage.{name}." in asked["js"]
    told = {
        t if isinstance(t, int) else t[0]
        for d in blocks.dependencies
        if d["js"] == f"() => demofusionPage.{name}.changed()"
        for t in d["targets"]
    }
    assert told == {part._id for part in (*ours, *made)}


def test_the_page_sends_no_picture(host):
    """A large one would take longer than everything else that the line is made of."""
    tabs = importlib.import_module("demofusion_lib.webui.tabs")
    pictures = {
        "img2img_image",
        "img2img_sketch",
        "img2maskimg",
        "inpaint_sketch",
        "img_inpaint_base",
        "img_inpaint_mask",
    }
    assert not pictures & set(tabs.IMG2IMG.of_host.values())


# The img2img tab


def test_every_element_id_is_there_once(host):
    """Those of txt2img are public, and were there before img2img had any."""
    found = {}
    for is_img2img in (False, True):
        with gr.Blocks() as blocks:
            host.our_script().ui(is_img2img)
        ids = [block.elem_id for block in blocks.blocks.values() if block.elem_id]
        assert len(ids) == len(set(ids))
        found[is_img2img] = {name.removesuffix("-checkbox") for name in ids}
    assert not found[False] & found[True]
    assert {s.elem_id for s in host.params.SETTINGS} <= found[False]
    assert {f"demofusion_img2img_{s.name}" for s in host.params.SETTINGS} <= found[True]
    assert {name.replace("img2img-", "").replace("img2img_", "") for name in found[True]} == found[False]


@pytest.fixture
def of_picture(host):
    script = host.our_script()
    with gr.Blocks() as script.blocks:
        script.components = script.ui(True)
    return script


def test_its_settings_are_the_same_and_no_word_tells_of_a_base_image(host, script, of_picture):
    assert of_picture.paste_field_names == script.paste_field_names
    for ours, other in zip(of_picture.components, script.components, strict=True):
        assert (type(ours), ours.label, ours.value) == (type(other), other.label, other.value)
        assert getattr(ours, "choices", None) == getattr(other, "choices", None)
        shown = [word for word, _ in ours.get_config()["choices"]] if isinstance(ours, gr.Radio) else []
        words = " ".join([ours.webui_tooltip, str(getattr(ours, "placeholder", "")), *shown])
        assert "base" not in words.replace("baseline", "")


def drawn_with(host, *lines, **settings):
    """A DemoFusion picture's infotext, as the host reads it."""
    text = host.params.Params.from_names({"enabled": True, "scale": 3, **settings}).to_infotext()
    told = ", ".join([*lines, *(f"{key}: {value}" for key, value in text.items())])
    return host.infotext_utils.parse_generation_parameters(f"cat\nSteps: 4, Seed: 5, {told}")


def restored(script, params):
    return [restore(params) for _, restore in script.infotext_fields]


def test_a_picture_that_was_drawn_from_a_prompt_leaves_img2img_as_it_is(host, script, of_picture):
    """Else "Send to img2img" would enlarge again what is large already, or switch off what somebody has just ticked."""
    params = drawn_with(host)
    assert restored(script, params)[:2] == [True, 3.0]
    assert restored(of_picture, params) == [gr.update()] * len(host.params.SETTINGS)
    hires = drawn_with(host, "Denoising strength: 0.7", "Hires upscale: 2", "Hires upscaler: Latent")
    assert restored(of_picture, hires) == [gr.update()] * len(host.params.SETTINGS)
    assert restored(script, hires)[:2] == [True, 3.0]


def test_a_picture_that_was_drawn_from_a_picture_restores_img2img_alone(host, script, of_picture):
    params = drawn_with(host, "Denoising strength: 0.4", preset="fast", blur=0.4)
    values = dict(zip(host.params.BY_NAME, restored(of_picture, params)))
    assert values == {**host.params.preset_values("fast"), "enabled": True, "scale": 3.0, "blur": 0.4}
    assert restored(script, params) == [False, *[gr.update()] * (len(values) - 1)]


def test_a_picture_of_img2img_without_us_switches_off(host, script, of_picture):
    params = host.infotext_utils.parse_generation_parameters("cat\nSteps: 4, Seed: 5, Denoising strength: 0.4")
    assert restored(of_picture, params) == [False, *[gr.update()] * (len(host.params.SETTINGS) - 1)]


SEEN = {"tab": 0, "size": [512, 384], "by": False}
OF_PICTURE = {
    "width": 512, "height": 512, "steps": 4, "batch_size": 1, "n_iter": 1, "sampler": "Euler", "scheduler": "Automatic",
    "cfg_scale": 7.0, "scale_by": 1.0, "resize_mode": 0, "denoising_strength": 0.5, "inpainting_fill": 1,
    "inpaint_full_res": 0,
}  # fmt: skip


def answered_of(host, seen=(), of_host=(), **settings):
    following, seen_by = (importlib.import_module(f"demofusion_lib.webui.{name}") for name in ("following", "seen"))
    host.install()
    values = {**host.params.preset_values("none"), "enabled": True, "vae": "host", **settings}
    told = following.answer(
        list(values.values()), seen_by.read({**OF_PICTURE, **dict(of_host)}, {**SEEN, **dict(seen)})
    )
    assert not host.swallowed
    return told


def test_the_line_is_of_the_picture(host):
    """A scale is its own; at 1 the tab's size is the target."""
    assert answered_of(host)["line"].startswith("512x384 -> 1024x768 · 2 phases · ")
    assert "x an image of 512x512 px" in answered_of(host)["line"]
    assert answered_of(host, {"size": [640, 480]}, scale=1.5)["line"].startswith("640x480 -> 960x720")
    by_tab = answered_of(host, of_host={"width": 1024, "height": 768}, scale=1.0)["line"]
    assert by_tab.startswith("512x384 -> 1024x768")
    resized_by = answered_of(host, {"by": True}, {"scale_by": 2.0}, scale=1.0)["line"]
    assert resized_by == by_tab
    assert "for 6 images" in answered_of(host, of_host={"batch_size": 2, "n_iter": 3})["line"]


def test_what_is_done_with_the_picture_is_said(host):
    assert answered_of(host, {"size": [512, 512]})["said"] == []
    (small,) = answered_of(host, {"size": [256, 256]}, scale=4.0)["said"]
    assert small == "the picture is below the model's size and is drawn at 512x512 px first"
    (large,) = answered_of(host, {"size": [1024, 1024]})["said"]
    assert large == "the picture is above the model's size and is drawn through windows of 512x512 px"
    cropped = answered_of(host, {"size": [516, 512]})["said"]
    assert cropped[0] == "the picture is cropped from 516x512 to 512x512 px"
    shapes = {"target_width": 1024, "target_height": 1024}
    for mode, word in ((0, "stretched"), (1, "cropped"), (2, "filled up"), (3, "stretched")):
        said = answered_of(host, {"size": [768, 512]}, {"resize_mode": mode}, **shapes)["said"]
        assert f"the picture is {word} from 768x512" in said[0]


def test_strength_0_enlarges_and_draws_nothing(host):
    told = answered_of(host, of_host={"denoising_strength": 0}, scale=4.0)
    assert told["line"] == "512x384 -> 2048x1536"
    assert told["said"] == ["nothing is drawn, as the strength is 0: the picture is enlarged by bicubic interpolation"]
    less, more = (answered_of(host, of_host={"denoising_strength": s})["line"] for s in (0.1, 1.0))
    assert less != more


def test_a_strength_that_is_being_typed(host):
    told = answered_of(host, of_host={"denoising_strength": None})
    assert told["line"] == "" and told["said"] == ["Denoising strength is empty, allowed: 0 to 1"]


def test_nothing_is_enlarged_where_the_target_is_no_larger(host):
    assert "no larger than the picture of 512x384 px" in answered_of(host, of_host={"height": 384}, scale=1.0)["line"]
    assert "own size" in answered_of(host, target_width=512)["line"]


@pytest.mark.parametrize("seen", [{"size": None}, {"size": [0, 0]}, {"size": "x"}, {"tab": None, "size": [1]}])
def test_before_there_is_a_picture(host, seen):
    assert answered_of(host, seen)["line"] == "no picture yet"
    assert answered_of(host, seen, overlap=99)["mistakes"]


def test_a_folders_pictures(host):
    """Which nobody has looked at yet. The picture of another tab is not theirs."""
    said = "each of the folder's pictures to "
    assert answered_of(host, {"tab": 5})["line"] == f"{said}2x its own size"
    assert answered_of(host, {"tab": 5}, target_width=1024)["line"] == f"{said}a width of 1024 px"
    assert answered_of(host, {"tab": 5}, target_width=512, target_height=256)["line"] == f"{said}512x256 px"
    assert answered_of(host, {"tab": 5}, scale=1.0)["line"] == f"{said}512x512 px, where that is larger"
    assert answered_of(host, {"tab": 5, "by": True}, {"scale_by": 1.5}, scale=1.0)["line"] == f"{said}1.5x its own size"


def test_a_picture_that_nobody_can_draw_is_told(host):
    assert "the picture is 20000x50 px, allowed: " in " ".join(answered_of(host, {"size": [20000, 50]})["said"])


@pytest.mark.parametrize("tab", [2, 3, 4])
def test_behind_a_mask(host, tab):
    """Whose pixels are not sent: of its area alone nothing can be reckoned."""
    whole = answered_of(host, {"tab": tab})
    assert whole["line"].startswith("512x384 -> 1024x768") and whole["said"] == []
    plain = answered_of(host)["line"]
    assert whole["line"] != plain  # phase 1 is drawn, too
    assert answered_of(host, {"tab": tab}, {"inpaint_full_res": 1})["said"] == [
        "told of the whole picture: of the masked area alone less is drawn"
    ]
    noise = answered_of(host, {"tab": tab}, {"inpainting_fill": 2})
    assert noise["line"] == "" and "masked content is 'latent noise'" in noise["said"][0]
    assert answered_of(host, of_host={"inpainting_fill": 2})["line"] == plain


def test_what_draws_comes_with_the_first_picture_and_not_with_the_webui(host):
    with gr.Blocks():
        host.our_script().ui(False)
    webui = "demofusion_lib.webui."
    loaded = {name.removeprefix(webui) for name in sys.modules if name.startswith(webui)}
    assert not loaded & {
        "hooks",
        "processing",
        "climbing",
        "sampling",
        "decoding",
        "given",
        "masks",
        "forecast",
        "progress",
    }
    host.txt2img({"scale": 2}, width=64, height=64, steps=2)
    assert webui + "sampling" in sys.modules
