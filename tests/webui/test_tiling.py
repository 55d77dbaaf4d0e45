"""Seamless pictures: what the model is given, what its convolutions take for neighbours, and the webui left as it was."""

import importlib

import pytest
import torch

from demofusion_lib.core import upsample

FIELDS = {"sampler_name": "DDIM", "steps": 4, "width": 96, "height": 128}
"""DDIM's model is given parts of `x` as they are, so that each patch can be found again."""


@pytest.fixture
def looking(host):
    return importlib.import_module("witness")


def modes(host):
    """How each convolution of the loaded model goes on at the edge."""
    layers = [layer for layer in host.sd_hijack.model_hijack.layers if isinstance(layer, torch.nn.Conv2d)]
    assert len(layers) == 2
    return [layer.padding_mode for layer in layers]


def kinds(host, looking, outcome, phase, dilation):
    """For each call of a phase: whether it was of dilated sub-images, whether it went around, its patches' corners."""
    for evaluation in outcome.phases[phase].evaluations:
        for call in evaluation.calls:
            offsets = [looking.find_dilated(patch, evaluation.x[0], dilation) for patch in call.x]
            assert len({offset is None for offset in offsets}) == 1
            yield offsets[0] is not None, call, evaluation.x[0]


@pytest.mark.parametrize(("fields", "option"), [({"tiling": True}, False), ({}, True)], ids=["request", "option"])
def test_only_windows_have_borders(host, looking, fields, option):
    """Base image, dilated sub-images and VAE go around as the webui has it; each window sees its true neighbours."""
    host.opts.tiling = option
    outcome = host.txt2img({"scale": 3, "blur": 0, "keep_phases": True}, **FIELDS, **fields)
    assert all(call.circular for call in outcome.base.calls)
    for phase, scale in enumerate((2, 3)):
        places = set()
        for dilated, call, whole in kinds(host, looking, outcome, phase, scale):
            assert call.circular == dilated
            if not dilated:
                places |= {looking.find_window(patch, whole.repeat(1, 2, 2)) for patch in call.x}
        assert None not in places
        height, width = 16 * scale, 12 * scale
        assert all(top < height and left < width for top, left in places)
        assert any(top > height - 16 for top, _ in places) and any(left > width - 12 for _, left in places)
    assert host.model.decoded_circular == [True] * 3
    assert modes(host) == ["circular"] * 2


@pytest.mark.parametrize("settings", [{"scale": 2}, {"scale": 2.5, "border": "paper", "overlap": 0.25}], ids=str)
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_phases_equal_those_of_the_core(host, settings, sampler):
    fields = {**FIELDS, "sampler_name": sampler, "scheduler": "Uniform", "batch_size": 2, "tiling": True}
    outcome = host.txt2img(settings, **fields)
    base = torch.cat(host.txt2img(None, **fields).latents)
    params = host.params.Params.from_names({"preset": "none", **settings})
    draw = importlib.import_module("by_hand").draw
    solver = {"Euler": "sample_euler", "DDIM": "ddim"}[sampler]
    expected = draw(host.model, base, params, solver, [5, 6], [("cat", "dog")] * 2, 4, wrap=True)[-1]
    assert float((torch.cat(outcome.latents) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_each_phase_begins_with_a_latent_enlarged_around_its_edge(host):
    base = torch.cat(host.txt2img(None, **FIELDS, tiling=True).latents)
    phase = host.txt2img({"scale": 2}, **FIELDS, tiling=True).phases[0]
    assert torch.equal(phase.x, upsample(base, 32, 24, wrap=True))
    assert not torch.allclose(phase.x, upsample(base, 32, 24), atol=1e-3)


@pytest.mark.parametrize("off", [{}, {"tiling": False}], ids=str)
def test_with_edges_the_models_padding_is_never_touched(host, off, monkeypatch):
    """Nor with a request of its own against the option."""
    host.opts.tiling = bool(off)
    set_to = []
    layers = type(host.model.convolution)
    monkeypatch.setattr(
        layers, "padding_mode", property(lambda self: "zeros", lambda self, mode: set_to.append(mode)), raising=False
    )
    outcome = host.txt2img({"scale": 2}, **FIELDS, **off)
    assert not set_to
    assert len(outcome.phases[0].evaluations[0].calls) == 2
    assert len(outcome.phases[0].evaluations[0].calls[0].x) == 18  # nine windows, prompt and negative


@pytest.mark.parametrize("ending", ["error", "interrupt", "skip", "memory"])
@pytest.mark.parametrize("dilated", [False, True])
def test_however_a_phase_ends_the_model_is_as_the_webui_made_it(host, ending, dilated):
    plain = host.txt2img({"scale": 2}, **FIELDS, tiling=True)
    number = len(plain.base.calls) + dilated
    assert plain.phases[0].calls[dilated].circular == dilated

    def act(n):
        if n < number:
            return
        if ending == "error":
            raise ValueError("broken")
        if ending == "memory":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        getattr(host.state, "interrupt" if ending == "interrupt" else "skip")()

    host.model.hooks.on_call = act
    outcome = host.txt2img({"scale": 2}, **FIELDS, tiling=True)
    assert outcome.sizes == [(96, 128)]
    assert "DemoFusion stopped" in outcome.infotext
    assert host.model.decoded_circular[-1]
    assert modes(host) == ["circular"] * 2
    host.model.hooks.on_call = lambda n: None
    host.txt2img({"scale": 2}, **FIELDS, tiling=False)
    assert modes(host) == ["zeros"] * 2


def test_after_a_refiner_the_base_model_goes_around_again(host):
    """The webui turns Tiling off when it loads a model, and does not turn it on again within a picture."""
    base = host.install()
    host.install("refiner.safetensors", accent=0.3)
    outcome = host.txt2img({"scale": 2}, **FIELDS, tiling=True, refiner_checkpoint="refiner", refiner_switch_at=0.5)
    assert host.sd_models._loads == ["refiner", "tiny"]
    assert {call.circular for call in outcome.phases[0].calls} == {False, True}
    assert base.decoded_circular == [True]
    plain = host.txt2img({"scale": 2}, **FIELDS, refiner_checkpoint="refiner", refiner_switch_at=0.5)
    assert not any(call.circular for call in plain.phases[0].calls)
    assert modes(host) == ["zeros"] * 2


def test_sdxl_is_told_where_in_the_picture_a_window_begins(host, looking):
    host.install(sdxl=True)
    outcome = host.txt2img({"scale": 2, "blur": 0}, **FIELDS, tiling=True)
    across = 0
    for dilated, call, whole in kinds(host, looking, outcome, 0, 2):
        for patch, (_, _, *corner, _, _) in zip(call.x, host.model.conditioner.read(call.vector)):
            if dilated:
                assert corner == [0, 0]
                continue
            top, left = looking.find_window(patch, whole.repeat(1, 2, 2))
            assert corner == [8 * top, 8 * left]
            assert 0 <= top < 32 and 0 <= left < 24
            across += top > 16 or left > 12
    assert across
