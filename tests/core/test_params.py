"""The settings table: what it promises to the accordion, the API, the infotext and docs/settings.md."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import re
from dataclasses import FrozenInstanceError, asdict, fields
from pathlib import Path
from typing import Any

import pytest

from demofusion_lib.core import BORDERS, PLANS, Weights, step_normalised
from demofusion_lib.params import BY_NAME, SETTINGS, SIZE_CONDITIONS, TITLE, Params, markdown_table, presets_table
from demofusion_lib.presets import PRESETS
from demofusion_lib.setting import Setting, SettingsError, quoted

REFERENCE = Path(__file__).parents[2] / "docs" / "settings.md"

# public since the first release: positional API arguments, element ids and infotext keys. Append, never reorder.
FROZEN = [
    ("enabled", "demofusion_enabled", "DemoFusion enabled", False),
    ("scale", "demofusion_scale", "DemoFusion scale", 2.0),
    ("target_width", "demofusion_target_width", "DemoFusion target width", 0),
    ("target_height", "demofusion_target_height", "DemoFusion target height", 0),
    ("plan", "demofusion_plan", "DemoFusion plan", "every"),
    ("steps", "demofusion_steps", "DemoFusion steps", 0),
    ("a1", "demofusion_a1", "DemoFusion a1", 3.0),
    ("a2", "demofusion_a2", "DemoFusion a2", 1.0),
    ("a3", "demofusion_a3", "DemoFusion a3", 1.0),
    ("step_normalised", "demofusion_step_normalised", "DemoFusion step normalised", True),
    ("blur", "demofusion_blur", "DemoFusion blur", 0.8),
    ("overlap", "demofusion_overlap", "DemoFusion overlap", 0.5),
    ("jitter", "demofusion_jitter", "DemoFusion jitter", True),
    ("border", "demofusion_border", "DemoFusion border", "inside"),
    ("window_batch", "demofusion_window_batch", "DemoFusion window batch", 0),
    ("sdxl_size", "demofusion_sdxl_size", "DemoFusion sdxl size", "final"),
    ("keep_phases", "demofusion_keep_phases", "DemoFusion keep phases", False),
    ("skip_residual", "demofusion_skip_residual", "DemoFusion skip residual", True),
    ("dilated", "demofusion_dilated", "DemoFusion dilated", True),
    ("vae", "demofusion_vae", "DemoFusion vae", "auto"),
    ("save_phases", "demofusion_save_phases", "DemoFusion save phases", False),
    ("resume", "demofusion_resume", "DemoFusion resume", ""),
    ("start", "demofusion_start", "DemoFusion start", 1000),
    ("residual", "demofusion_residual", "DemoFusion residual", "blend"),
    ("gate", "demofusion_gate", "DemoFusion gate", 0.0),
    ("window_weight", "demofusion_window_weight", "DemoFusion window weight", "flat"),
    ("guidance", "demofusion_guidance", "DemoFusion guidance", "windows"),
    ("guidance_until", "demofusion_guidance_until", "DemoFusion guidance until", 0),
    ("preset", "demofusion_preset", "DemoFusion preset", "fine"),
    ("phase_sampler", "demofusion_phase_sampler", "DemoFusion phase sampler", "same"),
    ("phase_scheduler", "demofusion_phase_scheduler", "DemoFusion phase scheduler", "same"),
    ("enlarge", "demofusion_enlarge", "DemoFusion enlarge", "latent"),
    ("phase_cfg", "demofusion_phase_cfg", "DemoFusion phase cfg", 0.0),
    ("phase_prompt", "demofusion_phase_prompt", "DemoFusion phase prompt", ""),
    ("phase_negative", "demofusion_phase_negative", "DemoFusion phase negative", ""),
    ("regions", "demofusion_regions", "DemoFusion regions", ""),
    ("tile_units", "demofusion_tile_units", "DemoFusion tile units", False),
]
DEFAULTS = {name: default for name, _, _, default in FROZEN} | {"preset": "none"}
"""Of everything, where no preset is named: the authors'."""

