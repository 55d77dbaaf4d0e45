"""`DemoFusionPipeline`: phase 1 is the wrapped pipeline's own, the phases are its sampler's, arguments are diffusers'."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    IPNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from PIL import Image
from transformers import CLIPTokenizer

from demofusion_lib import DemoFusionPipeline
from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.models import load_model
from demofusion_lib.standalone.schedulers import sampler_of

from .conftest import CPU, sd_pipeline, sdxl_pipeline, vae

FEW = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "latent"}
SCHEDULERS = {
    "Euler": (EulerDiscreteScheduler, {}),
    "Euler Karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "DDIM": (DDIMScheduler, {}),
    "DPM++ 2M": (DPMSolverMultistepScheduler, {}),
    "UniPC": (UniPCMultistepScheduler, {}),
}
Make = Callable[..., Any]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipes(folders: dict[str, Path]) -> dict[str, Any]:
    kinds = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
    made = {name: kind.from_pretrained(str(folders[name])) for name, kind in kinds.items()}
    for pipe in made.values():
        pipe.set_progress_bar_config(disable=True)
    return made


@pytest.fixture
def make(pipes: dict[str, Any]) -> Make:
    """A pipeline of the same parts, so that what is set on one stays its own."""

    def made(name: str = "sd", kind: type | None = None, **parts: Any) -> Any:
        pipe = (kind or type(pipes[name]))(**{**pipes[name].components, **parts}, **_flags(kind or type(pipes[name])))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


def _flags(kind: type) -> dict[str, Any]:
    return {} if "XL" in kind.__name__ else {"requires_safety_checker": False}


def ours(pipe: Any) -> DemoFusionPipeline:
    made = DemoFusionPipeline.from_pipe(pipe)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_phase_1_is_the_pipeline_s_own_picture(name: str, scheduler: str, make: Make, pipes: dict[str, Any]) -> None:
    kind, config = SCHEDULERS[scheduler]
    pipe = make(name, scheduler=kind.from_config(pipes[name].scheduler.config, **config))
    theirs = pipe("a red disc", generator=seeded(), **FEW).images
    demo = ours(pipe)
    result = demo("a red disc", generator=seeded(), scale=2, preset="fast", **FEW)
    assert float((demo.finished[0].latent - theirs).norm() / theirs.norm()) < 1e-5
    assert result.images.shape == (1, 4, 16, 16)
    assert torch.isfinite(result.images).all()


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize(("scheduler", "sampler"), [("DPM++ 2M", "DPM++ 2M"), ("UniPC", "UniPC")])
def test_the_phases_are_the_command_line_s(
    name: str, scheduler: str, sampler: str, make: Make, pipes: dict[str, Any], folders: dict[str, Path]
) -> None:
    """From the same phase 1 and seed: another road to the prompts, the same phases."""
    kind, _ = SCHEDULERS[scheduler]
    demo = ours(make(name, scheduler=kind.from_config(pipes[name].scheduler.config)))
    settings = {"scale": 2, "preset": "fast", "steps": 3}
    result = demo("a red disc", negative_prompt="blue", generator=seeded(), **settings, **FEW)
    generator = seeded()
    torch.randn(1, 4, 8, 8, generator=generator)  # phase 1's
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    params = Params.from_names({**settings, "enabled": True})
    order = Order(
        ["a red disc"],
        [seed],
        64,
        64,
        params,
        "blue",
        4,
        sampler,
        guidance=4.0,
        scheduler="Automatic" if sampler == "UniPC" else "Uniform",
    )

    class Same(Drawing):
        def _base(self) -> Any:
            return demo.finished[0]

    expected = list(Same(load_model(str(folders[name]), CPU, torch.float32), order).phases())[-1].latent
    assert float((result.images - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_img2img(name: str, make: Make) -> None:
    kind = StableDiffusionXLImg2ImgPipeline if name == "sdxl" else StableDiffusionImg2ImgPipeline
    parts = {} if name == "sdxl" else {"image_encoder": None}
    pipe = make(name, kind, **parts)
    picture = Image.effect_noise((72, 64), 90).convert("RGB")
    named = {**FEW, "image": picture, "strength": 0.6, "num_inference_steps": 5}
    theirs = pipe("a red disc", generator=seeded(), **named).images
    demo = ours(pipe)
    images = demo("a red disc", generator=seeded(), target_width=144, preset="fast", **named).images
    assert torch.equal(demo.finished[0].latent, theirs) and theirs.shape == (1, 4, 8, 9)
    assert images.shape == (1, 4, 16, 18)
    with pytest.raises(ValueError, match="image is None, allowed with StableDiffusion"):
        demo("a red disc")
    with pytest.raises(
        ValueError, match="strength is 0.1 of 5 num_inference_steps, allowed: a product of 1 step or more"
    ):
        demo("a red disc", **{**named, "strength": 0.1})


def test_a_picture_of_one_s_own_takes_the_place_of_phase_1(make: Make) -> None:
    """With a pipeline that draws from text: as the command line's `--image`."""
    picture = Image.effect_noise((64, 80), 90).convert("RGB")
    demo = ours(make())
    first, last = demo("a red disc", image=picture, strength=0, keep_phases=True, scale=2).phases
    assert np.array_equal(np.asarray(first[0]), np.asarray(picture)) and last[0].size == (128, 160)
    drawn = demo("a red disc", image=picture, strength=0.5, num_inference_steps=4, generator=seeded(), scale=1.5)
    assert drawn.images[0].size == (96, 120) and demo.finished[0].picture is not None
    array, values = np.asarray(picture), np.asarray(picture) / 255
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    for same in (array, values, tensor, tensor[None] * 2 - 1, [picture]):
        again = demo("a red disc", image=same, strength=0.5, num_inference_steps=4, generator=seeded(), scale=1.5)
        assert np.abs(np.asarray(again.images[0], float) - np.asarray(drawn.images[0], float)).max() <= 1
    with pytest.raises(ValueError, match="output_type is 'latent', allowed with a strength above 0"):
        demo("a red disc", image=picture, strength=0, output_type="latent")


