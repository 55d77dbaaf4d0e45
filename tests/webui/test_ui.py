"""The accordion, and the way back from an image's infotext."""

import importlib
import json
import re

import gradio as gr
import pytest

CHANGED = {
    "enabled": True, "scale": 2.5, "target_width": 256, "target_height": 192, "plan": "doubling", "steps": 7, "a1": 2.0,
    "a2": 1.5, "a3": 0.5, "step_normalised": False, "blur": 0.4, "overlap": 0.25, "jitter": False, "border": "paper",
    "window_batch": 8, "sdxl_size": "phase", "keep_phases": True, "skip_residual": False, "dilated": False,
    "vae": "host", "save_phases": False, "resume": "", "start": 601, "residual": "x0", "gate": 0.1, "window_weight": "gaussian",
    "guidance": "low-pass", "guidance_until": 300, "preset": "fast", "phase_sampler": "DPM++ 2M",
    "phase_scheduler": "Karras", "enlarge": "pixels", "phase_cfg": 2.0, "phase_prompt": "sea, sun", "phase_negative": "fog",
}  # fmt: skip


@pytest.fixture
def script(host):
    script = host.our_script()
    with gr.Blocks() as script.blocks:
        script.components = script.ui(False)
    return script


def test_identity(script):
    assert script.title() == "DemoFusion Hires"


def test_it_is_there_in_txt2img_only(host, script):
    assert script.show(False) is host.scripts.AlwaysVisible
    assert script.show(True) is False


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
        elif isinstance(component, gr.Dropdown):
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


def test_an_image_without_us_only_switches_off(host, script):
    values = pasted(script, host, host.txt2img(None).infotext)
    assert values[0] is False
    assert values[1:] == [gr.update()] * (len(values) - 1)


def test_nonsense_in_an_infotext_is_left_out(host, script):
    values = pasted(script, host, "cat\nSteps: 4, DemoFusion enabled: True, DemoFusion scale: huge")
    assert values[1] == host.params.BY_NAME["scale"].default


OURS = "customscript/demofusion.py/txt2img"


@pytest.mark.parametrize(
    ("kept", "preset"),
    [
        (None, "fine"),
        ("{", "fine"),
        ("[]", "fine"),
        ({"txt2img/Steps/value": 20, "customscript/other.py/txt2img/Preset/value": "x"}, "fine"),
        ({f"{OURS}/Scale/value": 2.0, f"{OURS}/Plan/value": "every"}, "none"),
        ({f"{OURS}/Scale/value": 2.0, f"{OURS}/Preset/value": "draft"}, "fine"),
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
        values = [part.value for part in ui.accordion()]
    assert values == list(host.params.preset_values(preset).values())


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
