"""What wraps the UNet and takes a window for the whole picture is named."""

import importlib

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


def hook(unet):
    unet.register_forward_pre_hook(lambda module, given: None)


@pytest.mark.parametrize(("put", "named"), [
    (wrap, True), (hook, True), (WrapsUnmarked, True), (lambda unet: wrap(unet, mark="yes"), True),
    (lambda unet: wrap(unet, mark=True), False), (Wraps, False), (bound, False), (lambda unet: None, False),
], ids=["function", "hook", "object", "another mark", "marked", "marked object", "its own", "none"])  # fmt: skip
def test_by_the_file_that_it_comes_from_unless_it_says_that_it_asks(host, put, named):
    unet = host.model.model.diffusion_model
    put(unet)
    outcome = host.txt2img(SETTINGS)
    assert (f"what another extension (test_wrapping.py) {TOLD}" in outcome.infotext) == named
    assert (TOLD in outcome.comments) == named
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


def test_whoever_asks_is_told_in_every_call_of_a_phase_and_in_no_other(host):
    seen = []
    host.model.hooks.on_call = lambda n: seen.append(looking())
    outcome = host.txt2img({**SETTINGS, "window_batch": 4}, width=96, batch_size=2)
    base = len(outcome.base.calls)
    assert seen[:base] == [None] * base and len(seen) > base
    for now, call in zip(seen[base:], outcome.phases[0].calls):
        assert len(now.views) == len(call.x) and now.size_lat == (32, 24) and now.shape_lat == call.x.shape[-2:]
    assert torch.equal(torch.tensor([now.phase.number for now in seen[base:]]).unique(), torch.tensor([2]))
