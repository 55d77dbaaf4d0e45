"""The family's built-in ControlNet as far as its units go: a script that patches the UNet before each sampling, and networks
that are asked for what the UNet is given.

Names and signatures are those of `extensions-builtin/sd_forge_controlnet`, `backend/patcher/controlnet.py` (Forge) and
`ldm_patched/modules/controlnet.py` (reForge). What a network answers is the known linear map of its hint that the first host's
doubles answer, and so is the user's picture.
"""

from __future__ import annotations

import importlib
import types

import torch
import torch.nn.functional as F


def linear(hint):
    return importlib.import_module("controlling").linear(hint)


class ControlNet:
    """Forge's. calls: of each, the sizes of the latent and of the hint, and the level."""

    def __init__(self, calls=None):
        self.cond_hint_original = self.cond_hint = self.previous_controlnet = self.timestep_range = None
        self.strength, self.timestep_percent_range, self.transformer_options = 1.0, (0.0, 1.0), {}
        self.model_sampling_current = None
        self.calls = [] if calls is None else calls

    def copy(self):
        c = type(self)(self.calls)
        c.strength, c.timestep_percent_range = self.strength, self.timestep_percent_range
        return c

    def set_cond_hint(self, cond_hint, strength=1.0, timestep_percent_range=(0.0, 1.0)):
        self.cond_hint_original, self.strength = cond_hint, strength
        self.timestep_percent_range = timestep_percent_range
        return self

    def set_previous_controlnet(self, controlnet):
        self.previous_controlnet = controlnet
        return self

    def pre_run(self, model, percent_to_timestep_function):
        self.timestep_range = tuple(percent_to_timestep_function(share) for share in self.timestep_percent_range)
        self.model_sampling_current = model.levels
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self):
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()
        self.cond_hint = self.timestep_range = self.model_sampling_current = None

    def get_models(self):
        return [*(self.previous_controlnet.get_models() if self.previous_controlnet else ()), self]

    def inference_memory_requirements(self, dtype):
        return 7 + (self.previous_controlnet.inference_memory_requirements(dtype) if self.previous_controlnet else 0)

    def get_control(self, x_noisy, t, cond, batched_number):
        previous, options = self.previous_controlnet, self.transformer_options
        assert batched_number == len(options["cond_or_uncond"]), "chunks"
        before = None if previous is None else previous.get_control(x_noisy, t, cond, batched_number)
        return self.own(x_noisy, t, cond, batched_number, before)

    def own(self, x_noisy, t, cond, batched_number, before):
        if self.timestep_range is not None and not self.timestep_range[1] <= t[0] <= self.timestep_range[0]:
            return before
        size = [8 * length for length in x_noisy.shape[-2:]]
        if self.cond_hint is None or list(self.cond_hint.shape[-2:]) != size:
            self.cond_hint = F.interpolate(self.cond_hint_original, size=size)
            self.control_input = None
        if len(self.cond_hint) != len(x_noisy) and len(self.cond_hint) > 1:
            self.cond_hint = torch.cat([self.cond_hint[: len(x_noisy) // batched_number]] * batched_number)
        assert len(self.cond_hint) in (1, len(x_noisy)), "rows"
        assert len(cond["c_crossattn"]) == len(x_noisy) == len(self.model_sampling_current.timestep(t)), "rows"
        assert "y" not in cond or len(cond["y"]) == len(x_noisy), "rows"
        self.calls.append((tuple(x_noisy.shape), tuple(self.cond_hint.shape), float(t[0])))
        return self.merged(self.answer().expand(len(x_noisy), -1, -1, -1) * self.strength, before)

    def answer(self):
        return linear(self.cond_hint)

    def merged(self, answer, before):
        """As `compute_controlnet_weighting` does it, of one block."""
        options = self.transformer_options
        weights = [getattr(self, f"{sign}_advanced_weighting", None) for sign in ("positive", "negative")]
        weights = [(w or {}).get("output", [1.0])[0] for w in weights]
        mark, chunks = options["cond_mark"], len(options["cond_or_uncond"])
        final = weights[0] * (1.0 - mark) + weights[1] * mark
        frames, mask = getattr(self, "advanced_frame_weighting", None), getattr(self, "advanced_mask_weighting", None)
        if frames is not None:
            assert len(frames) * chunks == len(mark), "frames"
            final = final * torch.tensor(frames * chunks)
        if getattr(self, "advanced_sigma_weighting", None) is not None:
            final = final * torch.cat([self.advanced_sigma_weighting(options["sigmas"])] * chunks)
        answer = answer * final[:, None, None, None]
        if mask is not None:
            mask = mask if len(mask) == 1 else mask.repeat(len(answer) // len(mask), 1, 1, 1)
            answer = answer * F.interpolate(mask, size=answer.shape[-2:], mode="bilinear")
        return joined(answer, before)


def joined(answer, before):
    previous = [] if before is None else before["output"]
    return {"input": [], "middle": [], "output": [answer + previous[0] if previous else answer]}


class ControlNetOfReforge(ControlNet):
    """Which heeds no weights of blocks."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        previous = self.previous_controlnet
        asked = x_noisy, t, cond, batched_number, transformer_options
        assert batched_number == len(transformer_options["cond_or_uncond"]), "chunks"
        return self.own(x_noisy, t, cond, batched_number, None if previous is None else previous.get_control(*asked))

    def merged(self, answer, before):
        return joined(answer, before)


def adapter_of(kind):
    class T2IAdapter(kind):
        """Keeps what it has answered, for one hint and any number of rows."""

        control_input = None

        def answer(self):
            if self.control_input is None:
                self.control_input = linear(self.cond_hint)
            return self.control_input.clone()

    return T2IAdapter


class LLLiteModule(torch.nn.Module):
    """Counts its calls, and takes them for steps."""

    def __init__(self, cond_image, multiplier, num_steps, start_step, end_step):
        super().__init__()
        self.cond_image, self.cond_emb = cond_image, None
        self.multiplier, self.num_steps, self.start_step, self.end_step = multiplier, num_steps, start_step, end_step
        self.current_step = 0

    def forward(self, x):
        if self.num_steps > 0:
            step, self.current_step = self.current_step, (self.current_step + 1) % self.num_steps
            if not self.start_step <= step < self.end_step:
                return torch.zeros_like(x)
        if self.cond_emb is None:
            self.cond_emb = linear((self.cond_image + 1) / 2)
        cx = self.cond_emb.repeat(len(x) // len(self.cond_emb), 1, 1, 1)
        return cx[:, : x.shape[1]] * self.multiplier


class LitePatch:
    """`control_net_lllite_patch`."""

    def __init__(self, modules):
        self.modules = modules


def asked(kind, control, args, options, chunks):
    """What `calc_cond_batch` tells the UNet of the networks that are linked to it."""
    c = args["c"]
    if kind == "reForge":
        return {"control": control.get_control(args["input"], args["timestep"], c.copy(), chunks, options)}
    each = control
    while each is not None:
        each.transformer_options, each = options, each.previous_controlnet
    told = control.get_control(args["input"], args["timestep"], c.copy(), chunks)
    return {"control": told, "control_model": control}


def added(answer, control, transformer_options):
    """The UNet's answer with what it was told of."""
    if control is not None and control["output"]:
        answer = answer + control["output"].pop()
    for patch in transformer_options.get("patches", {}).get("attn1_patch", ()):
        answer = answer + sum(module(answer) for module in patch.modules.values())
    return answer


class Preprocessor:
    """What a unit's `module` names. whole: what the script has handed it, of each sampling."""

    def __init__(self, name, tags=()):
        self.name, self.tags, self.whole = name, list(tags), []
        self.do_not_need_model = "Reference" in tags

    def process_before_every_sampling(self, process, cond, mask, *args, **kwargs):
        self.whole.append(tuple(cond.shape[-2:]) if isinstance(cond, torch.Tensor) else None)
        if self.name == "tile_colorfix":
            unet = process.sd_model.forge_objects.unet.clone()
            unet.model_options["transformer_options"].setdefault("block_modifiers", []).append(self)
            process.sd_model.forge_objects.unet = unet
        if self.name.startswith("inpaint"):
            self.image, self.mask, mask = cond, mask.round(), mask.round()
        if self.name == "recolor_luminance":
            self.current_cond = cond
        if self.name.startswith("inpaint"):
            return cond * (1.0 - mask) - mask, None
        return cond, mask

    def process_after_every_sampling(self, process, params, *args, **kwargs):
        if self.name == "inpaint_only":
            args[0].images = [torch.where(self.mask[0] > 0, img, self.image[0].to(img)) for img in args[0].images]
        if self.name == "recolor_luminance":
            args[0].images = [
                (img - img.mean(0, keepdim=True) + self.current_cond[0].mean(0, keepdim=True)).clip(0, 1)
                for img in args[0].images
            ]


class ControlNetPatcher:
    def __init__(self, net):
        self.model_patcher = net

    def process_before_every_sampling(self, process, cond, mask, *args, **kwargs):
        """`apply_controlnet_advanced`."""
        net = self.model_patcher.copy().set_cond_hint(cond, self.strength, (self.start_percent, self.end_percent))
        net.positive_advanced_weighting = self.positive_advanced_weighting
        net.negative_advanced_weighting = self.negative_advanced_weighting
        net.advanced_frame_weighting, net.advanced_sigma_weighting = self.frames, self.sigmas
        net.advanced_mask_weighting = mask
        unet = process.sd_model.forge_objects.unet.clone()
        unet.add_patched_controlnet(net)
        process.sd_model.forge_objects.unet = unet


class ControlLLLitePatcher(ControlNetPatcher):
    def process_before_every_sampling(self, process, cond, mask, *args, **kwargs):
        unet, steps = process.sd_model.forge_objects.unet.clone(), process.steps
        ends = int(steps * self.start_percent), int(steps * self.end_percent)
        patch = LitePatch({"one": LLLiteModule(cond * 2 - 1, self.strength, steps, *ends)})
        unet.model_options["transformer_options"].setdefault("patches", {}).setdefault("attn1_patch", []).append(patch)
        process.sd_model.forge_objects.unet = unet


class FooocusInpaintPatcher(ControlNetPatcher):
    pass


class IPAdapterPatcher(ControlNetPatcher):
    def process_before_every_sampling(self, process, cond, mask, *args, **kwargs):
        unet = process.sd_model.forge_objects.unet.clone()
        unet.model_options["transformer_options"].setdefault("adapters", []).append(cond)
        process.sd_model.forge_objects.unet = unet


class AnotherPatcher(ControlNetPatcher):
    def process_before_every_sampling(self, process, cond, mask, *args, **kwargs):
        unet = process.sd_model.forge_objects.unet.clone()
        replaced = unet.model_options["transformer_options"].setdefault("patches_replace", {})
        replaced.setdefault("attn1", {})["middle", 0] = print
        process.sd_model.forge_objects.unet = unet


PATCHERS = {
    "lite": ControlLLLitePatcher, "fooocus": FooocusInpaintPatcher, "ip": IPAdapterPatcher, "another": AnotherPatcher,
}  # fmt: skip
TAGS = {"reference_only": ["Reference"], "inpaint_only": ["Inpaint"], "inpaint_global_harmonious": ["Inpaint"]}


class ControlNetCachedParameters:
    def __init__(self):
        self.preprocessor = self.model = None
        self.control_cond = self.control_cond_for_hr_fix = self.control_mask = self.control_mask_for_hr_fix = None


external_code = types.SimpleNamespace(
    pixel_perfect_resolution=lambda image, target_H, target_W, resize_mode: round(max(target_H, target_W) / 1.0)
)


def unit(kind="net", **settings):
    """kind: of network, or of what else the model is. seed: of the picture, given: its size. maps: how many there are."""
    values = {
        "kind": kind, "module": "depth", "model": "", "seed": 1, "given": 200, "maps": 1, "weight": 1.0, "masked": False,
        "guidance_start": 0.0, "guidance_end": 1.0, "pixel_perfect": False, "processor_res": -1, "hr_option": "Both",
        "save_detected_map": True, "broken": False, "frames": None, "sigmas": None, "positive": None, "negative": None,
        **settings,
    }  # fmt: skip
    return types.SimpleNamespace(**values)


def mask_of(height, width):
    """`(1, 1, height, width)`: 1 in the left third but for its top."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 :, : width // 3] = 1
    return mask


def script_of(host, kind, *units):
    """`ControlNetForForgeOfficial` with its units; calls: see `ControlNet`."""
    cn = importlib.import_module("controlling")
    net = ControlNetOfReforge if kind == "reForge" else ControlNet
    nets = {"net": net, "adapter": adapter_of(net)}

    class ControlNetForForgeOfficial(host.scripts.Script):
        def __init__(self):
            self.calls, self.current_params, self.kept = [], {}, {}

        def title(self):
            return "ControlNet"

        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def get_enabled_units(self, units_given):
            return list(units)

        @staticmethod
        def bound_check_params(unit):
            unit.processor_res = 512 if unit.processor_res < 0 else unit.processor_res

        def get_input_data(self, p, unit, preprocessor, h, w):
            external_code  # noqa: B018: found among this function's globals
            return [[types.SimpleNamespace(shape=(unit.given, unit.given, 3)), None]] * unit.maps, 1

        def process_unit_after_click_generate(self, p, unit, params, *args, **kwargs):
            if unit.broken and p.height > 128:
                raise RuntimeError("no memory for a map of this size")
            assert not unit.pixel_perfect or p.height == 128
            cn.FOUND.append((p.height, p.width, unit.processor_res))
            count = p.batch_size * (p.n_iter if kind == "reForge" else 1)
            found = [cn.picture(p.height, p.width, seed=unit.seed + i) for i in range(unit.maps)]
            params.control_cond = torch.cat([found[i % unit.maps] for i in range(count)])
            if unit.kind == "ip":
                params.control_cond = {"image": found[0]}
            if unit.masked:
                params.control_mask = mask_of(p.height, p.width).expand(count, -1, -1, -1)
            params.control_cond_for_hr_fix, params.control_mask_for_hr_fix = params.control_cond, params.control_mask
            if unit.save_detected_map:
                p.extra_result_images.append(cn.FOUND[-1])
            params.preprocessor = self.kept.setdefault(
                unit.module, Preprocessor(unit.module, TAGS.get(unit.module, ()))
            )
            params.model = PATCHERS.get(unit.kind, ControlNetPatcher)(nets.get(unit.kind, net)(self.calls))

        def process_unit_before_every_sampling(self, p, unit, params, *args, **kwargs):
            cond, mask = params.control_cond, params.control_mask
            if kind == "reForge" and isinstance(cond, torch.Tensor):
                cond = torch.split(cond, p.batch_size)[p.iteration]
            params.model.strength = float(unit.weight)
            params.model.start_percent, params.model.end_percent = unit.guidance_start, unit.guidance_end
            params.model.positive_advanced_weighting = unit.positive
            params.model.negative_advanced_weighting = unit.negative
            params.model.frames, params.model.sigmas = unit.frames, unit.sigmas
            cond, mask = params.preprocessor.process_before_every_sampling(p, cond, mask, *args, **kwargs)
            params.model.process_before_every_sampling(p, cond, mask, *args, **kwargs)

        def process(self, p, *args):
            p.sd_model.forge_objects = p.sd_model.forge_objects_after_applying_lora.shallow_copy()  # as the host does
            p.extra_result_images = []
            self.current_params = {}
            for i, each in enumerate(self.get_enabled_units(args)):
                self.bound_check_params(each)
                self.current_params[i] = ControlNetCachedParameters()
                self.process_unit_after_click_generate(p, each, self.current_params[i], *args)

        def process_before_every_sampling(self, p, *args, **kwargs):
            for i, each in enumerate(self.get_enabled_units(args)):
                self.process_unit_before_every_sampling(p, each, self.current_params[i], *args, **kwargs)

        def postprocess_batch(self, p, *args, images, **kwargs):
            """`postprocess_batch_list`, by the hook that the doubles have."""
            pp = types.SimpleNamespace(images=list(images))
            for params in self.current_params.values():
                params.preprocessor.process_after_every_sampling(p, params, pp)
            for i, image in enumerate(pp.images):
                images[i] = image

        def postprocess(self, p, processed, *args):
            self.current_params = {}

    return ControlNetForForgeOfficial()