# another allowed value than the default, for every setting
OTHER = {
    "enabled": True,
    "scale": 3.7,
    "target_width": 4096,
    "target_height": 2048,
    "plan": "doubling",
    "steps": 30,
    "a1": 2.5,
    "a2": 0.5,
    "a3": 0.0,
    "step_normalised": False,
    "blur": 1.25,
    "overlap": 0.25,
    "jitter": False,
    "border": "paper",
    "window_batch": 64,
    "sdxl_size": "phase",
    "keep_phases": True,
    "skip_residual": False,
    "dilated": False,
    "vae": "estimated",
    "save_phases": True,
    "resume": "00001-7.safetensors",
    "start": 601,
    "residual": "x0",
    "gate": 0.1,
    "window_weight": "sin2",
    "guidance": "low-pass",
    "guidance_until": 300,
    "preset": "fast",
    "phase_sampler": "DPM++ 2M",
    "phase_scheduler": "Karras",
    "enlarge": "pixels",
    "phase_cfg": 7.5,
    "phase_prompt": "a cat",
    "phase_negative": "blurry",
    "regions": "a cat ADDCOL a dog",
    "tile_units": True,
}

NUMBERS = [setting for setting in SETTINGS if setting.low is not None]
WHOLE = [setting for setting in NUMBERS if setting.kind is int]


def test_names_order_ids_keys_and_defaults_are_frozen() -> None:
    rows = [(s.name, s.elem_id, s.key, s.default) for s in SETTINGS]
    assert rows == FROZEN
    assert [type(s.default) for s in SETTINGS] == [type(default) for *_, default in FROZEN]
    assert TITLE == "DemoFusion Hires"


def test_the_table_and_the_dataclass_agree() -> None:
    assert [field.name for field in fields(Params)] == [s.name for s in SETTINGS] == list(BY_NAME)
    types = {"bool": bool, "int": int, "float": float, "str": str}
    assert {field.name: types[field.type] for field in fields(Params)} == {s.name: s.kind for s in SETTINGS}


def test_whoever_names_no_preset_gets_the_default_one() -> None:
    for params in (Params.from_names({}), Params.from_args([{}])):
        assert asdict(params) == {**DEFAULTS, **PRESETS["fine"], "preset": "fine"}
    assert asdict(Params.from_args([{"scale": 4, "steps": 9}])) == {
        **DEFAULTS, **PRESETS["fine"], "preset": "fine", "scale": 4, "steps": 9,
    }  # fmt: skip


def test_without_a_preset_defaults_are_the_authors() -> None:
    params = Params.from_args([])
    assert asdict(params) == asdict(Params.from_names({"preset": "none"})) == DEFAULTS
    assert params.weights == Weights(3, 1, 1)
    assert Params.from_names({"preset": "none", "skip_residual": False}).weights == Weights(math.inf, 1, 1)
    assert Params.from_names({"preset": "none", "dilated": False}).weights == Weights(3, math.inf, 1)
    assert (params.blur, params.overlap, params.jitter, params.plan) == (0.8, 0.5, True, "every")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_every_row_is_complete(setting: Setting) -> None:
    assert setting.label and setting.label[0].isupper()
    assert setting.help.endswith(".") and len(setting.help) > 20
    assert (setting.low is None) == (setting.high is None) == (setting.step is None)
    assert (setting.low is not None) == (setting.kind in (int, float))
    assert bool(setting.choices) == (setting.kind is str and not setting.is_text)
    assert setting.check(setting.default) == setting.default


def test_labels_are_unique() -> None:
    assert len({s.label for s in SETTINGS}) == len({s.key for s in SETTINGS}) == len(SETTINGS)


def test_choices_are_the_cores() -> None:
    assert BY_NAME["plan"].choices == PLANS
    assert BY_NAME["border"].choices == BORDERS
    assert BY_NAME["sdxl_size"].choices == SIZE_CONDITIONS


def test_params_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Params.from_args([]).scale = 3.0


# -- the API's arguments


@pytest.mark.parametrize("name", OTHER)
def test_a_dictionary_of_names_leaves_the_rest_at_its_defaults(name: str) -> None:
    preset = PRESETS[OTHER[name]] if name == "preset" else {}
    args = [{"preset": "none", name: OTHER[name]}]
    assert asdict(Params.from_args(args)) == {**DEFAULTS, **preset, name: OTHER[name]}


def test_what_follows_a_dictionary_says_nothing() -> None:
    """The host fills up with the accordion's values."""
    assert Params.from_args([{"scale": 4}, 3.0, None, "nonsense", *range(30)]) == Params.from_names({"scale": 4})


