"""The phases' pictures go through the VAE's tiles, with a network for a VAE, and nothing stays behind in it."""

import dataclasses
import importlib
import threading

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as Diffusers

from .small_vae import network

SIDE = 128
"""Of the base image, in pixels."""


class AutoencoderKL(Diffusers):
    """With the host's own `decode`, which answers the picture itself. `repair`: what a wider precision does to it."""

    repair = None

    def to(self, *args, **kwargs):
        if self.repair is not None:
            self.repair()
        return super().to(*args, **kwargs)

    def decode(self, z):
        self.undivided.append(tuple(z.shape[-2:]))
        return super().decode(z, return_dict=False)[0]


@pytest.fixture
def vae(host):
    made = network(AutoencoderKL)
    made.undivided = []
    host.model.first_stage_model = made
    return made


@pytest.fixture(autouse=True)
def no_room(monkeypatch, tmp_path):
    """Pictures are saved nowhere."""
    monkeypatch.chdir(tmp_path)


def drawn(host, settings, **fields):
    outcome = host.txt2img({"scale": 2, "vae": "auto", **settings}, steps=2, **fields)
    assert "decode" not in vars(host.model.first_stage_model)
    return outcome


@pytest.mark.parametrize("mode", ["auto", "exact"])
def test_the_picture_is_the_undivided_one(host, vae, mode):
    whole = drawn(host, {"vae": "host"})
    assert vae.undivided == [(32, 32)]
    tiled = drawn(host, {"vae": mode})
    assert vae.undivided == [(32, 32)] and not tiled.comments
    assert int(np.abs(tiled.images[0].astype(int) - whole.images[0]).max()) <= 1
    assert len(np.unique(tiled.images[0])) > 50


def test_estimated_is_said(host, vae):
    outcome = drawn(host, {"vae": "estimated"})
    assert "estimated statistics, which is not exact" in outcome.comments
    assert "estimated" in outcome.infotext and vae.undivided == []


def test_layers_in_a_file_are_said_and_nothing_is_left(host, vae, monkeypatch, tmp_path):
    """Where memory is taken: what it takes of the disk is told, as it is slower."""
    tiles = importlib.import_module("demofusion_lib.vae")
    (tmp_path / "out").mkdir()
    whole = drawn(host, {"vae": "host"})
    before = list((tmp_path / "out").iterdir())
    find = tiles.Memory.find
    little = dataclasses.replace(find(torch.device("cpu"), str(tmp_path)), device=2 << 20, host=2 << 20)
    monkeypatch.setattr(tiles.Memory, "find", lambda device, folder: little)
    outcome = drawn(host, {"vae": "auto"})
    assert "VAE by tiles, exact" in outcome.comments and "in a file" in outcome.comments
    assert int(np.abs(outcome.images[0].astype(int) - whole.images[0]).max()) <= 1
    assert [path for path in tmp_path.iterdir() if path.name != "out"] == [] and len(before) <= 1


def test_the_base_image_is_the_hosts_own(host, vae):
    """Its own size goes through the host's own decoder, kept or delivered."""
    outcome = drawn(host, {"keep_phases": True, "scale": 3})
    assert vae.undivided == [(16, 16)]
    assert sorted(outcome.sizes) == [(128, 128), (256, 256), (384, 384)]


def test_what_cannot_be_read_is_the_hosts(host, vae):
    own = vae.decoder.mid_block.resnets[0].forward
    vae.decoder.mid_block.resnets[0].forward = lambda *args: own(*args)
    outcome = drawn(host, {})
    assert vae.undivided == [(32, 32)]
    assert "the VAE can't be read (" in outcome.comments and "in one piece" in outcome.comments


