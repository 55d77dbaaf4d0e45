"""The parts of a model as each host keeps them, and what Forge says in fewer numbers."""

import importlib
import types

import pytest
import torch


@pytest.fixture
def parts(host):
    return importlib.import_module("demofusion_lib.webui.parts")


@pytest.mark.parametrize("v", [False, True])
def test_a_model_that_tells_its_levels_by_its_predictor(host, as_forge, parts, v):
    """Forge's has neither `alphas_cumprod` nor `parameterization`, `first_stage_model` is None."""
    model = host.install(parameterization="v" if v else "eps")
    as_forge("Forge")
    bare = types.SimpleNamespace(forge_objects=model.forge_objects, first_stage_model=None)
    bare.forge_objects.vae.first_stage_model.process_out = lambda latent: latent / 0.13 + 0.1
    assert torch.allclose(parts.alphas_of(bare), model.alphas_cumprod, rtol=1e-5)
    assert parts.is_v(bare) is v and parts.is_v(model) is v
    assert parts.unet_of(bare) is model.model.diffusion_model
    assert parts.vae_of(bare) is model.first_stage_model
    assert parts.scale_of(bare) == pytest.approx(0.13)


def test_a_model_of_the_first_host(host, parts):
    model = host.model
    assert parts.of_forge(model) is None
    assert parts.alphas_of(model) is model.alphas_cumprod and not parts.is_v(model)
    assert parts.unet_of(model) is model.model.diffusion_model and parts.vae_of(model) is model.first_stage_model


def test_timesteps_between_the_whole_ones(host):
    """Forge rounds them: the cosine weights would jump. Held against k-diffusion's own."""
    families = importlib.import_module("demofusion_lib.webui.families")
    theirs = host.sd_samplers.create_sampler("Euler", host.model).model_wrap
    ours = families.Interpolated(theirs.sigmas)
    sigmas = torch.tensor([0.03, 0.5, 1.0, 3.3, 14.0])
    assert torch.allclose(ours.sigma_to_t(sigmas).float(), theirs.sigma_to_t(sigmas).float(), atol=2e-2)
    assert float(ours.sigma_to_t(theirs.sigmas[-1:])) == pytest.approx(999)
    assert float(ours.sigma_to_t(torch.tensor([99.0]))) == pytest.approx(999)


def test_no_model_is_loaded_yet(host, monkeypatch):
    """Forge has something stand for one, which knows nothing."""
    standin = importlib.import_module("demofusion_lib.webui.standin")
    fake = types.SimpleNamespace(cond_stage_model=None, chunk_length=75)
    monkeypatch.setattr(standin.sd_models, "model_data", types.SimpleNamespace(sd_model=fake), raising=False)
    assert standin.loaded() is None


def test_a_schedule_that_begins_late_ends_between_whole_timesteps(host):
    """Forge's own levels would round its end, and the phases be drawn at others than the first host's."""
    families = importlib.import_module("demofusion_lib.webui.families")
    theirs = host.sd_samplers.create_sampler("Euler", host.model).model_wrap
    linker = types.SimpleNamespace(
        predictor=None, sigmas=theirs.sigmas, t_to_sigma=theirs.t_to_sigma, sigma_to_t=lambda sigma: theirs.sigma_to_t(sigma).round()
    )  # fmt: skip
    ours, first = (families.Shortened(base, 601.0, 601 / 3).get_sigmas(3) for base in (linker, theirs))
    assert torch.allclose(ours, first, rtol=1e-6)


def test_the_pictures_between_phases_are_coded_by_the_model_that_is_loaded(host):
    """After a refiner reForge's base model is another object, and the one before has been taken apart."""
    enlarging = importlib.import_module("demofusion_lib.webui.enlarging")
    p = types.SimpleNamespace(sd_model=object(), outpath_samples="", do_not_save_samples=True)
    coder = enlarging.Coder(p, "host", lambda text: None, enlarging.Still())
    p.sd_model = object()
    assert coder.model is p.sd_model


def test_a_model_that_is_being_taken_apart_is_not_loaded(host, monkeypatch):
    """As reForge leaves it for a while, in another thread than the API's."""
    standin = importlib.import_module("demofusion_lib.webui.standin")
    model = host.install()
    assert standin.loaded() is model
    apart = torch.nn.Module()
    vars(apart)["_buffers"] = None
    sd_models = importlib.import_module("modules.sd_models")
    monkeypatch.setattr(sd_models, "model_data", types.SimpleNamespace(sd_model=apart))
    assert standin.loaded() is None