def test_an_image_depends_on_its_own_generator_alone(make: Make) -> None:
    demo = ours(make())
    named = {**FEW, "scale": 2, "preset": "fast"}
    both = demo(["a red disc", "a blue square"], generator=[seeded(1), seeded(2)], **named).images
    alone = demo("a blue square", generator=seeded(2), **named).images
    assert torch.allclose(both[1:], alone, atol=1e-5)
    twice = demo("a red disc", num_images_per_prompt=2, generator=[seeded(1), seeded(2)], **named).images
    assert torch.allclose(twice[:1], both[:1], atol=1e-5) and not torch.allclose(twice[1:], both[1:], atol=1e-2)
    generator = seeded(3)
    one, other = (demo("a red disc", generator=generator, **named).images for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-2)  # it has gone on


def test_latents_and_embeddings(make: Make) -> None:
    for name in ("sd", "sdxl"):
        demo = ours(make(name))
        named = {**FEW, "scale": 2, "preset": "fast"}
        texts = {"prompt": "a red disc", "negative_prompt": "blue"}
        if name == "sdxl":
            texts |= {"prompt_2": "a green disc", "negative_prompt_2": "fog"}
        drawn = demo(**texts, generator=seeded(), **named).images
        made = demo.encode_prompt(**texts, device=CPU, num_images_per_prompt=1, do_classifier_free_guidance=True)
        embeds = dict(
            zip(
                ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"),
                made,
            )
        )
        assert torch.equal(demo(**embeds, generator=seeded(), **named).images, drawn)
        other = demo(**{**texts, "negative_prompt": "green"}, generator=seeded(), **named).images
        assert not torch.equal(other, drawn)
    noise = torch.randn(1, 4, 8, 10, generator=seeded())
    demo("a red disc", latents=noise, generator=seeded(), **named)
    theirs = demo.wrapped("a red disc", latents=noise, height=64, width=80, **FEW).images
    assert torch.equal(demo.finished[0].latent, theirs)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_texts_of_different_kinds_are_those_of_one_kind(name: str, make: Make) -> None:
    demo, prompts = ours(make(name)), ["a red disc", "a blue square"]
    drawn = [
        demo(
            texts, negative_prompt=negative, generator=[seeded(1), seeded(2)], target_width=96, preset="fast", **FEW
        ).images
        for texts, negative in ((prompts, ["dark", "dark"]), (prompts, "dark"), (tuple(prompts), ("dark", "dark")))
    ]
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_the_deepest_clip_skip(make: Make) -> None:
    for name, least in (("sd", 0), ("sdxl", 1)):
        pipe = make(name)
        most = pipe.text_encoder.config.num_hidden_layers - least
        assert ours(pipe)("a red disc", clip_skip=most, scale=1, **FEW).images.isfinite().all()
        with pytest.raises(ValueError, match=f"clip_skip is {most + 1}, allowed with this text encoder: 0 to {most}"):
            ours(pipe)("a red disc", clip_skip=most + 1, scale=1, **FEW)