@pytest.mark.parametrize("enlarge", ["latent", "pixels"])
def test_another_extensions_tiles_stay_and_are_named(host, vae, enlarge):
    """Whose file isn't found among the webui's modules, as it keeps none for a script."""

    class Tiles:
        def __call__(self, x):
            return forward(x)

    forward, Tiles.__module__ = vae.decoder.forward, "tilevae.py"
    whole = drawn(host, {"enlarge": enlarge, "vae": "host"})
    vae.decoder.forward = Tiles()
    outcome = drawn(host, {"enlarge": enlarge})
    assert np.array_equal(outcome.images[0], whole.images[0])
    assert "another extension (test_decoding.py) decodes the phases" in outcome.comments
    assert ("(test_decoding.py) codes the pictures between phases" in outcome.comments) == (enlarge == "pixels")
    assert "can't be read" not in outcome.comments
    vae.decoder.forward = forward  # its own, as such an extension leaves it
    vae.undivided.clear()
    assert not drawn(host, {"enlarge": enlarge}).comments and (32, 32) not in vae.undivided


def test_another_extensions_decode_stays(host, vae):
    seen = []
    own = vae.decode

    def decode(z):
        seen.append(z.shape)
        return own(z)

    vae.decode = decode
    outcome = host.txt2img({"scale": 2, "vae": "auto"}, steps=2)
    assert vars(vae)["decode"] is decode and len(seen) == 1
    assert "decodes the phases" in outcome.comments


def test_a_module_that_the_host_moves_is_called_for_first(host, vae):
    """`--medvram` sends a module to the device before its forward, and wraps `decode` in the same."""
    calls = []

    def send_me_to_gpu(module, _):
        calls.append(module)

    own = vae.decode

    def first_stage_model_decode_wrap(z):
        send_me_to_gpu(vae, None)
        return own(z)

    vae.register_forward_pre_hook(send_me_to_gpu)
    vae.decode = first_stage_model_decode_wrap
    outcome = host.txt2img({"scale": 2, "vae": "auto"}, steps=2)
    assert calls == [vae] and vae.undivided == [] and not outcome.comments
    assert vars(vae)["decode"] is first_stage_model_decode_wrap


def test_overflow_is_decoded_again_as_the_host_does(host, vae):
    """The host sees NaN; where its settings allow it, it turns the VAE to another precision and decodes again."""
    weight = vae.decoder.conv_out.weight
    right = weight.detach().clone()
    weight.data.fill_(torch.inf)
    host.opts.auto_vae_precision = False
    with pytest.raises(host.devices.NansException):
        host.txt2img({"scale": 2, "vae": "auto"}, steps=2)
    host.opts.auto_vae_precision, host.devices.dtype_vae = True, torch.bfloat16
    vae.repair = lambda: weight.data.copy_(right)
    outcome = drawn(host, {})
    assert outcome.sizes == [(256, 256)]
    assert "in the VAE's precision the VAE's layer decoder.conv_out gave values that are not finite" in outcome.comments


def test_a_press_while_the_last_picture_is_decoded_gives_the_one_before(host, vae, monkeypatch):
    pressed = press_after(host, monkeypatch, tiles=5)
    outcome = drawn(host, {"scale": 3})
    assert pressed and outcome.sizes == [(256, 256)]
    assert "interrupted while decoding phase 3 of 3" in outcome.comments
    assert outcome.p.extra_generation_params["DemoFusion stopped"] == "phase 2 of 3 - interrupted"
    assert host.state.interrupted


def test_two_presses_in_two_decodes_are_told_once(host, vae, monkeypatch):
    decoding = importlib.import_module("demofusion_lib.webui.decoding")
    original = decoding.TiledDecode._after_tile

    def after_tile(self, done, total):
        host.state.interrupt()
        self.deaf_until = 0.0  # more than a second apart
        return original(self, done, total)

    monkeypatch.setattr(decoding.TiledDecode, "_after_tile", after_tile)
    outcome = drawn(host, {"scale": 3})
    assert outcome.sizes == [(128, 128)]
    reasons = "interrupted while decoding phase 3 of 3; interrupted while decoding phase 2 of 3"
    assert outcome.comments == f"DemoFusion: {reasons}; this is the image of phase 1.\n"
    assert outcome.infotext.count("this is the image") == 1