@pytest.mark.parametrize("count", range(len(FROZEN) + 1))
def test_positional_arguments_follow_the_table(count: int) -> None:
    """Those behind a preset are the preset's where they are left out."""
    given = dict(itertools.islice(OTHER.items(), count))
    expected = {**DEFAULTS, **PRESETS[given.get("preset", "none")], **given}
    assert asdict(Params.from_args(list(given.values()))) == expected


def test_too_many_positional_arguments_are_refused() -> None:
    with pytest.raises(SettingsError, match=f"{len(FROZEN) + 1} arguments, allowed: at most {len(FROZEN)}, or one"):
        Params.from_args([*OTHER.values(), 1])


def test_unknown_names_are_refused_with_the_valid_ones() -> None:
    with pytest.raises(SettingsError) as error:
        Params.from_args([{"scal": 4, "scale": 2, "Overlap": 0.5}])
    assert "unknown setting 'scal', 'Overlap';" in str(error.value)
    assert all(re.search(rf"\b{name}\b", str(error.value)) for name in OTHER)


BAD = {
    "enabled": [1, 0, "true", None, [], {}],
    "scale": [0.99, 8.01, -1, "2", None, True, float("nan"), float("inf"), [2], 10**400],
    "target_width": [-8, 16392, 4, 1025, 512.5, "512", None, True, float("nan"), float("inf"), 10**400],
    "target_height": [-8, 16392, 4, 1025, 512.5, "512", None, True],
    "plan": ["Every", "", None, 0, ["every"]],
    "steps": [-1, 151, 2.5, "20", None, True],
    "a1": [-0.1, 10.1, "3", None, True, float("nan")],
    "a2": [-0.1, 10.1, None],
    "a3": [-0.1, 10.1, None],
    "step_normalised": [1, "True", None],
    "blur": [-0.1, 5.1, None, True],
    "overlap": [-0.1, 0.91, 1, None],
    "jitter": [1, "True", None],
    "border": ["outside", None, True],
    "window_batch": [-1, 65, 1.5, None],
    "sdxl_size": ["target", None],
    "keep_phases": [1, None],
    "skip_residual": [0, "False", None],
    "dilated": [0, "False", None],
    "vae": ["Exact", "", None, 0],
    "save_phases": [1, "True", None],
    "resume": ["a\nb", "x" * 1001, "\0", "\ud800", None, 0, ["a"]],
    "start": [-1, 1001, 600.5, "600", None, True],
    "residual": ["X0", "", None, 0],
    "gate": [-0.1, 0.51, None, True, "0.1"],
    "window_weight": ["sin", None],
    "guidance": ["low pass", "", None, False],
    "guidance_until": [-1, 1001, 0.5, None],
    "preset": ["Fast", "", None, 0, ["fast"]],
    "phase_sampler": ["", "  ", "a\nb", "x" * 1001, None, True, ["Euler"]],
    "phase_scheduler": ["", None, 0],
    "enlarge": ["pixel", "", None, True],
}


MEANT = {
    "scale": {0.99: 1, 8.01: 8, -1: 1, float("inf"): 8, 10**400: 8},
    "target_width": {-8: 0, 16392: 16384, 4: 8, 1025: 1024, 512.5: 512, float("inf"): 16384, 10**400: 16384},
    "target_height": {-8: 0, 16392: 16384, 4: 8, 1025: 1024, 512.5: 512},
    "plan": {"Every": "every"}, "steps": {-1: 0, 151: 150, 2.5: 3}, "a1": {-0.1: 0, 10.1: 10}, "a2": {-0.1: 0, 10.1: 10},
    "a3": {-0.1: 0, 10.1: 10}, "blur": {-0.1: 0, 5.1: 5}, "overlap": {-0.1: 0, 0.91: 0.9, 1: 0.9},
    "window_batch": {-1: 0, 65: 64, 1.5: 2}, "vae": {"Exact": "exact"}, "start": {-1: 0, 1001: 1000, 600.5: 601},
    "residual": {"X0": "x0"}, "gate": {-0.1: 0, 0.51: 0.5}, "window_weight": {"sin": "sin2"},
    "guidance": {"low pass": "low-pass"}, "guidance_until": {-1: 0, 1001: 1000, 0.5: 1}, "preset": {"Fast": "fast"},
    "enlarge": {"pixel": "pixels"},
}  # fmt: skip
"""Of the bad values, which allowed one is nearest."""


