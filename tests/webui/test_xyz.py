"""Our axes in the host's X/Y/Z plot. The plot here is a double: it copies the run for every cell, and lets a cell fail."""

import copy
import types
from collections import namedtuple

import numpy as np
import pytest

SMALL = {"width": 64, "height": 64, "steps": 3}
Data = namedtuple("Data", "script_class path basedir module")


class Option:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply = label, type, apply
        self.confirm, self.choices, self.cost = confirm, choices, cost


class OptionTxt2Img(Option):
    is_img2img = False


@pytest.fixture
def plot(host):
    """The module of the host's script, in the list of those that are loaded."""
    module = types.ModuleType("xyz_grid.py")
    module.AxisOption, module.AxisOptionTxt2Img = Option, OptionTxt2Img
    module.axis_options = [Option("Nothing", str, lambda p, x, xs: None)]
    host.scripts.scripts_data.append(Data(host.scripts.Script, "/webui/scripts/xyz_grid.py", "/webui", module))
    host.our_script()
    return module


def option(plot, label):
    (found,) = [option for option in plot.axis_options if option.label == f"[DemoFusion] {label}"]
    return found


def cells(host, plot, p, *axes, page=False):
    """The outcome of every cell; axes are a label and texts, as they are typed into the page."""
    if page:
        p.scripts.selectable_scripts = [types.SimpleNamespace(filename="/webui/scripts/xyz_grid.py")]
        p.script_args = (1, *p.script_args[1:])
    read = []
    for label, *texts in axes:
        axis = option(plot, label)
        values = [axis.type(text) for text in texts]
        axis.confirm(p, values)
        read.append([(axis, value, values) for value in values])
    made = [[]]
    for axis in read:
        made = [[*before, each] for before in made for each in axis]
    outcomes = []
    for chosen in made:
        if host.state.interrupted:
            outcomes.append(None)
            continue
        cell = copy.copy(p)
        for axis, value, values in chosen:
            axis.apply(cell, value, values)
        outcomes.append(host.run(cell, page=page))
    return outcomes


def ours(host, outcome):
    found = host.infotext_utils.parse_generation_parameters(outcome.infotext)
    return {k.removeprefix("DemoFusion "): v for k, v in found.items() if k.startswith("DemoFusion")}


def test_there_is_an_axis_for_every_setting_that_a_picture_depends_on(host, plot):
    labels = [option.label for option in plot.axis_options]
    settings = {s.name: s for s in host.params.SETTINGS if s.told}
    assert labels == [
        "Nothing",
        "[DemoFusion] Preset",
        "[DemoFusion] Enabled",
        *(f"[DemoFusion] {s.label}" for s in list(settings.values())[1:] if s.name != "preset"),
    ]
    assert {"[DemoFusion] Preset", "[DemoFusion] Scale", "[DemoFusion] Phase sampler"} <= set(labels)
    for name, setting in settings.items():
        axis = option(plot, "Enabled" if name == "enabled" else setting.label)
        assert type(axis) is Option  # which both tabs offer
        assert axis.type is (setting.kind if setting.kind in (int, float) else str)
        assert (axis.choices is None) == (setting.kind in (int, float) or setting.is_prompt)
    assert option(plot, "Preset").choices() == list(host.params.BY_NAME["preset"].choices)
    assert option(plot, "Window jitter").choices() == ["True", "False"]
    assert option(plot, "Phase sampler").choices() == ["same", *(s.name for s in host.sd_samplers.all_samplers)]


def test_never_twice(host, plot):
    """The host makes its scripts once for txt2img and once for img2img, and all anew at Reload UI."""
    count = len(plot.axis_options)
    host.our_script()
    assert len(plot.axis_options) == count
    anew = types.ModuleType("xyz_grid.py")
    anew.AxisOption, anew.axis_options = Option, []
    host.scripts.scripts_data[:] = [Data(None, "xyz_grid.py", "", anew)]
    host.our_script()
    assert len(anew.axis_options) == count - 1


def test_a_host_without_the_script_or_with_another(host):
    assert host.our_script().title() == "DemoFusion Hires" and not host.swallowed
    other = types.ModuleType("xyz_grid.py")
    other.axis_options = ["of another kind"]
    host.scripts.scripts_data.append(Data(None, "xyz_grid.py", "", other))
    assert host.our_script().title() == "DemoFusion Hires"
    assert other.axis_options == ["of another kind"] and len(host.swallowed) == 1


def positional(host, **values):
    """As the page sends them: every setting."""
    return [
        {"enabled": True, "preset": "none", "window_batch": 64, "vae": "host", **values}.get(s.name, s.default)
        for s in host.params.SETTINGS
    ]


@pytest.mark.parametrize("by", ["page", "names"])
def test_a_preset_does_what_choosing_it_does(host, plot, by):
    """What presets set is the preset's whatever was there; the scale and the sampler stay."""
    values = {"scale": 3, "steps": 2, "overlap": 0.4, "phase_sampler": "LMS", "preset": "draft", "a2": 2.0}
    p = host.generation(positional(host, **values) if by == "page" else values, **SMALL)
    texts = ["none", "paper", "fast"]
    for name, outcome in zip(texts, cells(host, plot, p, ("Preset", *texts)), strict=True):
        chosen = {"scale": 3, "phase_sampler": "LMS", "a2": 2.0, "preset": name}
        alone = host.txt2img(chosen, **SMALL)
        assert outcome.infotext == alone.infotext
        assert np.array_equal(outcome.images[0], alone.images[0])
    assert vars(p).get("demofusion_axes") is None