def test_the_press_that_ended_a_phase_does_not_end_the_decode(host, vae):
    def press(number):
        if host.model.calls > 60:
            host.state.interrupt()

    host.model.hooks.on_call = press
    outcome = host.txt2img({"scale": 3, "vae": "auto", "window_batch": 1}, steps=2)
    assert outcome.sizes == [(256, 256)] and host.state.interrupted


def test_a_second_press_at_once_is_the_same_press(host, vae, monkeypatch):
    """A key is pressed more than once: within a second it ends no decode of what the first one left."""
    host.model.hooks.on_call = lambda number: host.state.interrupt() if host.model.calls > 60 else None
    press_after(host, monkeypatch, tiles=2)
    outcome = host.txt2img({"scale": 3, "vae": "auto", "window_batch": 1}, steps=2)
    assert outcome.sizes == [(256, 256)]


def test_a_live_preview_is_decoded_by_tiles_and_ends_nothing(host, vae, monkeypatch):
    """In another thread, while a phase is drawn: neither its notes nor a press in it are the run's."""
    previews = []
    monkeypatch.setattr(importlib.import_module("demofusion_lib.webui.previews"), "SHARE", 1e9)

    def preview(number):
        if host.model.calls == 40:
            latent = torch.randn(1, 4, 32, 32)
            thread = threading.Thread(target=lambda: previews.append(host.model.first_stage_model.decode(latent)))
            thread.start()
            thread.join()

    host.model.hooks.on_call = preview
    outcome = host.txt2img({"scale": 2, "vae": "estimated", "window_batch": 1}, steps=2)
    assert previews[0].shape == (1, 3, 256, 256) and vae.undivided == []
    assert outcome.comments.count("estimated statistics") == 1


def test_live_previews_of_the_hosts_own_decoder_take_no_more_of_the_time(host, vae):
    """Nor is its result another: the limit stands before it, and nothing else."""
    previews = []

    def preview(number):
        if host.model.calls == 40:
            latent = torch.randn(1, 4, 32, 32)
            thread = threading.Thread(target=lambda: previews.append(host.model.first_stage_model.decode(latent)))
            thread.start()
            thread.join()

    alone = host.txt2img({"scale": 2, "vae": "host", "window_batch": 1}, steps=2)
    host.model.hooks.on_call = preview
    host.model.calls = 0
    outcome = host.txt2img({"scale": 2, "vae": "host", "window_batch": 1}, steps=2)
    assert previews[0].shape[-2:] == (32, 32)  # the cheap kind
    assert np.array_equal(outcome.images[0], alone.images[0])
    assert "decode" not in vars(host.model.first_stage_model) or not hasattr(
        host.model.first_stage_model.decode, "previews"
    )


def test_the_state_tells_how_far_the_decode_is(host, vae, monkeypatch):
    told = []
    climbing = importlib.import_module("demofusion_lib.webui.progress")
    original = climbing.Progress.tile

    def tile(self, share):
        original(self, share)
        told.append(host.state.textinfo)

    monkeypatch.setattr(climbing.Progress, "tile", tile)
    drawn(host, {})
    assert all(text.startswith("DemoFusion: decoding 256x256, ") for text in told)
    assert told[-1].endswith(", 100%") and len(told) > 5


def press_after(host, monkeypatch, tiles):
    """Interrupt is pressed behind so many tiles of the first decode."""
    decoding = importlib.import_module("demofusion_lib.webui.decoding")
    original, pressed, seen = decoding.TiledDecode._after_tile, [], []

    def after_tile(self, done, total):
        seen.append(done)
        if len(seen) == tiles:
            host.state.interrupt()
            pressed.append(done)
        return original(self, done, total)

    monkeypatch.setattr(decoding.TiledDecode, "_after_tile", after_tile)
    return seen
