"""What the webui's live preview is given of a phase."""

import importlib

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


def test_full_ones_are_made_while_they_take_little_time(host, monkeypatch, caplog):
    previews = importlib.import_module("demofusion_lib.webui.previews")
    now = [100.0]
    monkeypatch.setattr(previews, "monotonic", lambda: now[0])
    full, latent = previews.FullPreviews(), torch.ones(1, 4, 3, 2)

    def decode():
        now[0] += 1.0
        return torch.zeros(1, 3, 24, 16)

    sizes = []
    for _ in range(400):
        now[0] += 1.0
        sizes.append(tuple(full.of(latent, 1.0, decode).shape[-2:]))
    assert set(sizes) == {(3, 2), (24, 16)} and sizes[0] == (3, 2)
    assert sizes.count((24, 16)) == pytest.approx(0.02 * (now[0] - 100), abs=1)
    assert [record.message for record in caplog.records] == [
        "DemoFusion: full live previews would take more than 2 % of the time; cheap ones instead"
    ]


def test_each_step_of_a_phase_can_be_seen(host, monkeypatch):
    """However many steps the host waits between two previews, and however far the base image had come."""
    monkeypatch.setitem(host.opts.data, "show_progress_every_n_steps", 10)
    due = []

    def look(n):
        state = host.state
        if "phase 2" in state.textinfo and "step 1 " not in state.textinfo:
            due.append(state.sampling_step - state.current_image_sampling_step >= 10)
            state.current_image_sampling_step = state.sampling_step

    host.model.hooks.on_call = look
    host.state.current_image_sampling_step = 8
    host.txt2img({"scale": 2, "steps": 3, "window_batch": 64, "dilated": False}, **SIZE)
    assert due == [True, True]