def nearest(name: str, value: Any) -> str:
    meant = MEANT.get(name, {}) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else {}
    return f" (the nearest is {meant[value]})" if meant and value in meant else ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("é", "'é'"),
        ("\ud800", "'\\ud800'"),
        ("x" * 78, "'" + "x" * 78 + "'"),
        ("x" * 79, "'" + "x" * 76 + "..."),
        (10**10_000, "a int that can't be printed"),
        ([1] * 1000, "[" + "1, " * 25 + "1..."),
        (2.5, "2.5"),
    ],
    ids=range(8),
)
def test_quoted(value: Any, text: str) -> None:
    """What any encoding can carry, in 80 characters at most."""
    assert quoted(value) == text
    assert len(quoted(value).encode()) <= 81


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        Params.from_names({"scale": 9, "jitter": 1, "x": 1, "steps": 5})
    parts = str(error.value).removeprefix("DemoFusion: ").split("; ")
    assert [part.split(",")[0] for part in parts] == [
        "unknown setting 'x'", "the settings are enabled", "scale is 9", "jitter is 1"
    ]  # fmt: skip
    with pytest.raises(SettingsError, match=r"scale is 'no', .*; plan is 'tripling'"):
        Params.from_infotext({"DemoFusion scale": "no", "DemoFusion plan": "tripling"})
    with pytest.raises(SettingsError, match=r"target_height is 64, .*; target_width is 2048"):
        Params.from_names({"target_width": 2048, "target_height": 64}).phases((16, 16))


@pytest.mark.parametrize(
    ("scale", "base_lat", "text"),
    [
        (1, (8, 8), ""),
        (2, (8, 8), ""),
        (1.5, (8, 8), ""),
        (1.3, (64, 64), "scale 1.3 of 512x512 px gives 664x664 px, the nearest size in steps of 8 px"),
        (1.05, (8, 8), "scale 1.05 of 64x64 px is 64x64 px again, as sizes go in steps of 8 px: nothing was enlarged; "
                       "the next larger size is 72x72 px, at scale 1.1"),
        (1.05, (4, 8), "scale 1.05 of 64x32 px is 64x32 px again, as sizes go in steps of 8 px: nothing was enlarged; "
                       "the next larger size is 72x32 px, at scale 1.1"),
    ],
)  # fmt: skip
def test_the_nearest_possible_size_is_said(scale: float, base_lat: tuple[int, int], text: str) -> None:
    params = Params.from_names({"scale": scale})
    assert params.rounding(base_lat) == text
    assert ("again" in text) == (scale != 1 and not params.phases(base_lat)[1])


def test_a_target_says_its_own_size() -> None:
    assert Params.from_names({"scale": 1.05, "target_width": 128}).rounding((8, 8)) == ""


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_refused_by_name_value_and_what_is_allowed(name: str) -> None:
    for value in BAD[name]:
        with pytest.raises(SettingsError) as error:
            Params.from_args([{name: value}])
        told = f"DemoFusion: {name} is {quoted(value)}, allowed: {BY_NAME[name].allowed}"
        assert str(error.value) == told + nearest(name, value)
        assert error.value.status_code == 422 and error.value.detail == str(error.value)
        assert error.value.mistakes == ((name, error.value.detail.removeprefix("DemoFusion: ")),)
        assert isinstance(error.value, ValueError)


def test_bad_values_are_refused_in_the_positional_form_too() -> None:
    with pytest.raises(SettingsError, match=r"scale is 9, allowed: 1 to 8"):
        Params.from_args([True, 9])


def test_what_is_allowed_reads_well() -> None:
    assert BY_NAME["enabled"].allowed == "true or false"
    assert BY_NAME["plan"].allowed == "every, doubling, direct"
    assert BY_NAME["scale"].allowed == "1 to 8"
    assert BY_NAME["steps"].allowed == "whole numbers 0 to 150"
    assert BY_NAME["target_width"].allowed == "whole numbers 0 to 16384, multiples of 8"
    assert BY_NAME["overlap"].allowed == "0 to 0.9"
    assert BY_NAME["phase_sampler"].allowed == "same, or the name of a sampler"