def test_kinds_of_output(make: Make) -> None:
    demo = ours(make())
    named = {"num_inference_steps": 3, "preset": "fast"}
    pil, pt, array = (
        demo("a red disc", generator=seeded(), output_type=kind, **named).images for kind in ("pil", "pt", "np")
    )
    assert [image.size for image in pil] == [(128, 128)] and pt.shape == (1, 3, 128, 128)
    assert array.shape == (1, 128, 128, 3) and array.min() >= 0 and array.max() <= 1
    assert np.allclose(array[0], pt[0].permute(1, 2, 0), atol=1e-6)
    assert np.abs(np.asarray(pil[0]) / 255 - array[0]).max() < 0.003
    latent = demo("a red disc", generator=seeded(), output_type="latent", **named).images
    decoded = demo.vae.decode(latent / demo.vae.config.scaling_factor).sample
    assert torch.allclose((decoded / 2 + 0.5).clamp(0, 1), pt, atol=1e-4)
    (images,) = demo("a red disc", return_dict=False, enabled=False, **named)[:1]
    assert images[0].size == (64, 64)
    kept = demo("a red disc", keep_phases=True, scale=3, preset="none", num_inference_steps=2)
    assert [phase[0].size for phase in kept.phases] == [(64, 64), (128, 128), (192, 192)]


def test_the_callback_is_told_of_every_step_and_may_change_the_latent(make: Make) -> None:
    demo, seen = ours(make()), []

    def note(pipe: Any, step: int, t: Any, named: dict[str, Any]) -> dict[str, Any]:
        assert pipe is demo
        seen.append((pipe.phase, step, int(t), named["latents"].shape[-1]))
        return named

    plain = demo("a red disc", generator=seeded(), scale=3, preset="fast", plan="every", **FEW).images
    same = demo(
        "a red disc", generator=seeded(), scale=3, preset="fast", plan="every", callback_on_step_end=note, **FEW
    )
    assert torch.equal(same.images, plain)
    assert [(phase, step) for phase, step, _, _ in seen] == [
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 0),
        (2, 1),
        (3, 0),
        (3, 1),
    ]
    assert [side for *_, side in seen] == [8] * 4 + [16] * 2 + [24] * 2
    assert [t for phase, _, t, _ in seen if phase == 2] == [601, 300]

    def blank(pipe: Any, step: int, t: Any, named: dict[str, Any]) -> dict[str, Any]:
        last = pipe.phase == 3 and step == 1
        return {"latents": torch.zeros_like(named["latents"])} if last else named

    wiped = demo(
        "a red disc", generator=seeded(), scale=3, preset="fast", plan="every", callback_on_step_end=blank, **FEW
    )
    assert wiped.images.std() < 1e-6


