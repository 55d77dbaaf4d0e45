"""Seeded noise, one generator for each image."""

from __future__ import annotations

import torch

from modules import devices, shared


def manual_seed(seed):
    torch.manual_seed(seed)


def randn(seed, shape, generator=None):
    manual_seed(seed)
    return torch.randn(shape, generator=generator)


def randn_local(seed, shape):
    return torch.randn(shape, generator=create_generator(seed))


def randn_without_seed(shape, generator=None):
    return torch.randn(shape, generator=generator)


def create_generator(seed):
    return torch.Generator(devices.cpu).manual_seed(int(seed))


def slerp(val, low, high):
    """Between two noises, along the sphere (Shoemake 1985)."""
    cosine = (low / low.norm(dim=1, keepdim=True) * high / high.norm(dim=1, keepdim=True)).sum(1)
    angle = cosine.acos()
    first, second = torch.sin((1 - val) * angle) / angle.sin(), torch.sin(val * angle) / angle.sin()
    return first.unsqueeze(1) * low + second.unsqueeze(1) * high


class ImageRNG:
    def __init__(self, shape, seeds, subseeds=None, subseed_strength=0.0, seed_resize_from_h=0, seed_resize_from_w=0):
        self.shape = tuple(int(n) for n in shape)
        self.seeds = seeds
        self.subseeds = subseeds
        self.subseed_strength = subseed_strength
        self.seed_resize_from_h = seed_resize_from_h
        self.seed_resize_from_w = seed_resize_from_w
        self.generators = [create_generator(seed) for seed in seeds]
        self.is_first = True

    def first(self):
        noises = []
        for i, (seed, generator) in enumerate(zip(self.seeds, self.generators)):
            noise = randn(seed, self.shape, generator=generator)
            if self.subseeds is not None and self.subseed_strength != 0:
                noise = slerp(self.subseed_strength, noise, randn(self.subseeds[i], self.shape))
            noises.append(noise)
        if shared.opts.eta_noise_seed_delta:
            self.generators = [create_generator(seed + shared.opts.eta_noise_seed_delta) for seed in self.seeds]
        return torch.stack(noises)

    def next(self):
        if self.is_first:
            self.is_first = False
            return self.first()
        return torch.stack([randn_without_seed(self.shape, generator=g) for g in self.generators])
