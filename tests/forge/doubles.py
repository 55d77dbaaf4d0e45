"""What Forge's family has in the place of the first host's inner model, around the tiny models of `tests/webui/host`.

A generation goes through the first host's doubles but for the guided denoiser, which asks a patcher of the UNet for the
denoised, in `x0 + sigma * noise` whatever the sampler steps in.
"""

from __future__ import annotations

import copy
import importlib.machinery
import sys
import types

import torch

from . import controlling

BY_BACKEND = ("Forge", "Forge Neo")
"""Those without `ldm_patched`."""


class Levels:
    """reForge's and Classic's `model_sampling`, Forge's `predictor`. whole: as theirs, timesteps are whole ones."""

    def __init__(self, tiny, whole=False):
        self.sigmas = ((1 - tiny.alphas_cumprod) / tiny.alphas_cumprod) ** 0.5
        self.prediction_type = "v_prediction" if tiny.parameterization == "v" else "epsilon"
        self.whole = whole

    def timestep(self, sigma):
        dists = (sigma.log() - self.sigmas.log()[:, None]).abs()
        if self.whole:
            return dists.argmin(dim=0).view(sigma.shape)
        low = (sigma.log() >= self.sigmas.log()[:, None]).sum(0).sub(1).clamp(0, 998)
        below, above = self.sigmas.log()[low], self.sigmas.log()[low + 1]
        return low + ((sigma.log() - below) / (above - below)).clamp(0, 1)

    def percent_to_sigma(self, percent):
        if percent <= 0.0:
            return 999999999.9
        return 0.0 if percent >= 1.0 else float(self.sigmas[round((1.0 - percent) * 999)])

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return noise * sigma.view(-1, 1, 1, 1) + latent_image

    def calculate_input(self, sigma, noise):
        return noise / (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5

    def calculate_denoised(self, sigma, model_output, model_input):
        sigma = sigma.view(-1, 1, 1, 1)
        if self.prediction_type == "v_prediction":
            return model_input / (sigma**2 + 1) - model_output * sigma / (sigma**2 + 1) ** 0.5
        return model_input - model_output * sigma


class LevelsOfClassic(Levels):
    """Without what others scale noise by."""

    noise_scaling = property()


class Model:
    """The UNet with its levels, reForge's and Classic's `BaseModel`, Forge's `KModel`."""

    def __init__(self, tiny, kind):
        self.tiny = tiny
        self.diffusion_model = tiny.model.diffusion_model
        self.levels = (LevelsOfClassic if kind == "Forge Classic" else Levels)(tiny)
        setattr(self, "predictor" if kind in BY_BACKEND else "model_sampling", self.levels)
        self.controls = []

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        cond = {"c_crossattn": [c_crossattn], "c_concat": [] if c_concat is None else [c_concat]}
        if "y" in kwargs:
            cond["vector"] = kwargs["y"]
        self.controls.append((control, transformer_options, x.shape))
        answer = self.tiny.apply_model(self.levels.calculate_input(t, x), self.levels.timestep(t).float(), cond)
        answer = controlling.added(answer, control, transformer_options)
        return self.levels.calculate_denoised(t, answer, x)

    def memory_required(self, input_shape, **kwargs):
        return input_shape[0] * input_shape[2] * input_shape[3]


class PatcherOfNeo:
    """A UNet's patcher, with what Forge Neo has of it."""

    def __init__(self, model):
        self.model = model
        self.model_options = {"transformer_options": {}}
        self.controlnet_linked_list = None

    def clone(self):
        n = type(self)(self.model)
        n.model_options = copy.deepcopy(self.model_options)
        n.controlnet_linked_list = self.controlnet_linked_list
        return n

    def set_model_unet_function_wrapper(self, unet_wrapper_function):
        self.model_options["model_function_wrapper"] = unet_wrapper_function

    def memory_required(self, input_shape):
        return self.model.memory_required(input_shape=input_shape)

    def add_patched_controlnet(self, cnet):
        cnet.set_previous_controlnet(self.controlnet_linked_list)
        self.controlnet_linked_list = cnet

    def list_controlnets(self):
        results, pointer = [], self.controlnet_linked_list
        while pointer is not None:
            results.append(pointer)
            pointer = pointer.previous_controlnet
        return results


class UnetPatcher(PatcherOfNeo):
    def set_memory_peak_estimation_modifier(self, modifier):
        self.model_options["memory_peak_estimation_modifier"] = modifier


class ForgeObjects:
    def __init__(self, unet, clip, vae, clipvision):
        self.unet, self.clip, self.vae, self.clipvision = unet, clip, vae, clipvision

    def shallow_copy(self):
        return ForgeObjects(self.unet, self.clip, self.vae, self.clipvision)


WITHOUT = (
    "model",
    "apply_model",
    "first_stage_model",
    "conditioner",
    "parameterization",
    "scale_factor",
    "alphas_cumprod",
    "cond_stage_model_empty_prompt",
)
"""What Forge's models have not, or as None, which the doubles of the host go on using."""


def hiding(kind):
    """A class of tiny models that shows these to no one in the product."""

    class Hiding(kind):
        def __getattribute__(self, name):
            if name in WITHOUT and sys._getframe(1).f_globals["__name__"].startswith("demofusion_lib"):
                raise AttributeError(f"{name}: Forge's models have none")
            return super().__getattribute__(name)

    return Hiding


def dress(tiny, kind):
    """A tiny model as one of the family's."""
    vae = types.SimpleNamespace(
        first_stage_model=tiny.first_stage_model,
        patcher=None,
        memory_used_decode=lambda shape, dtype: shape[2] * shape[3],
        latent_channels=4,
    )
    patcher = PatcherOfNeo if kind == "Forge Neo" else UnetPatcher
    objects = ForgeObjects(patcher(Model(tiny, kind)), None, vae, None)
    tiny.forge_objects, tiny.forge_objects_original = objects, objects.shallow_copy()
    tiny.forge_objects_after_applying_lora = objects.shallow_copy()
    if kind in BY_BACKEND and tiny.is_sdxl:
        tiny.embedder = type(tiny.conditioner.embedders[1])("one number")
    tiny.is_sd1, tiny.is_sd2 = not tiny.is_sdxl, False
    if kind in BY_BACKEND:
        tiny.__class__ = hiding(type(tiny))
    return tiny


PACKAGES = {
    "reForge": ("ldm_patched", "ldm_patched.hooks"),
    "Forge Classic": ("ldm_patched",),
    "Forge": ("backend",),
    "Forge Neo": ("backend",),
}
"""By which they are told apart."""


class Family:
    """kind: reForge, Forge, Forge Classic or Forge Neo. most_rows: how many chunks a call takes, as where memory is short.
    prepared: the memory that each sampling was said to take. loaded: the models beside the UNet."""

    def __init__(self, kind):
        self.kind = kind
        self.most_chunks = 99
        self.prepared, self.loaded = [], []

    def calc_cond_batch(self, model, conds, x_in, timestep, model_options, control=None):
        """conds: for prompts and negatives, a list of (conditions, strength)."""
        out = [torch.zeros_like(x_in) for _ in conds]
        counts = [torch.ones_like(x_in) * 1e-37 for _ in conds]
        to_run = [(cond, strength, i) for i, some in enumerate(conds) for cond, strength in some or ()]
        while to_run:
            alike = [
                n for n, run in enumerate(to_run) if run[0]["c_crossattn"].shape == to_run[0][0]["c_crossattn"].shape
            ]
            batch = [to_run.pop(n) for n in reversed(alike[-self.most_chunks :])]
            cond_or_uncond = [i for _, _, i in batch]
            c = {key: torch.cat([cond[key] for cond, _, _ in batch]) for key in batch[0][0]}
            options = {**model_options["transformer_options"], "cond_or_uncond": cond_or_uncond[:], "sigmas": timestep}
            if self.kind == "reForge":
                options["uuids"] = [0] * len(batch)
            else:
                options["cond_mark"] = torch.tensor([float(i) for i in cond_or_uncond for _ in timestep])
                options["cond_indices"] = [n for n, i in enumerate(options["cond_mark"]) if i == 0]
                options["uncond_indices"] = [n for n, i in enumerate(options["cond_mark"]) if i == 1]
            c["transformer_options"] = options
            args = {"input": torch.cat([x_in] * len(batch)), "timestep": torch.cat([timestep] * len(batch)), "c": c}
            if control is not None:
                c.update(controlling.asked(self.kind, control, args, options, len(batch)))
            if "model_function_wrapper" in model_options:
                args["cond_or_uncond"] = cond_or_uncond
                output = model_options["model_function_wrapper"](model.apply_model, args)
            else:
                output = model.apply_model(args["input"], args["timestep"], **c)
            for part, (_, strength, i) in zip(output.chunk(len(batch)), batch, strict=True):
                out[i] += part * strength
                counts[i] += strength
        return [one / count for one, count in zip(out, counts, strict=True)]

    def forward(self, guided, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        """The family's `CFGDenoiser.forward`."""
        common, shared, prompts = (importlib.import_module(f"modules.{name}") for name in (
            "sd_samplers_common", "shared", "prompt_parser"))  # fmt: skip
        callbacks = importlib.import_module("modules.script_callbacks")
        if shared.state.interrupted or shared.state.skipped:
            raise common.InterruptedException
        p, info = guided.p, guided.p.refiner_checkpoint_info
        if info not in (None, shared.sd_model.sd_checkpoint_info) and guided.step >= p.refiner_switch_at * p.steps:
            with importlib.import_module("modules.sd_models").SkipWritingToConfig():
                self.load(info=info)
            p.setup_conds()
            guided.update_inner_model()
            cond, uncond = (guided.sampler.sampler_extra_args[key] for key in ("cond", "uncond"))
        by_timestep = not hasattr(guided.inner_model, "sigma_to_t")
        if by_timestep:
            acd = guided.inner_model.inner_model.alphas_cumprod
            sigma = (((1 - acd) / acd) ** 0.5)[sigma.round().long()]
            x = x * ((sigma**2 + 1) ** 0.5)[:, None, None, None]
        composition, tensor = prompts.reconstruct_multicond_batch(cond, guided.step)
        uncond = prompts.reconstruct_cond_batch(uncond, guided.step)
        params = callbacks.CFGDenoiserParams(x, image_cond, sigma, 0, 0, tensor, uncond, guided)
        callbacks.cfg_denoiser_callback(params)
        unet = shared.sd_model.forge_objects.unet

        def compiled(cond):
            told = {"c_crossattn": cond["crossattn"], "y": cond["vector"]} if isinstance(cond, dict) else None
            told = told or {"c_crossattn": cond}
            return {**told, "c_concat": image_cond} if image_cond.shape[2:] == x.shape[2:] else told

        parts = []
        for part in map(list, zip(*composition, strict=False)):
            rows = [row for row, _ in part]
            feed = {key: v[rows] for key, v in tensor.items()} if isinstance(tensor, dict) else tensor[rows]
            parts.append((compiled(feed), part[-1][1]))
        if self.kind == "Forge Classic" and 0.0 <= guided.step / guided.total_steps <= shared.opts.skip_early_cond:
            cond_scale = 1.0
        alone = abs(cond_scale - 1) < 1e-9
        asked = [parts, None if alone else [(compiled(uncond), 1.0)]]
        control = unet.controlnet_linked_list
        pos, neg = self.calc_cond_batch(unet.model, asked, x, sigma, unet.model_options, control)
        denoised = pos if alone else neg + (pos - neg) * cond_scale * sum(strength for _, strength in parts)
        if guided.mask is not None:
            denoised = denoised * guided.nmask + guided.init_latent * guided.mask
        guided.sampler.last_latent = denoised
        common.store_latent(denoised)
        after = callbacks.AfterCFGCallbackParams(denoised, 0, 0)
        callbacks.cfg_after_cfg_callback(after)
        guided.step += 1
        return (x - after.x) / sigma[:, None, None, None] if by_timestep else after.x

    def loading(self, sd_models):
        """What of it the product may use to load a model."""
        own = types.SimpleNamespace(forge_model_reload=self.load)
        if self.kind == "Forge":
            own.SkipWritingToConfig = sd_models.SkipWritingToConfig
            own.reload_model_weights = lambda sd_model=None, info=None, forced_reload=False: None
            own.apply_alpha_schedule_override = sd_models.apply_alpha_schedule_override
        return own

    def leave_out(self, host, monkeypatch):
        """What Forge Neo has no more, and what it asks of a picture beside."""
        for name in ("uni_pc_order", "uni_pc_variant", "uni_pc_skip_type", "pad_cond_uncond"):
            monkeypatch.delitem(host.opts.data, name)
        base = host.processing.StableDiffusionProcessing
        saves = base.save_samples
        monkeypatch.setattr(base, "save_samples", lambda p, *, is_video: saves(p))
        monkeypatch.setitem(host.processing.SAVING, "is_video", False)

    def install(self, host, monkeypatch):
        own = PACKAGES[self.kind]
        for name in ("modules_forge", "modules_forge.forge_version", *own):
            module = types.ModuleType(name)
            module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
            module.version = {"Forge Classic": "classic", "Forge Neo": "neo"}.get(self.kind, "2.0.1v1.10.1")
            if self.kind == "Forge Neo":
                module.release = "2.22"
            monkeypatch.setitem(sys.modules, name, module)
        self.load = host.sd_models.reload_model_weights
        refined = importlib.import_module("demofusion_lib.webui.refined")
        if self.kind in BY_BACKEND:
            monkeypatch.setattr(refined, "sd_models", self.loading(host.sd_models))
        if self.kind == "Forge Neo":
            self.leave_out(host, monkeypatch)
        forward = self.forward
        denoiser = host.sd_samplers_cfg_denoiser.CFGDenoiser
        monkeypatch.setattr(denoiser, "forward", lambda guided, *args, **kwargs: forward(guided, *args, **kwargs))
        processing = host.processing.StableDiffusionProcessing
        monkeypatch.setattr(processing, "modified_noise", None, raising=False)
        monkeypatch.setattr(processing, "get_token_merging_ratio", lambda p, for_hr=False: 0.0, raising=False)
        common = host.sd_samplers_common.Sampler
        launch, prepared, loaded = common.launch_sampling, self.prepared, self.loaded

        def prepare(sampler, steps, func):
            """The family's `sampling_prepare`."""
            unet, shape = host.shared.sd_model.forge_objects.unet, list(sampler.last_latent.shape)
            estimate = unet.model_options.get("memory_peak_estimation_modifier", unet.memory_required)
            prepared.append(estimate([2 * shape[0], *shape[1:]]))
            if unet.controlnet_linked_list is not None:
                prepared[-1] += unet.controlnet_linked_list.inference_memory_requirements(torch.float32)
                loaded.append(unet.controlnet_linked_list.get_models())
            for cnet in unet.list_controlnets():
                cnet.pre_run(unet.model, unet.model.levels.percent_to_sigma)
            try:
                return launch(sampler, steps, func)
            finally:
                for cnet in unet.list_controlnets():
                    cnet.cleanup()

        monkeypatch.setattr(common, "launch_sampling", prepare)