@pytest.mark.parametrize("setting", NUMBERS, ids=lambda s: s.name)
def test_both_ends_of_every_range_are_allowed(setting: Setting) -> None:
    for value in (setting.low, setting.high):
        checked = setting.check(value)
        assert checked == value and type(checked) is setting.kind


@pytest.mark.parametrize("setting", WHOLE, ids=lambda s: s.name)
def test_whole_numbers_may_come_as_floats(setting: Setting) -> None:
    """As the browser's sliders send them."""
    value = setting.check(float(OTHER[setting.name]))
    assert value == OTHER[setting.name] and type(value) is int


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.choices], ids=lambda s: s.name)
def test_every_choice_is_allowed(setting: Setting) -> None:
    assert [setting.check(choice) for choice in setting.choices] == list(setting.choices)


# -- the infotext

PROMPTS = [
    "", "a cat", "a cat, a dog", "(sky:1.2), [a:b:0.5] AND (sea) :0.7", "<lora:name:0.8> cat", "first\nsecond, third",
    'say "cheese", he said', '"red"', '"red", "blue"', '"a" b "c"', '"', "512x512", "a\\b, \\(c\\)", "\N{FAMILY}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "\N{LINE SEPARATOR}x", "Steps: 20, Seed: 5", "Negative prompt: x", "tab\there", "x" * 100_000,
]  # fmt: skip
REGIONS = [
    "", "a cat ADDCOL a dog", "2,1\n(sky:1.2) ADDROW sea, \"deep\"",
    '[{"prompt": "a, \\"b\\"", "box": [0, 0, 0.5, 1]}, {"prompt": "1x2", "x": 0.5, "y": 0, "w": 0.5, "h": 1, "weight": 0.5}]',
]  # fmt: skip
"""Of the phases: whatever stands in them, the infotext gives it back."""

HOST_FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
SIZE = re.compile(r"^(\d+)x(\d+)$")


def through_infotext(params: Params) -> Params:
    """As one line among the host's own fields, read back as the host reads it (1.10.1): by name, colon and comma; in quotes
    what has one of those or a line break within. It takes quotes off those too that it hasn't set, and parts what looks
    like a size."""
    fields_written = {"Steps": "20", "Size": "512x512", **params.to_infotext(), "Version": "v1.10.1"}
    quoted = {
        key: json.dumps(value, ensure_ascii=False) if re.search("[,:\n]", value) else value
        for key, value in fields_written.items()
    }
    line = ", ".join(f"{key}: {value}" for key, value in quoted.items())
    found = {}
    for key, value in HOST_FIELD.findall(line):
        if value and value[0] == value[-1] == '"':
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        found[f"{key}-1" if SIZE.match(value) else key] = value
    return Params.from_infotext(found)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.name)
def test_infotext_keys_are_ones_the_host_can_read(setting: Setting) -> None:
    assert re.fullmatch(r"\w[\w \-/]+", setting.key)
    assert setting.key.startswith("DemoFusion ")


def test_defaults_leave_no_trace_in_the_infotext() -> None:
    assert Params.from_args([]).to_infotext() == {}


@pytest.mark.parametrize("name", [name for name in OTHER if BY_NAME[name].told])
def test_the_infotext_carries_what_differs(name: str) -> None:
    params = Params.from_names({"preset": "none", name: OTHER[name]})
    text = params.to_infotext()
    assert list(text) == [BY_NAME[name].key]
    assert all(isinstance(value, str) and not re.search(r'[,:"\n]', value) for value in text.values())
    assert through_infotext(params) == params


def test_the_file_that_a_run_went_on_from_is_not_told() -> None:
    """The picture is the same, and to draw it again the file is neither there nor needed."""
    assert [setting.name for setting in SETTINGS if not setting.told] == ["save_phases", "resume"]
    assert Params.from_names({"preset": "none", "save_phases": True, "resume": "a.safetensors"}).to_infotext() == {}


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.told], ids=lambda s: s.name)
def test_every_value_comes_back_from_the_infotext(setting: Setting) -> None:
    """Exactly: the same settings draw the same picture again."""
    source = random.Random(setting.name)
    if setting.kind is float:
        values = [setting.low, setting.high, 1 + 1 / 3, 0.1 + 0.2]
        values += [source.uniform(setting.low, setting.high) for _ in range(50)]
    elif setting.kind is int:
        values = range(int(setting.low), int(setting.high) + 1, int(setting.step))
    elif setting.reads:
        values = REGIONS
    elif setting.is_prompt:
        values = PROMPTS
    elif setting.names:
        values = ["same", "Euler a", "DPM++ 2M SDE Heun", "x" * 1000]
    else:
        values = setting.choices or (True, False)
    for value in values:
        if setting.kind is float and not setting.low <= value <= setting.high:
            continue
        params = Params.from_names({"preset": "none", setting.name: value})
        assert through_infotext(params) == params


