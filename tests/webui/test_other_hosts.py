"""Machines, settings and hosts that the doubles run without: GPUs without float64, HyperTile, Tiled Diffusion, forks."""

import importlib
import importlib.machinery
import sys
import types

import numpy as np
import pytest
import torch

from tests.apple import Far, apple

from .conftest import ROOT, load_entry

SIZE = {"width": 64, "height": 64, "steps": 4}


def test_timestep_samplers_on_a_gpu_without_float64(host):
    families = importlib.import_module("demofusion_lib.webui.families")
    levels = torch.linspace(0.99, 0.01, 1000)
    with apple():
        with pytest.raises(TypeError, match="float64"):
            Far(levels).double()
        family = families.TimestepFamily(None, Far(levels))
    assert torch.equal(family.alphas_cumprod, levels.double())


# HyperTile


@pytest.fixture
def hypertile(host, monkeypatch):
    """The host's built-in module, by the name that it is loaded under: it notes what it is set to."""
    module = types.ModuleType("hypertile")
    module.set_to = []
    module.hypertile_hook_model = lambda model, width, height, **options: module.set_to.append((width, height, options))
    monkeypatch.setitem(sys.modules, "hypertile", module)
    host.opts.hypertile_enable_unet = True
    return module


def test_hypertile_follows_the_shape_of_the_windows(host, hypertile):
    """A target of another shape: windows and sub-images are no larger than the cropped base's phase."""
    seen = []

    def look(n):
        set_to = hypertile.set_to[-1][:2] if hypertile.set_to else (64, 64)
        seen.append((set_to, host.witness.now.calls))

    host.model.hooks.on_call = look
    outcome = host.txt2img({"target_width": 128, "target_height": 72}, **SIZE)
    shapes = {(8 * call.x.shape[-1], 8 * call.x.shape[-2]) for call in outcome.phases[0].calls}
    assert len(shapes) == 2 and (64, 64) in shapes
    calls = [call for sampling in outcome.samplings for call in sampling.calls]
    for (set_to, _), call in zip(seen, calls, strict=True):
        assert set_to == (8 * call.x.shape[-1], 8 * call.x.shape[-2])
    assert hypertile.set_to[-1][:2] == (64, 64)  # as it was
    assert {options["enable"] for *_, options in hypertile.set_to} == {True}


def test_hypertile_is_put_back_after_an_interrupt(host, hypertile):
    """Pressed while sub-images of another shape are drawn: no window of the base's shape follows."""

    def press(n):
        if hypertile.set_to and hypertile.set_to[-1][:2] != (64, 64):
            host.state.interrupt()

    host.model.hooks.on_call = press
    host.txt2img({"target_width": 128, "target_height": 72}, **SIZE)
    assert len(hypertile.set_to) == 2 and hypertile.set_to[-1][:2] == (64, 64)


def test_hypertile_is_left_alone_where_it_is_right_or_off(host, hypertile):
    host.txt2img({"scale": 2}, **SIZE)
    assert hypertile.set_to == []
    host.opts.hypertile_enable_unet = False
    host.txt2img({"target_width": 128, "target_height": 72}, **SIZE)
    assert hypertile.set_to == []


# Extensions that put their own sampler or their own `sample` in the host's place


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "UniPC"])
def test_a_create_sampler_that_returns_one_sampler_again_and_again(host, sampler):
    """Tiled Diffusion's: bound to the base image's tiles. It draws the base image; the phases are ours."""
    expected = host.txt2img({"scale": 3}, **SIZE, sampler_name=sampler)
    original, kept = host.sd_samplers.create_sampler, []

    def create_sampler(name, model):
        if not kept:
            kept.append(original(name, model))
        return kept[0]

    host.sd_samplers.create_sampler = create_sampler
    outcome = host.txt2img({"scale": 3}, **SIZE, sampler_name=sampler)
    assert np.array_equal(outcome.images[0], expected.images[0])
    assert outcome.comments == "DemoFusion: another extension (test_other_hosts.py) draws in the base image only.\n"
    guided = kept[0].model_wrap_cfg
    assert type(guided.model_wrap).__name__ != "FusedModel"
    assert "forward" not in vars(guided)


