"""One generation: a processing object, and the loop that draws its batches."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

from modules import (
    devices,
    errors,
    extra_networks,
    images,
    infotext_utils,
    masking,
    prompt_parser,
    rng,
    scripts,
    sd_hijack,
    sd_models,
    sd_samplers,
    shared,
)
from modules.sd_samplers_common import approximation_indexes, decode_first_stage, images_tensor_to_samples
from modules.shared import opts, state

opt_C = 4
opt_f = 8
SAVING: dict = {}
"""What a fork of the webui asks `save_samples` beside."""


def create_binary_mask(image, round=True):
    """What is opaque, or bright where all is."""
    if image.mode != "RGBA" or image.getextrema()[-1] == (255, 255):
        return image.convert("L")
    opaque = image.split()[-1].convert("L")
    return opaque.point(lambda value: 255 * (value > 128)) if round else opaque


def uncrop(image, dest_size, paste_loc):
    left, top, width, height = paste_loc
    whole = Image.new("RGBA", dest_size)
    whole.paste(images.resize_image(1, image, width, height), (left, top))
    return whole


def apply_overlay(image, paste_loc, overlay):
    if overlay is None:
        return image, image.copy()
    drawn = image if paste_loc is None else uncrop(image, overlay.size, paste_loc)
    return Image.alpha_composite(drawn.convert("RGBA"), overlay).convert("RGB"), drawn.copy()


def txt2img_image_conditioning(sd_model, x, width, height):
    """Inpainting models are told of an empty image; others get a plane of one cell that nobody reads."""
    if sd_model.model.conditioning_key in {"hybrid", "concat"} or sd_model.is_sdxl_inpaint:
        empty = torch.full((len(x), 3, height, width), 0.5)
        latent = images_tensor_to_samples(empty, approximation_indexes[opts.sd_vae_encode_method])
        return torch.nn.functional.pad(latent, (0, 0, 0, 0, 1, 0), value=1.0)
    return x.new_zeros(len(x), 5, 1, 1)


@dataclass(repr=False)
class StableDiffusionProcessing:
    sd_model: object = None
    outpath_samples: str = None
    outpath_grids: str = None
    prompt: str = ""
    negative_prompt: str = ""
    styles: list[str] = None
    seed: int = -1
    subseed: int = -1
    subseed_strength: float = 0
    seed_resize_from_h: int = -1
    seed_resize_from_w: int = -1
    seed_enable_extras: bool = True
    sampler_name: str = None
    scheduler: str = None
    batch_size: int = 1
    n_iter: int = 1
    steps: int = 50
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    restore_faces: bool = None
    tiling: bool = None
    do_not_save_samples: bool = False
    do_not_save_grid: bool = False
    extra_generation_params: dict[str, Any] = None
    eta: float = None
    denoising_strength: float = None
    s_min_uncond: float = None
    s_churn: float = None
    s_tmax: float = None
    s_tmin: float = None
    s_noise: float = None
    override_settings: dict[str, Any] = None
    override_settings_restore_afterwards: bool = True
    refiner_checkpoint: str = None
    refiner_switch_at: float = None
    disable_extra_networks: bool = False
    firstpass_image: Any = None

    scripts_value: Any = field(default=None, init=False)
    script_args_value: list = field(default=None, init=False)
    scripts_setup_complete: bool = field(default=False, init=False)
    cached_uc: ClassVar[list] = [None, None]
    cached_c: ClassVar[list] = [None, None]
    comments: dict = None
    sampler: Any = field(default=None, init=False)
    is_using_inpainting_conditioning: bool = field(default=False, init=False)
    is_hr_pass: bool = field(default=False, init=False)
    c: tuple = field(default=None, init=False)
    uc: tuple = field(default=None, init=False)
    rng: Any = field(default=None, init=False)
    step_multiplier: int = field(default=1, init=False)
    all_prompts: list = field(default=None, init=False)
    all_negative_prompts: list = field(default=None, init=False)
    all_seeds: list = field(default=None, init=False)
    all_subseeds: list = field(default=None, init=False)
    iteration: int = field(default=0, init=False)
    prompts: list = field(default=None, init=False)
    negative_prompts: list = field(default=None, init=False)
    seeds: list = field(default=None, init=False)
    subseeds: list = field(default=None, init=False)
    extra_network_data: dict = field(default=None, init=False)
    is_api: bool = field(default=False, init=False)
    overlay_images: list = None
    paste_to: tuple = field(default=None, init=False)

    def __post_init__(self):
        self.comments = {}
        self.styles = self.styles or []
        self.extra_generation_params = self.extra_generation_params or {}
        self.override_settings = self.override_settings or {}
        self.script_args = self.script_args or {}
        self.sampler_noise_scheduler_override = None
        self.refiner_checkpoint_info = None
        # the cache of the class itself, so that it outlives this object
        self.cached_uc = StableDiffusionProcessing.cached_uc
        self.cached_c = StableDiffusionProcessing.cached_c

    def fill_fields_from_opts(self):
        for name in ("s_min_uncond", "s_churn", "s_tmin", "s_tmax", "s_noise"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(opts, name))
        self.s_tmax = self.s_tmax or float("inf")

    @property
    def sd_model(self):  # noqa: F811
        return shared.sd_model

    @sd_model.setter
    def sd_model(self, value):
        pass

    @property
    def scripts(self):
        return self.scripts_value

    @scripts.setter
    def scripts(self, value):
        self.scripts_value = value
        self._setup_once()

    @property
    def script_args(self):
        return self.script_args_value

    @script_args.setter
    def script_args(self, value):
        self.script_args_value = value
        self._setup_once()

    def _setup_once(self):
        if self.scripts_value and self.script_args_value and not self.scripts_setup_complete:
            self.setup_scripts()

    def setup_scripts(self):
        self.scripts_setup_complete = True
        self.scripts.setup_scrips(self, is_ui=not self.is_api)

    def comment(self, text):
        self.comments[text] = 1

    def txt2img_image_conditioning(self, x, width=None, height=None):
        self.is_using_inpainting_conditioning = self.sd_model.model.conditioning_key in {"hybrid", "concat"}
        return txt2img_image_conditioning(self.sd_model, x, width or self.width, height or self.height)

    def init(self, all_prompts, all_seeds, all_subseeds):
        pass

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        raise NotImplementedError

    def close(self):
        self.sampler = self.c = self.uc = None
        if not opts.persistent_cond_cache:
            StableDiffusionProcessing.cached_c = [None, None]
            StableDiffusionProcessing.cached_uc = [None, None]

    def setup_prompts(self):
        count = self.batch_size * self.n_iter
        self.all_prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt] * count
        negative = self.negative_prompt
        negatives = negative if isinstance(negative, list) else [negative] * len(self.all_prompts)
        apply = shared.prompt_styles
        self.all_prompts = [apply.apply_styles_to_prompt(text, self.styles) for text in self.all_prompts]
        self.all_negative_prompts = [apply.apply_negative_styles_to_prompt(text, self.styles) for text in negatives]

    def cached_params(self, required_prompts, steps, extra_network_data, hires_steps=None, use_old_scheduling=False):
        """What a cached condition depends on."""
        return (
            list(required_prompts), steps, hires_steps, shared.sd_model.sd_checkpoint_info, extra_network_data,
            opts.sdxl_crop_left, opts.sdxl_crop_top, self.width, self.height,
        )  # fmt: skip

    def get_conds_with_caching(self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None):
        key = self.cached_params(required_prompts, steps, extra_network_data, hires_steps)
        for cache in caches:
            if cache[0] == key:
                return cache[1]
        caches[0][1] = function(shared.sd_model, required_prompts, steps, hires_steps)
        caches[0][0] = key
        return caches[0][1]

    def setup_conds(self):
        size = {"width": self.width, "height": self.height}
        prompts = prompt_parser.SdConditioning(self.prompts, **size)
        negative = prompt_parser.SdConditioning(self.negative_prompts, is_negative_prompt=True, **size)
        config = sd_samplers.find_sampler_config(self.sampler_name)
        total_steps = config.total_steps(self.steps)
        self.step_multiplier = total_steps // self.steps
        self.firstpass_steps = total_steps
        self.uc = self.get_conds_with_caching(
            prompt_parser.get_learned_conditioning, negative, total_steps, [self.cached_uc], self.extra_network_data
        )
        self.c = self.get_conds_with_caching(
            prompt_parser.get_multicond_learned_conditioning, prompts, total_steps, [self.cached_c],
            self.extra_network_data,
        )  # fmt: skip

    def get_conds(self):
        return self.c, self.uc

    def parse_extra_network_prompts(self):
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)

    def save_samples(self) -> bool:
        complete = opts.save_incomplete_images or not (state.interrupted or state.skipped)
        return opts.samples_save and not self.do_not_save_samples and complete


class Processed:
    def __init__(
        self, p: StableDiffusionProcessing, images_list, seed=-1, info="", subseed=None, all_prompts=None,
        all_negative_prompts=None, all_seeds=None, all_subseeds=None, index_of_first_image=0, infotexts=None,
        comments="",
    ):  # fmt: skip
        self.images = images_list
        self.info = info
        self.comments = "".join(f"{comment}\n" for comment in p.comments)
        self.width, self.height = p.width, p.height
        self.seed = seed
        self.all_prompts = all_prompts or p.all_prompts
        self.all_seeds = all_seeds or p.all_seeds
        self.extra_generation_params = p.extra_generation_params
        self.index_of_first_image = index_of_first_image
        self.infotexts = infotexts or [info] * len(images_list)


class DecodedSamples(list):
    already_decoded = True


def decode_latent_batch(model, batch, target_device=None, check_for_nans=False):
    samples = DecodedSamples()
    if check_for_nans:
        devices.test_for_nans(batch, "unet")
    for latent in batch.split(1):
        sample = decode_first_stage(model, latent)[0]
        if check_for_nans:
            try:
                devices.test_for_nans(sample, "vae")
            except devices.NansException:
                if not shared.opts.auto_vae_precision or devices.dtype_vae == torch.float32:
                    raise
                devices.dtype_vae = torch.float32
                model.first_stage_model.to(torch.float32)
                sample = decode_first_stage(model, latent)[0]
        samples.append(sample)
    return samples


def get_fixed_seed(seed):
    return random.randrange(4294967294) if seed in (-1, None, "") else int(seed)


def create_infotext(
    p, all_prompts, all_seeds, all_subseeds, comments=None, iteration=0, position_in_batch=0, use_main_prompt=False,
    index=None, all_negative_prompts=None,
):  # fmt: skip
    index = position_in_batch + iteration * p.batch_size if index is None else index
    negative = (p.all_negative_prompts if all_negative_prompts is None else all_negative_prompts)[index]
    params = {
        "Steps": p.steps,
        "Sampler": p.sampler_name,
        "Schedule type": p.scheduler,
        "CFG scale": p.cfg_scale,
        "Seed": all_seeds[index],
        "Size": f"{p.width}x{p.height}",
        "Variation seed": all_subseeds[index] if p.subseed_strength else None,
        "Variation seed strength": p.subseed_strength or None,
        **p.extra_generation_params,
    }
    for key, value in params.items():
        try:
            if isinstance(value, list):
                params[key] = value[index]
            elif callable(value):
                params[key] = value(p=p, index=index, prompt_text=all_prompts[index], negative_prompt=negative)
        except Exception:
            errors.report(f'Error creating infotext for key "{key}"', exc_info=True)
            params[key] = None
    last_line = ", ".join(f"{k}: {infotext_utils.quote(v)}" for k, v in params.items() if v is not None)
    return f"{all_prompts[index]}\nNegative prompt: {negative}\n{last_line}"


def process_images(p: StableDiffusionProcessing) -> Processed:
    if p.scripts is not None:
        p.scripts.before_process(p)
    stored = {key: opts.data[key] for key in p.override_settings if key in opts.data}
    try:
        if "sd_model_checkpoint" not in p.override_settings:
            sd_models.reload_model_weights()
        for key, value in p.override_settings.items():
            opts.set(key, value, is_api=True, run_callbacks=False)
            if key == "sd_model_checkpoint":
                sd_models.reload_model_weights()
        sd_samplers.fix_p_invalid_sampler_and_scheduler(p)
        return process_images_inner(p)
    finally:
        if p.override_settings_restore_afterwards:
            for key, value in stored.items():
                setattr(opts, key, value)


def process_images_inner(p: StableDiffusionProcessing) -> Processed:
    devices.torch_gc()
    seed, subseed = get_fixed_seed(p.seed), get_fixed_seed(p.subseed)
    if p.tiling is None:
        p.tiling = opts.tiling
    if p.refiner_checkpoint not in (None, "", "None"):
        p.refiner_checkpoint_info = sd_models.get_closet_checkpoint_match(p.refiner_checkpoint)
    p.sd_model_name = p.sd_model_hash = shared.sd_model.sd_checkpoint_info.name_for_extra
    sd_hijack.model_hijack.apply_circular(p.tiling)
    p.fill_fields_from_opts()
    p.setup_prompts()
    p.all_seeds = [seed + (i if p.subseed_strength == 0 else 0) for i in range(len(p.all_prompts))]
    p.all_subseeds = [subseed + i for i in range(len(p.all_prompts))]
    if p.scripts is not None:
        p.scripts.process(p)

    infotexts, output_images = [], []
    with torch.no_grad(), p.sd_model.ema_scope():
        with devices.autocast():
            p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
        if state.job_count == -1:
            state.job_count = p.n_iter
        for n in range(p.n_iter):
            p.iteration = n
            state.skipped = False
            if state.interrupted or state.stopping_generation:
                break
            _draw_batch(p, n, infotexts, output_images)
    if not infotexts:
        infotexts.append("")
    if not p.disable_extra_networks and p.extra_network_data:
        extra_networks.deactivate(p, p.extra_network_data)
    devices.torch_gc()
    processed = Processed(p, output_images, seed=p.all_seeds[0], info=infotexts[0], infotexts=infotexts)
    if p.scripts is not None:
        p.scripts.postprocess(p, processed)
    return processed


def _begin_batch(p, n):
    """The part of the prompts and seeds that this batch is made of, its noise, and its conditions."""
    sd_models.reload_model_weights()
    part = slice(n * p.batch_size, (n + 1) * p.batch_size)
    p.prompts, p.negative_prompts = p.all_prompts[part], p.all_negative_prompts[part]
    p.seeds, p.subseeds = p.all_seeds[part], p.all_subseeds[part]
    p.rng = rng.ImageRNG(
        (opt_C, p.height // opt_f, p.width // opt_f), p.seeds, subseeds=p.subseeds,
        subseed_strength=p.subseed_strength, seed_resize_from_h=p.seed_resize_from_h,
        seed_resize_from_w=p.seed_resize_from_w,
    )  # fmt: skip
    batch = {"batch_number": n, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
    if p.scripts is not None:
        p.scripts.before_process_batch(p, **batch)
    p.parse_extra_network_prompts()
    if not p.disable_extra_networks:
        extra_networks.activate(p, p.extra_network_data)
    if p.scripts is not None:
        p.scripts.process_batch(p, **batch)
    p.setup_conds()
    sd_models.apply_alpha_schedule_override(p.sd_model, p)


def _draw_batch(p, n, infotexts, output_images):
    _begin_batch(p, n)
    with devices.autocast():
        samples = p.sample(
            conditioning=p.c, unconditional_conditioning=p.uc, seeds=p.seeds, subseeds=p.subseeds,
            subseed_strength=p.subseed_strength, prompts=p.prompts,
        )  # fmt: skip
    if p.scripts is not None:
        args = scripts.PostSampleArgs(samples)
        p.scripts.post_sample(p, args)
        samples = args.samples
    if not getattr(samples, "already_decoded", False):
        devices.test_for_nans(samples, "unet")
        samples = decode_latent_batch(p.sd_model, samples, target_device=devices.cpu, check_for_nans=True)
    pixels = torch.clamp((torch.stack(samples).float() + 1) / 2, min=0, max=1)
    state.nextjob()
    if p.scripts is not None:
        p.scripts.postprocess_batch(p, pixels, batch_number=n)
    save_samples = p.save_samples(**SAVING)
    for i, plane in enumerate(pixels):
        p.batch_index = i
        image = Image.fromarray((255.0 * np.moveaxis(plane.cpu().numpy(), 0, 2)).astype(np.uint8))
        if p.scripts is not None:
            args = scripts.PostprocessImageArgs(image)
            p.scripts.postprocess_image(p, args)
            image = args.image
        overlays = (p.overlay_images or []) if opts.overlay_inpaint else []
        image, _ = apply_overlay(image, p.paste_to, overlays[i] if i < len(overlays) else None)
        if p.scripts is not None:
            args = scripts.PostprocessImageArgs(image)
            p.scripts.postprocess_image_after_composite(p, args)
            image = args.image
        text = create_infotext(p, p.prompts, p.seeds, p.subseeds, index=i, all_negative_prompts=p.negative_prompts)
        if save_samples:
            images.save_image(
                image, p.outpath_samples, "", p.seeds[i], p.prompts[i], opts.samples_format, info=text, p=p
            )
        infotexts.append(text)
        if opts.enable_pnginfo:
            image.info["parameters"] = text
        output_images.append(image)


@dataclass(repr=False)
class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    enable_hr: bool = False
    denoising_strength: float = 0.75
    hr_scale: float = 2.0
    hr_upscaler: str = None
    hr_second_pass_steps: int = 0
    hr_scheduler: str = None

    hr_upscale_to_x: int = field(default=0, init=False)
    hr_upscale_to_y: int = field(default=0, init=False)

    def init(self, all_prompts, all_seeds, all_subseeds):
        """Hires. fix sets its target and doubles the jobs."""
        if not self.enable_hr:
            return
        self.extra_generation_params["Hires upscale"] = self.hr_scale
        self.hr_upscale_to_x, self.hr_upscale_to_y = int(self.width * self.hr_scale), int(self.height * self.hr_scale)
        if not state.processing_has_refined_job_count:
            state.job_count = (self.n_iter if state.job_count == -1 else state.job_count) * 2
            state.processing_has_refined_job_count = True

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        x = self.rng.next()
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(
                p=self, x=x, noise=x, c=conditioning, uc=unconditional_conditioning
            )
        samples = self.sampler.sample(
            self, x, conditioning, unconditional_conditioning, image_conditioning=self.txt2img_image_conditioning(x)
        )
        if not self.enable_hr:
            return samples
        return self.sample_hr_pass(samples, None, seeds, subseeds, subseed_strength, prompts)

    def sample_hr_pass(self, samples, decoded_samples, seeds, subseeds, subseed_strength, prompts):
        """Hires. fix on the latent."""
        self.is_hr_pass = True
        size = self.hr_upscale_to_y // opt_f, self.hr_upscale_to_x // opt_f
        samples = torch.nn.functional.interpolate(samples, size=size, mode="bilinear")
        state.nextjob()
        self.rng = rng.ImageRNG(samples.shape[1:], self.seeds, subseeds=self.subseeds)
        noise = self.rng.next()
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(p=self, x=samples, noise=noise, c=self.c, uc=self.uc)
        samples = self.sampler.sample_img2img(
            self, samples, noise, self.c, self.uc, steps=self.hr_second_pass_steps or self.steps,
            image_conditioning=self.txt2img_image_conditioning(samples),
        )  # fmt: skip
        self.is_hr_pass = False
        return decode_latent_batch(self.sd_model, samples, target_device=devices.cpu, check_for_nans=True)


@dataclass(repr=False)
class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    init_images: list = None
    resize_mode: int = 0
    denoising_strength: float = 0.75
    image_cfg_scale: float = None
    mask: Any = None
    mask_blur_x: int = 4
    mask_blur_y: int = 4
    mask_blur: int = None
    mask_round: bool = True
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0
    inpainting_mask_invert: int = 0
    latent_mask: Any = None
    initial_noise_multiplier: float = None
    color_corrections: Any = field(default=None, init=False)
    image_mask: Any = field(default=None, init=False)
    nmask: Any = field(default=None, init=False)
    mask_for_overlay: Any = field(default=None, init=False)
    init_latent: Any = field(default=None, init=False)
    image_conditioning: Any = field(default=None, init=False)

    def __post_init__(self):
        super().__post_init__()
        self.image_mask, self.mask = self.mask, None
        if self.mask_blur is not None:
            self.mask_blur_x = self.mask_blur_y = self.mask_blur

    def _softened(self):
        """The mask, of its own size."""
        mask = create_binary_mask(self.image_mask, round=self.mask_round)
        mask = ImageOps.invert(mask) if self.inpainting_mask_invert else mask
        for blur, axis in ((self.mask_blur_x, 0), (self.mask_blur_y, 1)):
            if blur > 0:
                kernel = [1, 1]
                kernel[axis] = 2 * int(2.5 * blur + 0.5) + 1
                mask = Image.fromarray(cv2.GaussianBlur(np.array(mask), tuple(kernel), blur))
        return mask

    def _lay_mask(self, brought):
        """Over all of the pictures, of the tab's size: what they are pasted by, and the latent's."""
        mask = images.resize_image(self.resize_mode, self._softened(), self.width, self.height)
        self.mask_for_overlay = mask.point(lambda value: min(2 * value, 255))
        self.overlay_images = []
        for image in brought:
            over = Image.new("RGBa", image.size)
            over.paste(image.convert("RGBA").convert("RGBa"), mask=ImageOps.invert(self.mask_for_overlay))
            self.overlay_images.append(over.convert("RGBA"))
        self.overlay_images *= self.batch_size if len(brought) == 1 else 1
        cells = np.array(mask.resize((self.width // opt_f, self.height // opt_f)), dtype=np.float32) / 255
        self.nmask = torch.from_numpy(np.around(cells) if self.mask_round else cells).expand(opt_C, -1, -1)
        self.mask = 1 - self.nmask
        return [masking.fill(image, mask) for image in brought] if self.inpainting_fill != 1 else brought

    def init(self, all_prompts, all_seeds, all_subseeds):
        """Every picture at the tab's size, encoded."""
        self.extra_generation_params["Denoising strength"] = self.denoising_strength
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        brought = [
            images.resize_image(self.resize_mode, images.flatten(image, "#ffffff"), self.width, self.height)
            for image in self.init_images
        ]
        if self.image_mask is not None:
            brought = self._lay_mask(brought)
        planes = [np.moveaxis(np.array(image, dtype=np.float32) / 255, 2, 0) for image in brought]
        planes = planes * self.batch_size if len(planes) == 1 else planes
        self.batch_size = len(planes)
        self.init_latent = images_tensor_to_samples(torch.from_numpy(np.array(planes)), 0, self.sd_model)
        self.image_conditioning = self.init_latent.new_zeros(len(planes), 5, 1, 1)

    def sample(self, conditioning, unconditional_conditioning, seeds, subseeds, subseed_strength, prompts):
        x = self.rng.next()
        if self.scripts is not None:
            self.scripts.process_before_every_sampling(
                p=self, x=self.init_latent, noise=x, c=conditioning, uc=unconditional_conditioning
            )
        samples = self.sampler.sample_img2img(
            self, self.init_latent, x, conditioning, unconditional_conditioning,
            image_conditioning=self.image_conditioning,
        )  # fmt: skip
        if self.mask is None:
            return samples
        blended = samples * self.nmask + self.init_latent * self.mask
        args = scripts.MaskBlendArgs(samples, self.nmask, self.init_latent, self.mask, blended)
        if self.scripts is not None:
            self.scripts.on_mask_blend(self, args)
        return args.blended_latent