def test_all_settings_come_back_together() -> None:
    for preset in PRESETS:
        params = Params.from_names({**OTHER, "save_phases": False, "resume": "", "preset": preset})
        told = {
            s.key for s in SETTINGS if s.told and PRESETS[preset].get(s.name) != OTHER[s.name] and s.name != "preset"
        }
        assert set(params.to_infotext()) == told | ({"DemoFusion preset"} if preset != "none" else set())
        assert through_infotext(params) == params


@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_a_preset_sets_what_it_says_and_is_told_by_name(preset: str) -> None:
    params = Params.from_names({"preset": preset})
    assert asdict(params) == {**DEFAULTS, **PRESETS[preset], "preset": preset}
    assert params.to_infotext() == {"DemoFusion preset": preset}
    assert through_infotext(params) == params
    for values in PRESETS.values():
        for name, value in values.items():
            assert BY_NAME[name].check(value) == value and type(value) is BY_NAME[name].kind


def test_what_is_set_besides_a_preset_counts_before_it() -> None:
    params = Params.from_names({"preset": "fast", "steps": 7, "overlap": 0.5, "scale": 3.0})
    assert (params.steps, params.overlap, params.residual) == (7, 0.5, "x0")
    told = {"DemoFusion preset": "fast", "DemoFusion steps": "7", "DemoFusion overlap": "0.5", "DemoFusion scale": "3"}
    assert params.to_infotext() == told and through_infotext(params) == params
    values = [asdict(params)[s.name] for s in SETTINGS]
    assert Params.from_args(values) == params


def test_an_infotext_without_a_preset_is_the_picture_it_was() -> None:
    """Those of the first releases have none."""
    assert asdict(Params.from_infotext({"DemoFusion enabled": "True", "DemoFusion scale": "4"})) == {
        **DEFAULTS, "enabled": True, "scale": 4.0,
    }  # fmt: skip


def test_an_unknown_preset_is_told_with_all_other_mistakes() -> None:
    with pytest.raises(SettingsError) as error:
        Params.from_names({"preset": "quick", "scale": 9})
    assert "preset is 'quick', allowed: none, paper, fine, fast, draft" in str(error.value) and "scale is 9" in str(
        error.value
    )


def test_the_paper_preset_is_the_authors() -> None:
    """At their 50 steps, whose spacing the residual is normalised for."""
    params = Params.from_names({"preset": "paper"})
    assert (params.border, params.plan, params.weights) == ("paper", "every", Weights(3, 1, 1))
    assert step_normalised(0.3, 1000 / 50) == pytest.approx(0.3, abs=1e-15)


def test_short_numbers_stay_short_in_the_infotext() -> None:
    texts = Params.from_names({"preset": "none", "scale": 4, "blur": 1.25, "a1": 0.1, "steps": 30}).to_infotext()
    assert list(texts.values()) == ["4", "30", "0.1", "1.25"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("DemoFusion enabled", "yes"),
        ("DemoFusion enabled", ""),
        ("DemoFusion scale", "large"),
        ("DemoFusion scale", "nan"),
        ("DemoFusion scale", "99"),
        ("DemoFusion steps", "2.5"),
        ("DemoFusion steps", "1e400"),
        ("DemoFusion plan", "all"),
    ],
)
def test_a_bad_infotext_is_refused_by_name(key: str, text: str) -> None:
    name = key.removeprefix("DemoFusion ")
    with pytest.raises(SettingsError, match=f"DemoFusion: {name} is .*, allowed: "):
        Params.from_infotext({key: text})


def test_other_peoples_infotext_is_left_alone() -> None:
    assert Params.from_infotext({"Steps": "20", "DemoFusion Fork scale": "3"}) == Params.from_args([])


# -- sizes


