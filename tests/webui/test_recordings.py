"""The recordings of the published pipeline, replayed through the whole webui: its loop, its guidance, our script."""

import importlib
import itertools
import json
import os
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import Layout, View

FOLDERS = [Path(__file__).parent.parent / "data", *map(Path, filter(None, [os.environ.get("DEMOFUSION_RECORDINGS")]))]
RECORDINGS = [path for folder in FOLDERS for path in sorted(folder.glob("*.npz"))]


class Recording:
    def __init__(self, path):
        with np.load(path) as arrays:
            self.arrays = {k: torch.from_numpy(arrays[k]) for k in arrays if k != "meta"}
            self.meta = json.loads(str(arrays["meta"]))

    def __getitem__(self, name):
        return self.arrays[name]

    @property
    def phases(self):
        numbers = itertools.count(1)
        return [self[f"phase{n}_latents"] for n in itertools.takewhile(self.has_phase, numbers)]

    def has_phase(self, number):
        return f"phase{number}_latents" in self.arrays

    def number_of(self, size):
        return next(n for n, latent in enumerate(self.phases, start=1) if tuple(latent.shape[-2:]) == tuple(size))

    def noise(self, shape):
        number = self.number_of(shape[-2:])
        return self["initial_latents"] if number == 1 else self[f"phase{number}_noise"]


def recorded_model(host, recording):
    """The recordings' denoiser as a checkpoint. It is told the final size in every phase, as the authors' is."""

    class RecordedModel(host.models.TinyModel):
        def encode(self, text):
            return recording["prompt" if text == "prompt" else "negative"][0]

        def get_learned_conditioning(self, batch):
            meta = recording.meta
            numbers = [meta["original_size"], (0, 0), meta["target_size"]]
            parts = [e(torch.tensor([n] * len(batch))) for e, n in zip(self.conditioner.embedders[1:], numbers)]
            text = torch.stack([self.encode(text) for text in batch])
            return {"crossattn": text, "vector": torch.cat([text[:, 0, :4], *parts], 1)}

        def network(self, x, t, text, vector=None, concat=None):
            ids = torch.tensor(self.conditioner.read(vector)) / 128
            s = t[:, None] / 1000
            time = torch.cat([torch.ones_like(s), s, (6 * s).sin(), (6 * s).cos()], 1)
            told = time @ recording["A"].T + text.mean(1) @ recording["B"].T + ids @ recording["C"].T
            hidden = F.conv2d(x, recording["w1"], padding=1) + told[:, :, None, None]
            return 0.9 * s[:, :, None, None] * x + F.conv2d(F.silu(hidden), recording["w2"], padding=1)

    model = RecordedModel("recorded.safetensors", sdxl=True)
    model.alphas_cumprod = model.alphas_cumprod_original = recording["alphas_cumprod"]
    model.watch = host.witness.model_called
    host.sd_models._install(model)


def replay_draws(host, recording, monkeypatch):
    """The recorded noise, and a sampler of another extension that ends where the recorded one does."""

    def ddim(model, x, timesteps, extra_args=None, callback=None, disable=None):
        alphas = recording["alphas_cumprod"].tolist()
        for t, following in itertools.pairwise([*timesteps.flip(0).tolist(), 0]):
            a, a_next = alphas[int(t)], alphas[int(following)]
            eps = model(x, t * x.new_ones(len(x)), **extra_args)
            x = (a_next / a) ** 0.5 * (x - (1 - a) ** 0.5 * eps) + (1 - a_next) ** 0.5 * eps
        return x

    def create_sampler(name, model):
        sampler = host.sd_samplers_timesteps.CompVisSampler(ddim, model)
        sampler.config = host.sd_samplers.find_sampler_config(name)
        sampler.get_timesteps = lambda p, steps: recording["timesteps"].flip(0).long()
        return sampler

    monkeypatch.setattr(host.sd_samplers, "create_sampler", create_sampler)
    monkeypatch.setattr(host.rng.ImageRNG, "first", lambda self: recording.noise(self.shape))


def replay_windows(recording, monkeypatch):
    class RecordedGrid:
        def __init__(self, height_lat, width_lat, *args, **settings):
            views = recording[f"phase{recording.number_of((height_lat, width_lat))}_views"].tolist()
            self.steps, self.count = iter(views), len(views[0])

        def __len__(self):
            return self.count

        def layout(self, generators):
            views = [View(slice(t, b), slice(left, right), (t, left)) for t, b, left, right in next(self.steps)]
            return Layout([views] * len(generators), (recording.meta["jitter_range"],) * 4)

    monkeypatch.setattr(importlib.import_module("demofusion_lib.plan"), "WindowGrid", RecordedGrid)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_replay(host, monkeypatch, path):
    recording = Recording(path)
    meta = types.SimpleNamespace(**recording.meta)
    recorded_model(host, recording)
    replay_draws(host, recording, monkeypatch)
    replay_windows(recording, monkeypatch)
    settings = {
        "preset": "paper", "scale": meta.scale, "a1": meta.cosine_scale_1, "a2": meta.cosine_scale_2, "a3": meta.cosine_scale_3,
        "blur": meta.gaussian_sigma, "keep_phases": True,
    }  # fmt: skip
    height, width = (8 * n for n in recording["initial_latents"].shape[-2:])
    outcome = host.txt2img(
        settings, prompt="prompt", negative_prompt="negative", cfg_scale=meta.guidance, steps=meta.steps,
        sampler_name="DDIM", height=height, width=width, batch_size=meta.batch,
    )  # fmt: skip
    drawn = [torch.cat(outcome.latents[i : i + meta.batch]) for i in range(0, len(outcome.latents), meta.batch)]
    assert len(drawn) == len(recording.phases)
    for latent, expected in zip(drawn, recording.phases):
        assert float((latent - expected).norm() / expected.norm()) <= 1e-5