@pytest.mark.parametrize("turn", [1, -1])
def test_another_axis_counts_before_a_preset(host, plot, turn):
    """Whichever of them comes first."""
    p = host.generation({"scale": 2, "overlap": 0.4}, **SMALL)
    axes = [("Preset", "fast"), ("Steps per phase", "1", "3")][::turn]
    for outcome, steps in zip(cells(host, plot, p, *axes), "13", strict=True):
        assert ours(host, outcome)["preset"] == "fast" and ours(host, outcome)["steps"] == steps
        assert "overlap" not in ours(host, outcome) and len(outcome.phases[0].evaluations) == int(steps)


@pytest.mark.parametrize(
    ("label", "texts", "name"),
    [
        ("Scale", ["1.5", "2"], "scale"), ("Steps per phase", ["1", "2"], "steps"), ("Start timestep", ["601", "0"], "start"),
        ("Plan", ["doubling", "direct"], "plan"), ("Guidance", ["low-pass"], "guidance"), ("Window overlap", ["0.25"], "overlap"),
        ("Skip residual decay", ["1"], "a1"), ("Residual", ["x0"], "residual"), ("Window jitter", ["False"], "jitter"),
        ("Phase sampler", ["DPM++ 2M", "DDIM"], "phase_sampler"), ("Phase scheduler", ["Karras"], "phase_scheduler"),
    ],
)  # fmt: skip
def test_an_axis_is_told_in_its_cells(host, plot, label, texts, name):
    p = host.generation(positional(host, scale=2), **SMALL)
    for text, outcome in zip(texts, cells(host, plot, p, (label, *texts)), strict=True):
        alone = host.txt2img({"scale": 2, name: host.params.BY_NAME[name].from_text(text)}, **SMALL)
        assert outcome.infotext == alone.infotext and np.array_equal(outcome.images[0], alone.images[0])
        assert ours(host, outcome).get(name, text) == text


def test_an_axis_of_an_old_samplers_name(host, plot):
    p = host.generation(positional(host, scale=2), **SMALL)
    (outcome,) = cells(host, plot, p, ("Phase sampler", "DPM++ 2M Karras"))
    alone = host.txt2img({"scale": 2, "phase_sampler": "DPM++ 2M", "phase_scheduler": "Karras"}, **SMALL)
    assert outcome.infotext == alone.infotext and np.array_equal(outcome.images[0], alone.images[0])


def test_an_axis_switches_on(host, plot):
    """A plot over what is off would show one picture over and over. Only what is switched off by an axis is off."""
    p = host.generation(None, **SMALL)
    (on,) = cells(host, plot, p, ("Scale", "2"))
    assert on.sizes == [(128, 128)] and ours(host, on)["enabled"] == "True"
    off, on = cells(host, plot, p, ("Enabled", "False", "True"), ("Scale", "3"))
    assert (off.sizes, on.sizes) == ([(64, 64)], [(192, 192)])
    alone = host.txt2img(None, **SMALL)
    assert off.infotext == alone.infotext and np.array_equal(off.images[0], alone.images[0])
    bad = host.generation([False, 99.0], **SMALL)
    assert cells(host, plot, bad, ("Enabled", "False"))[0].sizes == [(64, 64)]


@pytest.mark.parametrize("page", [False, True])
def test_a_refused_cell_leaves_the_others(host, plot, page):
    """A target that the base can't reach is known when the cell begins."""
    p = host.generation(positional(host), **SMALL)
    refused, drawn = cells(host, plot, p, ("Target width", "32", "128"), page=page)
    assert refused.calls == 0 and "target_width is 32" in str(refused.error)
    assert drawn.error is None and drawn.sizes == [(128, 128)]


def test_a_refused_run_of_the_page_is_still_ended(host, plot):
    """Where there is no plot: a script that draws one picture after another ends too."""
    outcome = host.run(host.generation({"target_width": 32}, **SMALL), page=True)
    assert outcome.error is None and host.state.interrupted and "Target width is 32" in outcome.comments


@pytest.mark.parametrize(
    ("label", "value", "words"),
    [
        ("Scale", 9.0, "scale is 9.0, allowed: 1 to 8"), ("Preset", "quick", "preset is 'quick', allowed: none, paper"),
        ("Window jitter", "no", "jitter is 'no', allowed: true or false"), ("Phase sampler", "", "allowed: same, or the name"),
        ("Phase sampler", "Eulr", "phase_sampler is 'Eulr', allowed: same, DPM"),
        ("Phase scheduler", "karras", "phase_scheduler is 'karras', allowed: same, Automatic, "),
    ],
)  # fmt: skip
def test_what_no_cell_can_take_is_refused_before_the_first(host, plot, label, value, words):
    axis, p = option(plot, label), host.generation({"scale": 2}, **SMALL)
    with pytest.raises(host.params.SettingsError, match=words) as raised:
        axis.confirm(p, [value])
    assert raised.value.status_code == 422
    cell = copy.copy(p)
    axis.apply(cell, value, [value])  # by a plot that asks nobody before
    assert words in str(host.run(cell).error)


def test_a_range_is_a_sum_of_steps(host, plot):
    axis, p = option(plot, "Window overlap"), host.generation({"scale": 2}, **SMALL)
    values = np.arange(0.3, 0.91, 0.1).tolist()
    assert values[-1] > 0.9
    axis.confirm(p, values)
    axis.apply(p, values[-1], values)
    assert ours(host, host.run(p))["overlap"] == "0.9"