def size_of(base_lat: tuple[int, int], **values: object) -> tuple[int, int]:
    return Params.from_names(values).target_lat(base_lat)


def test_targets_in_latent_cells() -> None:
    assert size_of((64, 64), scale=2.5) == (160, 160)
    assert size_of((152, 104), scale=4) == (608, 416)
    assert size_of((64, 96), target_height=1024) == (128, 192)
    assert size_of((64, 96), target_width=1536) == (128, 192)
    assert size_of((64, 96), target_width=1000, target_height=1024) == (128, 125)
    assert size_of((64, 96), target_width=1536, scale=7) == (128, 192), "a target goes before the scale"


def test_a_target_of_another_shape_takes_its_part_of_the_base() -> None:
    base, phases = Params.from_names({"preset": "none", "target_width": 2048, "target_height": 1024}).phases((64, 64))
    assert base == (32, 64)
    assert [(p.height_lat, p.width_lat) for p in phases] == [(64, 128), (96, 192), (128, 256)]


def test_every_target_of_a_native_base_is_reached() -> None:
    for width, height in itertools.product(range(512, 2049, 104), range(512, 2049, 136)):
        for plan in PLANS:
            params = Params.from_names({"target_width": width, "target_height": height, "plan": plan})
            _, phases = params.phases((64, 64))
            if (width, height) == (512, 512):
                assert phases == []
            else:
                assert (phases[-1].height_lat * 8, phases[-1].width_lat * 8) == (height, width)


def test_scale_1_has_no_phases() -> None:
    assert Params.from_names({"scale": 1}).phases((64, 48)) == ((64, 48), [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"target_width": 504}, "target_width is 504, allowed: 0, or 512 to 4096 for this base image"),
        ({"target_height": 504}, "target_height is 504, allowed: 0, or 512 to 4096 for this base image"),
        ({"target_width": 4104}, "target_width is 4104, allowed: 0, or 512 to 4096 for this base image"),
        ({"target_width": 256, "target_height": 256}, "target_height is 256, allowed: 0, or 512 to 4096"),
    ],
)
def test_a_target_below_or_far_above_the_base_is_refused(values: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Params.from_names(values).phases((64, 64))


# -- docs/settings.md


def test_the_reference_shows_the_presets() -> None:
    """And what they cost, as `test_plan` counts it."""
    shown = re.search(r"<!-- presets -->\n(.*?)\n<!-- /presets -->", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown and shown.group(1) == presets_table()


def test_the_reference_shows_the_table() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    shown = re.search(r"<!-- settings -->\n(.*?)\n<!-- /settings -->", text, re.DOTALL)
    assert shown, "docs/settings.md lacks the markers <!-- settings --> and <!-- /settings -->"
    assert shown[1].strip() == markdown_table()


def test_the_table_has_a_row_for_every_setting() -> None:
    header, rule, *rows = markdown_table().splitlines()
    assert header.count("|") == rule.count("|") == 6
    assert len(rows) == len(SETTINGS)
    for row, setting in zip(rows, SETTINGS):
        assert row.count("|") == 6
        assert [cell.strip() for cell in row.strip("|").split("|")] == [
            f"`{setting.name}`",
            setting.label,
            setting.to_text(setting.default),
            setting.allowed,
            setting.help,
        ]


def test_line_breaks_of_prompts_are_one_kind_and_what_surrounds_them_is_taken_off() -> None:
    params = Params.from_names({"phase_prompt": " a\r\nb\rc\n\n", "phase_negative": "\n"})
    assert (params.phase_prompt, params.phase_negative) == ("a\nb\nc", "")


@pytest.mark.parametrize("name", ["phase_prompt", "phase_negative"])
@pytest.mark.parametrize("value", ["x" * 100_001, "\ud800", "a\0b", None, 3, ["a"]], ids=lambda v: repr(v)[:12])
def test_what_is_no_prompt_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SettingsError) as error:
        Params.from_names({name: value})
    told = f"{name} is {quoted(value)}, allowed: text of up to 100000 characters, or nothing"
    assert str(error.value) == f"DemoFusion: {told}"


def test_the_phases_guidance_is_the_base_images_unless_told() -> None:
    assert Params.from_names({}).cfg_in_phases(7.5) == 7.5
    assert Params.from_names({"phase_cfg": 1}).cfg_in_phases(7.5) == 1