def test_a_callback_may_answer_nothing_and_ask_for_nothing(make: Make) -> None:
    demo, seen = ours(make()), []
    plain = demo("a red disc", generator=seeded(), preset="fast", **FEW).images
    same = demo(
        "a red disc", generator=seeded(), preset="fast", callback_on_step_end=lambda *given: seen.append(given[1]),
        callback_on_step_end_tensor_inputs=[], **FEW,
    )  # fmt: skip
    assert torch.equal(same.images, plain) and seen == [0, 1, 2, 3, 0, 1]


@pytest.mark.parametrize("missing", [("text_encoder", "text_encoder_2"), ("text_encoder",), ("tokenizer_2",)])
def test_a_prompt_needs_the_encoders_that_the_unet_listens_to(missing: tuple[str, ...], make: Make) -> None:
    pipe = make("sdxl")
    for name in missing:
        pipe.register_modules(**{name: None})
    with pytest.raises(ValueError, match="prompt is 'a red disc', allowed with a pipeline that has its text encoders"):
        ours(pipe)("a red disc", **FEW)


@pytest.mark.parametrize(("phase", "left"), [(2, 1), (3, 2), (1, 1)])
def test_a_callback_stops_the_run_with_the_last_finished_phase(phase: int, left: int, make: Make) -> None:
    demo = ours(make())

    def stop(pipe: Any, step: int, t: Any, named: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = pipe.phase == phase
        return named

    result = demo("a red disc", scale=3, preset="none", callback_on_step_end=stop, **FEW)
    assert result.stopped and result.images.shape[-1] == 8 * left
    assert not demo("a red disc", preset="none", **FEW).stopped


class Bar:
    """What tqdm would have shown."""

    def __init__(self, **named: Any):
        self.named, self.total, self.n, self.seen = named, 0, 0, []
        BARS.append(self)

    def update(self, count: int) -> None:
        self.n += count
        self.seen.append((self.n, self.total))

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None: ...


BARS: list[Bar] = []


def test_one_bar_for_all_phases(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demofusion_lib.standalone.pipeline.tqdm", Bar)
    demo = DemoFusionPipeline.from_pipe(make())
    demo.set_progress_bar_config(desc="mine")
    demo("a red disc", num_inference_steps=3, preset="fast", keep_phases=True)
    bar = BARS.pop()
    assert bar.named["desc"] == "mine" and bar.n == bar.total
    assert len({total for _, total in bar.seen}) == 1 and len(bar.seen) > 8
    assert demo.wrapped._progress_bar_config == {"disable": True}  # as it was


def test_lora_scale_and_what_only_the_pipeline_knows_are_handed_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters lie in the parts themselves; their scale is told with every call of the UNet and the text encoder."""
    pipe, told = make(), []
    forward, encode = pipe.unet.forward, pipe.encode_prompt

    def seen(*given: Any, **named: Any) -> Any:
        told.append(named.get("cross_attention_kwargs"))
        return forward(*given, **named)

    scales: list[Any] = []
    monkeypatch.setitem(vars(pipe.unet), "forward", seen)
    monkeypatch.setattr(
        pipe, "encode_prompt", lambda *a, **k: scales.append((k["lora_scale"], k["clip_skip"])) or encode(*a, **k)
    )
    demo = ours(pipe)
    demo("a red disc", cross_attention_kwargs={"scale": 0.5}, clip_skip=1, preset="fast", guidance_rescale=0.2, **FEW)
    assert len(told) > 8 and all(one == {"scale": 0.5} for one in told)
    assert set(scales) == {(0.5, 1)}


def test_a_compiled_unet(make: Make) -> None:
    pipe = make()
    named = {**FEW, "preset": "fast"}
    plain = ours(pipe)("a red disc", generator=seeded(), **named).images
    compiled = make(unet=pipe.unet)
    # the wrapper that torch.compile answers, around what would take half a minute to compile
    compiled.unet = torch._dynamo.OptimizedModule(pipe.unet, lambda function: function)
    assert compiled.unet is not pipe.unet
    assert torch.allclose(ours(compiled)("a red disc", generator=seeded(), **named).images, plain, atol=1e-5)


def test_textual_inversion(tokenizer: CLIPTokenizer) -> None:
    """A new word, in phase 1 and in the phases."""
    pipe = sd_pipeline(CLIPTokenizer.from_pretrained(tokenizer.name_or_path))
    pipe.load_textual_inversion({"<mine>": torch.full((2, 16), 3.0)}, token="<mine>")
    demo, named = ours(pipe), {**FEW, "preset": "fast"}
    word, plain = (demo(text, generator=seeded(), **named).images for text in ("<mine>", "mine"))
    assert not torch.allclose(word, plain, atol=1e-2)
    assert torch.equal(demo.finished[0].latent, pipe("mine", generator=seeded(), **FEW).images)
    embeds, _ = pipe.encode_prompt("<mine>", CPU, 1, False)
    assert torch.equal(demo(prompt_embeds=embeds, negative_prompt="", generator=seeded(), **named).images, word)


def test_model_offload(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts come to the device by turns, and have left it at the end."""
    pipe = sd_pipeline(make().tokenizer)
    pipe.set_progress_bar_config(disable=True)
    named = {"num_inference_steps": 3, "preset": "fast", "output_type": "pt", "keep_phases": True}
    plain = ours(pipe)("a red disc", generator=seeded(), **named).images
    freed = []
    _, hook = accelerate.cpu_offload_with_hook(pipe.text_encoder, CPU)
    _, hook = accelerate.cpu_offload_with_hook(pipe.unet, CPU, hook)
    accelerate.cpu_offload_with_hook(pipe.vae, CPU, hook)
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(1))
    assert torch.equal(ours(pipe)("a red disc", generator=seeded(), **named).images, plain)
    assert len(freed) == 2  # by the pipeline behind phase 1, by us at the end


def ip_adapted(pipe: Any) -> Any:
    """An IP-Adapter of the first kind with random weights, by diffusers' own loader."""
    width, image = pipe.unet.config.cross_attention_dim, 6
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {
        "proj.weight": torch.randn(4 * width, image), "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width), "norm.bias": torch.zeros(width),
    }, "ip_adapter": {}}  # fmt: skip
    number = 1
    for name in pipe.unet.attn_processors:
        if "attn2" in name:
            hidden = pipe.unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):
                state["ip_adapter"][f"{number}.{part}.weight"] = torch.randn(hidden, width)
            number += 2
    pipe.unet._load_ip_adapter_weights([state])
    return pipe


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_ip_adapter(name: str, make: Make) -> None:
    torch.manual_seed(3)
    pipe = ip_adapted(sd_pipeline(make().tokenizer) if name == "sd" else sdxl_pipeline(make().tokenizer))
    pipe.set_progress_bar_config(disable=True)
    demo, named = ours(pipe), {**FEW, "preset": "fast"}
    embeds = torch.randn(2, 1, 6)  # of no picture, of a picture
    drawn = demo("a red disc", ip_adapter_image_embeds=[embeds], generator=seeded(), **named).images
    theirs = pipe("a red disc", ip_adapter_image_embeds=[embeds], generator=seeded(), **FEW).images
    assert torch.equal(demo.finished[0].latent, theirs)
    first = demo.finished[0].latent
    calls: list[Any] = []
    forward = pipe.unet.forward
    pipe.unet.forward = lambda *a, **k: calls.append((len(a[0]), k["added_cond_kwargs"]["image_embeds"])) or forward(
        *a, **k
    )
    assert torch.equal(demo("a red disc", ip_adapter_image_embeds=[embeds], generator=seeded(), **named).images, drawn)
    for rows, (seen,) in calls[-2:]:
        assert len(seen) == rows and {*map(tuple, seen.reshape(rows, -1).tolist())} <= {
            *map(tuple, embeds.reshape(2, -1).tolist())
        }
    pipe.unet.forward = forward
    with pytest.raises(ValueError, match="ip_adapter_image is None, allowed with a pipeline that has loaded"):
        demo("a red disc", **named)
    assert first.shape[-1] == 8


