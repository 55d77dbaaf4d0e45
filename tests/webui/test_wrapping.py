"""What wraps the UNet and takes a window for the whole picture is named."""

import functools
import importlib
import types
from pathlib import Path

import pytest
import torch

from demofusion_lib.core import looking

SETTINGS = {"preset": "none", "scale": 2}
TOLD = "does to the UNet it does to every window as to a whole picture"


def wrap(unet, mark=None):
    forward = unet.forward

    def wrapped(*args, **kwargs):
        return forward(*args, **kwargs)

    if mark is not None:
        wrapped.follows_demofusion = mark
    unet.forward = wrapped


def bound(unet):
    unet.forward = type(unet).forward.__get__(unet)


class Wraps:
    follows_demofusion = True

    def __init__(self, unet):
        self.forward, unet.forward = unet.forward, self

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


class WrapsUnmarked(Wraps):
    follows_demofusion = False


class Belongs:
    """To an object that says that it asks."""

    follows_demofusion = True

    def __init__(self, unet):
        self.forward, unet.forward = unet.forward, self.wrapped

    def wrapped(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


def hook_after(unet):
    unet.register_forward_hook(lambda module, given, answer: None)


def hook(unet):
    unet.register_forward_pre_hook(lambda module, given: None)


@pytest.mark.parametrize(("put", "named"), [
    (wrap, True), (hook, True), (hook_after, True), (Belongs, False), (WrapsUnmarked, True), (lambda unet: wrap(unet, mark="yes"), True),
    (lambda unet: wrap(unet, mark=True), False), (Wraps, False), (bound, False), (lambda unet: None, False),
], ids=["function", "hook", "hook after", "of a marked object", "object", "another mark", "marked", "marked object", "its own", "none"])  # fmt: skip
def test_by_the_file_that_it_comes_from_unless_it_says_that_it_asks(host, put, named):
    unet = host.model.model.diffusion_model
    put(unet)
    outcome = host.txt2img(SETTINGS)
    assert (f"what another extension (test_wrapping.py) {TOLD}" in outcome.infotext) == named
    assert (TOLD in outcome.comments) == named and WITHIN not in outcome.infotext
    assert not host.swallowed and outcome.sizes == [(256, 256)]


def test_the_webuis_own_hooks_are_not(host):
    def send_me_to_gpu(module, _):
        return None

    send_me_to_gpu.__module__ = "modules.lowvram"
    host.model.model.diffusion_model.register_forward_pre_hook(send_me_to_gpu)
    assert TOLD not in host.txt2img(SETTINGS).infotext


def test_controlnet_is_looked_through(host):
    cn = importlib.import_module("controlling")
    script = cn.Script(host, cn.unit())
    assert TOLD not in host.txt2img(SETTINGS, scripts=(script,)).infotext
    wrap(host.model.model.diffusion_model)
    outcome = host.txt2img(SETTINGS, scripts=(cn.Script(host, cn.unit()),))
    assert f"test_wrapping.py) {TOLD}" in outcome.infotext


def test_what_controlnet_left_of_a_run_that_failed_is_named(host):
    """Its two tabs have an object each: that of the other one knows nothing of it, and wraps it."""
    cn, unet = importlib.import_module("controlling"), host.model.model.diffusion_model
    cn.UnetHook(host.model, unet, []).hook()
    forward = unet._original_forward
    unet.forward = lambda *args, **kwargs: forward(*args, **kwargs)
    unet.forward = types.FunctionType(unet.forward.__code__, vars(cn), closure=unet.forward.__closure__)
    assert TOLD in host.txt2img(SETTINGS, scripts=(cn.Script(host, cn.unit()),)).infotext


def test_whoever_asks_is_told_in_every_call_of_a_phase_and_in_no_other(host):
    seen = []
    host.model.hooks.on_call = lambda n: seen.append(looking())
    outcome = host.txt2img({**SETTINGS, "window_batch": 4}, width=96, batch_size=2)
    base = len(outcome.base.calls)
    assert seen[:base] == [None] * base and len(seen) > base
    for now, call in zip(seen[base:], outcome.phases[0].calls):
        assert len(now.views) == len(call.x) and now.size_lat == (32, 24) and now.shape_lat == call.x.shape[-2:]
    assert torch.equal(torch.tensor([now.phase.number for now in seen[base:]]).unique(), torch.tensor([2]))


WITHIN = "does within the UNet it does to every window as to a whole picture"


def wrap_part(unet):
    part = unet[0]
    part.forward = functools.partial(lambda forward, *args: forward(*args), part.forward)


def hook_before_part(unet):
    unet[0].register_forward_pre_hook(lambda module, given: None)


def hook_part(unet):
    unet[0].register_forward_hook(lambda module, given, answer: None)


@pytest.mark.parametrize("put", [wrap_part, hook_part, hook_before_part])
def test_what_sits_within_the_unet_is_asked_as_the_webui_asks_it(host, put):
    """One window of every row a call: prompts, then negative prompts, whose places it may tell them by."""
    apart = host.txt2img({**SETTINGS, "window_batch": 16}, batch_size=2)
    rows, latent = {len(call.x) for call in apart.phases[0].calls}, host.model.decoded[-1]
    put(host.model.model.diffusion_model)
    outcome = host.txt2img({**SETTINGS, "window_batch": 16}, batch_size=2)
    calls = outcome.phases[0].calls
    assert rows != {4} and {len(call.x) for call in calls} == {4}
    assert all(torch.equal(call.text, outcome.base.calls[0].text) for call in calls)
    assert f"what another extension (test_wrapping.py) {WITHIN}" in outcome.infotext and WITHIN not in apart.infotext
    assert torch.allclose(host.model.decoded[-1], latent, atol=1e-5)


def test_what_says_that_it_asks_is_given_batches(host):
    wrap(host.model.model.diffusion_model[0], mark=True)
    outcome = host.txt2img({**SETTINGS, "window_batch": 16})
    assert WITHIN not in outcome.infotext and max(len(call.x) for call in outcome.phases[0].calls) > 2


def test_an_extension_that_fails_in_the_phases_alone_is_named(host, tmp_path):
    file = tmp_path / "of_one_size.py"
    file.write_text("def masked(params):\n    params.x[..., 0] = params.x.new_zeros(16)\n", encoding="utf-8")
    names = {}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), names)
    link = tmp_path.with_name("ours")
    link.symlink_to(Path(importlib.import_module("demofusion_lib").__file__).parents[1])
    for name, path in (("ours", link), ("sd-webui-of-one-size", tmp_path)):
        host.extensions.extensions.append(types.SimpleNamespace(name=name, path=str(path)))
    host.script_callbacks.on_cfg_denoised(names["masked"])
    outcome = host.txt2img(SETTINGS)
    told = "the extension sd-webui-of-one-size failed in the phases, which were drawn without it (The expanded size"
    assert told in outcome.infotext and told in outcome.comments
    plain = host.txt2img(None)
    assert "failed in the phases" not in plain.infotext