def test_a_replaced_model_call_is_told_of(host):
    """Mixture of Diffusers divides whatever has the base image's size into its tiles: our windows as well."""
    model = host.model
    original = model.apply_model
    model.apply_model = lambda *args, **kwargs: original(*args, **kwargs)
    outcome = host.txt2img({"scale": 2}, **SIZE)
    assert "another extension (test_other_hosts.py) takes part in every window" in outcome.comments
    assert "takes part in every window" in outcome.infotext
    del model.apply_model
    model.apply_model = model.apply_model  # put back by hand, as some do: the model's own, bound to it
    assert host.txt2img({"scale": 2}, **SIZE).comments == ""


@pytest.mark.parametrize("sampler", ["Euler", "DDIM", "UniPC"])
@pytest.mark.parametrize("end", ["done", "interrupt", "error"])
def test_the_engine_is_taken_off_every_sampler(host, sampler, end):
    made = []
    original = host.sd_samplers.create_sampler

    def create_sampler(name, model):
        made.append(original(name, model))
        made[-1].callback_state = noted = lambda info, own=made[-1].callback_state: own(info)
        made[-1].noted = noted
        return made[-1]

    def hook(n):
        if n == 8 and end == "interrupt":
            host.state.interrupt()
        if n == 8 and end == "error":
            raise RuntimeError("broken")

    host.sd_samplers.create_sampler = create_sampler
    host.model.hooks.on_call = hook
    host.txt2img({"scale": 3}, **SIZE, sampler_name=sampler)
    assert len(made) == (3 if end == "done" else 2)
    for one in made:
        assert type(one.model_wrap_cfg.model_wrap).__name__ != "FusedModel"
        assert "forward" not in vars(one.model_wrap_cfg)
        assert one.callback_state is one.noted


