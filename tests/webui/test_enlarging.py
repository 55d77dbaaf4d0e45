"""Phases that begin from pixels: decoded and encoded by the loaded model's VAE, the tiles' way or the host's."""

import importlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from .small_vae import FACTOR


def assert_close(actual, expected, tolerance):
    difference = float((actual - expected).abs().max())
    assert difference <= tolerance * float(expected.abs().max()), difference


def undivided(vae, latent, height_lat, width_lat):
    with torch.no_grad():
        picture = vae.decode(latent / FACTOR).clamp(-1, 1)
        larger = F.interpolate(picture, size=(8 * height_lat, 8 * width_lat), mode="bicubic").clamp(-1, 1)
        return vae.encode(larger).latent_dist.mean * FACTOR


@pytest.mark.parametrize("mode", ["auto", "exact", "host"])
def test_by_tiles_it_is_what_it_is_in_one_piece(host, vae, begun, mode):
    outcome = host.txt2img({"scale": 3, "vae": mode, "enlarge": "pixels"}, steps=2, batch_size=2)
    assert [tuple(previous.shape[-2:]) for previous, _ in begun] == [(32, 32), (48, 48)] and not outcome.comments
    for previous, before in begun:
        assert_close(previous, torch.cat([undivided(vae, one[None], *previous.shape[-2:]) for one in before]), 1e-4)
    assert not {"decode", "encode"} & set(vars(vae))


def test_the_same_seed_draws_the_same_picture(host, vae):
    """The encoder's answer is a distribution; of the host's own global generator nothing is taken."""
    settings = {"scale": 2, "vae": "auto", "enlarge": "pixels"}
    first, second = (host.txt2img(settings, steps=2).images[0] for _ in range(2))
    assert np.array_equal(first, second)


def test_a_vae_that_nobody_can_read_is_the_hosts_business(host, vae, begun):
    vae.encoder.register_forward_hook(lambda module, given, made: made)
    outcome = host.txt2img({"scale": 3, "vae": "auto", "enlarge": "pixels"}, steps=2)
    assert outcome.comments.count("the webui's own codes the pictures between phases") == 1
    for previous, before in begun:
        assert_close(previous, undivided(vae, before, *previous.shape[-2:]), 1e-4)


def test_interrupt_while_a_picture_is_enlarged_ends_with_the_phase_before(host, vae, monkeypatch):
    coding = importlib.import_module("demofusion_lib.vae")
    encode, seen = coding.encode, []

    def pressed(*args, **options):
        seen.append(host.state.textinfo)
        host.state.interrupted = len(seen) == 2
        return encode(*args, **options)

    monkeypatch.setattr(coding, "encode", pressed)
    outcome = host.txt2img({"scale": 3, "vae": "auto", "enlarge": "pixels"}, steps=2)
    assert outcome.sizes == [(256, 256)] and len(seen) == 2
    assert "interrupted in phase 3 of 3; this is the image of phase 2" in outcome.comments
    assert seen == ["DemoFusion: enlarging to 256x256, encoding", "DemoFusion: enlarging to 384x384, encoding"]
    assert "decode" not in vars(vae)


def test_what_overflows_is_coded_in_float32(host, vae, begun, monkeypatch):
    coding = importlib.import_module("demofusion_lib.vae.coding")
    run, precisions = coding._run_once, []

    def overflowing(program, values, options):
        precisions.append(options.dtype)
        if options.dtype is None:
            raise coding.NotFinite("a layer")
        return run(program, values, options)

    vae.to(torch.bfloat16)
    monkeypatch.setattr(coding, "_run_once", overflowing)
    host.model.decode_first_stage = lambda latent: vae.float().decode(latent / FACTOR)
    host.txt2img({"scale": 2, "vae": "auto", "enlarge": "pixels"}, steps=2)
    assert precisions[:4] == [None, torch.float32, None, torch.float32]
    assert_close(begun[0][0], undivided(vae.float(), begun[0][1], 32, 32), 1e-4)
