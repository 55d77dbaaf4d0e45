"""Every sampler that the webui lists, each with the scheduler it would take."""

import importlib

import pytest
import torch

NAMES = [
    "DPM++ 2M", "DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 2S a", "DPM++ 3M SDE", "Euler a", "Euler",
    "LMS", "Heun", "DPM2", "DPM2 a", "DPM fast", "DPM adaptive", "Restart", "DDIM", "DDIM CFG++", "PLMS", "UniPC", "LCM",
]  # fmt: skip
TIMESTEPS = {"DDIM", "DDIM CFG++", "PLMS", "UniPC"}


def test_no_sampler_is_left_out(host):
    assert [sampler.name for sampler in host.sd_samplers.all_samplers] == NAMES


def begins_at_the_noised_latent(host, sampling, sampler):
    """The first evaluation's `x` is the latent of the phase before with the announced noise, at that noise level."""
    first = sampling.evaluations[0]
    alpha, sigma = host.model.alpha_sigma(first.sigma[:1]) if sampler in TIMESTEPS else (1.0, first.sigma[0])
    expected = alpha * sampling.x + sigma * sampling.noise
    return float((first.x[0] - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_one_single_image(host, name):
    """A model that knows one flat image draws it in every phase, down to the last row and column."""
    host.install(spread=0.0, texture=0.0)
    outcome = host.txt2img({"scale": 2.5, "blur": 0}, sampler_name=name, steps=8, width=72, height=128, prompt="dog")
    assert outcome.sizes == [(184, 320)]
    assert (
        outcome.comments == "DemoFusion: scale 2.5 of 72x128 px gives 184x320 px, the nearest size in steps of 8 px.\n"
    )
    assert not host.swallowed
    assert all(begins_at_the_noised_latent(host, phase, name) for phase in outcome.phases)
    expected = host.model.encode("dog")[0].view(1, 4, 1, 1)
    assert float((outcome.latents[-1] - expected).abs().max()) < 0.2


@pytest.mark.parametrize("scheduler", ["Automatic", "Uniform", "Karras", "Exponential", "SGM Uniform"])
def test_schedulers(host, scheduler):
    outcome = host.txt2img({"scale": 2}, scheduler=scheduler, sampler_name="DPM++ 2M")
    sigmas = [[float(e.sigma[0]) for e in sampling.evaluations] for sampling in outcome.samplings]
    assert sigmas[0] == sigmas[1]


@pytest.mark.parametrize("name", ["Euler", "DPM++ 2M", "DPM fast", "DPM adaptive"])
@pytest.mark.parametrize("multiplier", [False, True])
def test_sigmas_of_another_extension(host, name, multiplier):
    """The last two build their own schedule from the model's highest sigma down, whatever list they are given."""
    host.install(texture=0.0)
    host.opts.sgm_noise_multiplier = multiplier
    p = host.generation({"scale": 2}, sampler_name=name)
    p.sampler_noise_scheduler_override = lambda steps: torch.linspace(6, 0, steps + 1)
    outcome = host.run(p)
    first = float(outcome.phases[0].evaluations[0].sigma[0])
    assert first == pytest.approx(14.6146 if name.startswith("DPM ") else 6, abs=1e-3)
    assert begins_at_the_noised_latent(host, outcome.phases[0], name)


def test_twenty_restarts(host):
    """From 20 steps on the noise level goes up again within the run."""
    base, phase = host.txt2img({"scale": 2}, sampler_name="Restart", steps=20).samplings
    sigmas = [float(evaluation.sigma[0]) for evaluation in phase.evaluations]
    assert sigmas == [float(evaluation.sigma[0]) for evaluation in base.evaluations]
    assert sigmas != sorted(sigmas, reverse=True)


@pytest.mark.parametrize("name", ["Euler", "Heun", "DPM2"])
def test_churn(host, name):
    """With churn the solver puts noise of its own in: another picture, of no less noise."""
    plain = host.txt2img({"scale": 2}, sampler_name=name).latents[-1]
    host.opts.s_churn = 20.0
    outcome = host.txt2img({"scale": 2}, sampler_name=name)
    assert "churn" not in outcome.comments
    assert float((outcome.latents[-1] - plain).abs().max()) > 0.1


def test_windows_stay_for_the_stages_of_a_step(host):
    """Both evaluations of a Heun step look through the same windows."""
    find = importlib.import_module("witness").find_window
    host.install(texture=0.0)
    outcome = host.txt2img({"scale": 2, "blur": 0}, sampler_name="Heun", steps=4)
    drawn = []
    for evaluation in outcome.phases[0].evaluations:
        whole = evaluation.x[0] * (1 / (evaluation.sigma[0] ** 2 + 1) ** 0.5)  # as the model is given it
        drawn.append([find(patch, whole) for patch, _ in evaluation.patches])
    first, second = drawn[:2]
    assert any(corner is not None for corner in first)
    assert first == second
    assert drawn[2] == drawn[3] != first