class Takes:
    """An extension that draws the picture by itself: it sets `sample` on the object after ours was put there."""

    def __new__(cls, host, hook):
        class TakesOver(host.scripts.Script):
            def show(self, is_img2img):
                return host.scripts.AlwaysVisible

        def take(self, p, *args, **kwargs):
            size = (p.batch_size, 4, p.height // 8, p.width // 8)
            p.sample = lambda **kwargs: torch.zeros(size)

        setattr(TakesOver, hook, take)
        return TakesOver()


@pytest.mark.parametrize("hook", ["process", "before_process_batch", "process_batch"])
def test_an_extension_that_draws_by_itself(host, hook):
    extension = types.SimpleNamespace(name="other-fusion", path=str(__file__).rsplit("/", 1)[0])
    host.extensions.extensions.append(extension)
    outcome = host.txt2img({"scale": 2, "keep_phases": True}, **SIZE, scripts=(Takes(host, hook),), n_iter=2)
    assert outcome.sizes == [(64, 64)] * 2
    assert "left out, as the extension other-fusion draws the picture by itself" in outcome.comments
    for text in outcome.processed.infotexts:
        keys = [key for key in host.infotext_utils.parse_generation_parameters(text) if key.startswith("DemoFusion")]
        assert keys == ["DemoFusion note"]
    assert not host.swallowed


def test_an_extension_of_unknown_name(host):
    outcome = host.txt2img({"scale": 2}, **SIZE, scripts=(Takes(host, "process"),))
    assert "as another extension (test_other_hosts.py) draws" in outcome.comments


def test_an_extension_that_calls_what_it_replaced_is_not_in_the_way(host):
    class Wraps(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def process(self, p, *args):
            original = p.sample
            p.sample = lambda **kwargs: original(**kwargs)

    outcome = host.txt2img({"scale": 2}, **SIZE, scripts=(Wraps(),))
    assert outcome.sizes == [(128, 128)]
    assert not outcome.comments


# Hosts that ask their model past the engine


@pytest.fixture
def older(host, monkeypatch):
    """Of Forge's family by its packages, and none that we have drawn in: it has no `ldm_patched.hooks`, as reForge does, and
    is none of Classic by its version."""
    for name in ("modules_forge", "modules_forge.forge_version", "ldm_patched"):
        package = types.ModuleType(name)
        package.__spec__ = importlib.machinery.ModuleSpec(name, None)
        package.__path__ = []
        monkeypatch.setitem(sys.modules, name, package)
    package = sys.modules["modules_forge.forge_version"]
    package.version = "f0.0.17v1.8.0rc"
    return package


def refused(host, settings, page=False):
    outcome = host.run(host.generation(settings, **SIZE), page=page)
    assert (not outcome.samplings and not host.swallowed) or page
    return str(outcome.error or outcome.comments)


ALLOWED = "allowed: AUTOMATIC1111's webui, reForge, Forge, Forge Classic, Forge Neo"


def test_a_fork_that_is_not_known_is_refused_by_name(host, older):
    assert refused(host, {"scale": 2}) == f"DemoFusion: the webui is an older Forge f0.0.17v1.8.0rc, {ALLOWED}"
    del older.version
    assert refused(host, {"scale": 2}) == f"DemoFusion: the webui is an older Forge, {ALLOWED}"


def test_it_is_refused_on_the_page(host, older):
    assert "not drawn: the webui is an older Forge" in refused(host, {"scale": 2}, page=True)


def test_it_draws_with_the_extension_off(host, older):
    plain = host.txt2img(None, **SIZE)
    assert plain.sizes == [(64, 64)] and not plain.comments


@pytest.mark.parametrize("missing", ["apply_model", "model"])
def test_an_unknown_host_is_refused_by_name(host, monkeypatch, missing):
    """One whose model is no `LatentDiffusion`, as a pipeline of diffusers."""
    hosts = importlib.import_module("demofusion_lib.webui.hosts")
    monkeypatch.setattr(hosts, "shared", types.SimpleNamespace(script_path="/home/me/automatic"))
    kept = {"apply_model": host.model.apply_model, "model": host.model.model}
    del kept[missing]
    pipeline = type("Pipeline", (types.SimpleNamespace,), {})(is_sdxl=False, **kept)
    with pytest.raises(host.params.SettingsError) as error:
        hosts.check_host(pipeline)
    told = "DemoFusion: the webui is the webui in the folder 'automatic', whose model is a Pipeline"
    assert str(error.value) == f"{told}, {ALLOWED}"
    hosts.check_host(host.model)


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_a_host_that_draws_past_the_engine_is_stopped_at_its_first_step(host, monkeypatch, sampler):
    """As a denoiser would that asks a model of its own: phase 1 is delivered, and why."""
    denoiser = host.sd_samplers_cfg_denoiser.CFGDenoiser
    asked = []

    original = denoiser.forward

    def forward(self, x, *args, **kwargs):
        if type(self.model_wrap).__name__ != "FusedModel":
            return original(self, x, *args, **kwargs)
        asked.append(x.shape)
        return torch.zeros_like(x)

    monkeypatch.setattr(denoiser, "forward", forward)
    outcome = host.txt2img({"scale": 2}, **SIZE, sampler_name=sampler)
    assert len(asked) == 1
    assert outcome.sizes == [(64, 64)]
    assert "has drawn a step without asking the model by windows" in outcome.comments


WANTED = {"before_image_saved", "ui_settings", "before_ui", "app_started", "cfg_denoised"}


def test_the_host_need_not_look_for_who_registers_a_callback(host, monkeypatch):
    """It would read the sources of the whole stack of its start, for each of them."""
    asked = {}

    def add_callback(callbacks, fun, *, name=None, category="unknown", filename=None):
        assert callbacks is host.script_callbacks.callback_map["callbacks_" + category]
        asked[category] = filename

    monkeypatch.setattr(host.script_callbacks, "add_callback", add_callback)
    load_entry()
    assert asked == dict.fromkeys(WANTED, str(ROOT / "scripts" / "demofusion.py"))


@pytest.mark.parametrize("other", ["has none", "takes less"])
def test_an_older_host_is_asked_in_its_own_way(host, monkeypatch, other):
    names = [name for name in vars(host.script_callbacks) if name.startswith("on_")]
    asked = []
    for name in names:
        monkeypatch.setattr(host.script_callbacks, name, lambda callback, of=name: asked.append(of))
    if other == "has none":
        monkeypatch.delattr(host.script_callbacks, "add_callback")
    else:
        monkeypatch.setattr(host.script_callbacks, "add_callback", lambda callbacks, fun: 1 / 0)
    load_entry()
    assert set(asked) == {"on_" + name for name in WANTED}
