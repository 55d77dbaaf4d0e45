"""What the webui's live preview is given of a phase."""

import pytest
import torch

from demofusion_lib.core import shrink

SIZE = {"width": 64, "height": 96, "steps": 6}


def shown(host, settings, **fields):
    """At every model call of a phase: what is to be shown, and what the bar says."""
    seen = []

    def look(n):
        if "phase 2" in (host.state.textinfo or ""):
            seen.append((host.state.current_latent, host.state.textinfo))

    host.model.hooks.on_call = look
    outcome = host.txt2img({"scale": 2, "window_batch": 64, **settings}, **{**SIZE, **fields})
    return outcome, seen


@pytest.fixture
def small(host):
    host.opts.data["demofusion_preview_px"] = 64 * 96
    return host


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DDIM"])
@pytest.mark.parametrize("settings", [{}, {"start": 601, "residual": "x0", "a1": 1, "dilated": False}], ids=str)
def test_it_is_of_the_phases_shape_and_no_larger_than_the_setting_says(small, settings, sampler):
    _, seen = shown(small, settings, sampler_name=sampler)
    assert len(seen) > 3 and all(latent.shape == (1, 4, 12, 8) for latent, _ in seen)


def test_it_begins_with_the_phase_before_and_ends_with_the_phase(small):
    outcome, seen = shown(small, {"keep_phases": True})
    base, end = outcome.latents[0], shrink(outcome.latents[-1], 12, 8)
    after_one_step = next(latent for latent, text in seen if "step 2" in text)
    assert (after_one_step - base).abs().mean() < 0.2 * base.abs().mean()
    last = small.state.current_latent
    assert (last - end).abs().mean() < 0.1 * end.abs().mean()


@pytest.mark.parametrize("content", ["Prompt", "Negative prompt", "Combined"])
def test_whatever_the_setting_shows(small, monkeypatch, content):
    monkeypatch.setitem(small.opts.data, "live_preview_content", content)
    _, seen = shown(small, {})
    assert all(latent.shape == (1, 4, 12, 8) for latent, _ in seen)


def test_the_picture_is_the_same(small):
    """The solver is given what it was given before."""
    with_preview, _ = shown(small, {})
    small.opts.data["demofusion_preview_px"] = 16_000_000
    without, seen = shown(small, {})
    assert torch.equal(with_preview.latents[-1], without.latents[-1])
    assert seen[-1][0].shape == (1, 4, 24, 16)