def test_a_scheduler_set_later_and_settings_by_name(make: Make) -> None:
    demo = ours(make())
    demo.scheduler = UniPCMultistepScheduler.from_config(demo.scheduler.config)
    assert type(demo.wrapped.scheduler) is UniPCMultistepScheduler
    assert sampler_of(demo.scheduler) == ("UniPC", "Automatic")
    named = {**FEW, "generator": seeded()}
    assert demo(
        "a red disc", target_width=96, target_height=128, preset="paper", phase_sampler="Euler", **named
    ).images.shape[-2:] == (16, 12)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no prompt": ({"prompt": None}, "prompt is None, allowed: one of prompt and prompt_embeds"),
    "prompt": ({"prompt": 3}, "prompt is 3, allowed: a text, or a list of texts"),
    "surrogate": ({"prompt": "\ud800"}, "prompt is '\\\\ud800', allowed: text in UTF-8"),
    "negatives": ({"negative_prompt": ["a", "b"]}, "negative_prompt has 2 texts, allowed: one text, or as many"),
    "sdxl's": ({"prompt_2": "a"}, "prompt_2 is given, allowed with SDXL alone"),
    "embeds": ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 3)}, r"prompt_embeds is \(1, 77, 3\), allowed: a tensor"),
    "rows of embeds": ({"prompt": None, "prompt_embeds": torch.zeros(77, 32)}, r"prompt_embeds is \(77, 32\), allowed: a tensor of prompts x tokens x"),
    "steps": ({"num_inference_steps": 0}, "num_inference_steps is 0, allowed: whole numbers 1 to 1000"),
    "guidance": ({"guidance_scale": float("nan")}, "guidance_scale is nan, allowed: 0 to 100"),
    "count": ({"num_images_per_prompt": True}, "num_images_per_prompt is True, allowed: whole numbers 1"),
    "width": ({"width": 100}, "width is 100, allowed: whole numbers 8 to 16384, multiples of 8"),
    "latents": ({"latents": torch.zeros(2, 4, 8, 8)}, r"latents is \(2, 4, 8, 8\), allowed: a tensor of 1 x 4 x"),
    "latents' size": ({"latents": torch.zeros(1, 4, 8, 8), "width": 72}, "width is 72, allowed with these latents: 64"),
    "layers": ({"clip_skip": 50}, "clip_skip is 50, allowed with this text encoder: 0 to "),
    "generators": ({"generator": [seeded(), seeded()]}, "generator has 2 entries, allowed: one for each of the 1 images"),
    "generator": ({"generator": 7}, "generator is 7, allowed: a torch.Generator"),
    "output": ({"output_type": "jpeg"}, "output_type is 'jpeg', allowed: pil, np, pt, latent"),
    "strength": ({"strength": 0.5}, "strength is 0.5, allowed with image alone"),
    "image": ({"image": "photo.png"}, "image is 'photo.png', allowed: one picture"),
    "setting": ({"scale": 9}, "scale is 9, allowed: 1 to 8"),
    "target": ({"target_width": 1024}, "target_width is 1024, allowed: 0, or 64 to 512 for this base image"),
    "unknown": ({"scael": 2}, r"unknown argument .scael. \(the nearest is scale\)"),
    "sampler": ({"phase_sampler": "Eulr"}, "phase_sampler is 'Eulr', allowed: same, DPM"),
    "files": ({"resume": "x.safetensors"}, "resume is 'x.safetensors', allowed: ''"),
    "tensors": (
        {"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]},
        r"callback_on_step_end_tensor_inputs is \['prompt_embeds'\], allowed: \['latents'\]",
    ),
    "callback": ({"callback_on_step_end": 3}, "callback_on_step_end is 3, allowed: a function"),
    "adapter": ({"ip_adapter_image": Image.new("RGB", (8, 8))}, "ip_adapter_image is given, allowed with a pipeline that"),
    "masks": ({"cross_attention_kwargs": {"ip_adapter_masks": []}}, "cross_attention_kwargs has ip_adapter_masks, allowed: scale"),
    "too few": ({"phase_sampler": "DPM fast", "steps": 3}, "steps is 3, allowed in phases with DPM fast: 4 or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_one_line_before_anything_is_drawn(
    case: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, words = BAD[case]
    pipe = make()
    monkeypatch.setitem(vars(pipe.unet), "forward", None)
    with pytest.raises(ValueError, match=words) as raised:
        ours(pipe)(**{"prompt": "a red disc", **named})
    assert "\n" not in str(raised.value)


def test_pipelines_that_are_not_supported_are_refused_by_name(make: Make) -> None:
    inpainting = make(kind=StableDiffusionInpaintPipeline, image_encoder=None)
    with pytest.raises(ValueError, match="pipe is 'StableDiffusionInpaintPipeline', allowed: StableDiffusionPipeline"):
        DemoFusionPipeline.from_pipe(inpainting)
    with pytest.raises(ValueError, match="pipe is None|pipe is 'NoneType'"):
        DemoFusionPipeline.from_pipe(None)
    with pytest.raises(ValueError, match="which was trained for the scheduler EDMEulerScheduler"):
        DemoFusionPipeline.from_pipe(make(scheduler=EDMEulerScheduler()))
    with pytest.raises(ValueError, match="which has a VAE of 8 px to a cell and 3 channels"):
        small = vae()
        small.register_to_config(latent_channels=3)
        DemoFusionPipeline.from_pipe(make(vae=small))
    demo = ours(make())
    demo.scheduler = IPNDMScheduler()
    with pytest.raises(ValueError, match="IPNDMScheduler"):
        demo("a red disc")


def test_the_safety_checker_sees_the_last_picture(make: Make) -> None:
    class Checked(StableDiffusionPipeline):
        def run_safety_checker(self, image: torch.Tensor, device: object, dtype: object) -> tuple[Any, list[bool]]:
            assert image.shape == (2, 3, 128, 128)
            return torch.stack([torch.zeros_like(image[0]), image[1]]), [True, False]

    pipe = make()
    checked = Checked(**pipe.components, requires_safety_checker=False)
    checked.safety_checker = "there is one"
    result = ours(checked)(["a red disc"] * 2, preset="fast", num_inference_steps=2)
    assert result.nsfw_content_detected == [True, False]
    assert np.asarray(result.images[0]).max() == 0 and np.asarray(result.images[1]).max() > 0


def test_the_package_is_cheap_until_the_pipeline_is_asked_for() -> None:
    """The webui has no diffusers."""
    program = (
        "import sys\n"
        "sys.modules.update(torch=None, diffusers=None)  # an import of one fails\n"
        "import demofusion_lib\n"
        "print(sorted({'numpy', 'PIL', 'tqdm'} & set(sys.modules)))\n"
        "try:\n    demofusion_lib.DemoFusionPipeline\n"
        "except ModuleNotFoundError as error:\n    print(error.name)\n"
        "try:\n    demofusion_lib.Nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout.splitlines() == ["[]", "torch", "module 'demofusion_lib' has no attribute 'Nothing'"], run.stderr


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_regions_are_encoded_by_the_pipeline(name: str, make: Make) -> None:
    """Halves of the same prompt are that prompt for the whole of the phases, in a batch too."""
    demo, halves = (
        ours(make(name)),
        [{"prompt": "blue", "box": [0, 0, 0.5, 1]}, {"prompt": "blue", "box": [0.5, 0, 1, 1]}],
    )

    def drawn(**settings: Any) -> torch.Tensor:
        settings = {"scale": 2, "preset": "fast", "num_images_per_prompt": 2, **settings, **FEW}
        return demo("a red disc", negative_prompt="dark", generator=seeded(), **settings).images

    both, whole, plain = drawn(regions=halves), drawn(phase_prompt="blue"), drawn()
    assert float((both - whole).norm() / whole.norm()) < 1e-5 < float((whole - plain).norm() / whole.norm())
