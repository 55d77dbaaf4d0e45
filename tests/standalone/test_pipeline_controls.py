"""`DemoFusionPipeline` over pipelines with ControlNets: phase 1 is the pipeline's own, the phases follow the hint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.hooks import CpuOffload, add_hook_to_module
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image

from demofusion_lib import DemoFusionPipeline
from demofusion_lib.hints import LINES, SMOOTH
from demofusion_lib.params import Params
from demofusion_lib.standalone.borrowed import Borrowed
from demofusion_lib.standalone.controls import Control
from demofusion_lib.standalone.drawing import Drawing, Order
from demofusion_lib.standalone.guidance import Guided
from demofusion_lib.standalone.lent_controls import LentControls
from demofusion_lib.standalone.models import Model

from .test_controls import FORMS, LOCAL, Adding, LinearNet, draws, mapped, net_for, noise_of
from .test_pipeline import ip_adapted, ours, seeded

PLAIN = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
TEXT = {"sd": StableDiffusionControlNetPipeline, "sdxl": StableDiffusionXLControlNetPipeline}
IMAGE = {"sd": StableDiffusionControlNetImg2ImgPipeline, "sdxl": StableDiffusionXLControlNetImg2ImgPipeline}
FEW = {"num_inference_steps": 4, "guidance_scale": 4.0, "output_type": "latent"}
FAST = {**FEW, "scale": 2, "preset": "fast"}
PICTURE = Image.effect_noise((64, 64), 90).convert("RGB")
Make = Callable[..., Any]


def as_picture(hint: torch.Tensor) -> Image.Image:
    return Image.fromarray(hint[0].permute(1, 2, 0).mul(255).round().byte().numpy())


HINT = as_picture(draws(1, 1, 3, 64, 64))


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: kind.from_pretrained(str(folders[name])) for name, kind in PLAIN.items()}


@pytest.fixture(scope="module")
def nets(models: dict[str, Model]) -> dict[str, Any]:
    return {name: net_for(models[name]) for name in PLAIN}


@pytest.fixture
def make(plain: dict[str, Any], nets: dict[str, Any]) -> Make:
    """A pipeline of the same parts; `count` ControlNets, one of several where it is told."""

    def made(name: str = "sd", kinds: dict[str, Any] = TEXT, count: int = 0, **parts: Any) -> Any:
        net = parts.pop("controlnet", nets[name])
        flags = {"requires_safety_checker": False} if name == "sd" else {}
        parts = {**plain[name].components, "controlnet": [net] * count if count else net, **flags, **parts}
        pipe = kinds[name](**parts)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def hinted(kinds: dict[str, Any], hint: Any) -> dict[str, Any]:
    return {"image": hint} if kinds is TEXT else {"image": PICTURE, "control_image": hint, "strength": 0.8}


@pytest.mark.parametrize("kinds", [TEXT, IMAGE], ids=["text", "image"])
@pytest.mark.parametrize("name", PLAIN)
def test_phase_1_is_the_pipeline_s_own_picture_and_the_phases_see_the_hint(
    name: str, kinds: dict[str, Any], make: Make
) -> None:
    pipe = make(name, kinds)
    named = {**hinted(kinds, HINT), "controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.9}
    theirs = pipe("a red disc", generator=seeded(), **named, **FEW)[0]
    demo = ours(pipe)
    drawn = demo("a red disc", generator=seeded(), **named, **FAST).images
    assert far(demo.finished[0].latent, theirs) < 1e-5 and drawn.shape == (1, 4, 16, 16)
    without = demo("a red disc", generator=seeded(), **{**named, "controlnet_conditioning_scale": 0}, **FAST).images
    assert far(drawn, without) > 0.05
    if kinds is TEXT:  # as if there were no ControlNet
        bare = ours(PLAIN[name](**_bare(pipe)))("a red disc", generator=seeded(), **FAST).images
        assert torch.equal(bare, without)


def _bare(pipe: Any) -> dict[str, Any]:
    flags = {} if "XL" in type(pipe).__name__ else {"requires_safety_checker": False}
    return {**{name: part for name, part in pipe.components.items() if name != "controlnet"}, **flags}


@pytest.mark.parametrize("kinds", [TEXT, IMAGE], ids=["text", "image"])
@pytest.mark.parametrize("name", PLAIN)
def test_several(name: str, kinds: dict[str, Any], make: Make) -> None:
    """Two of half the weight are one; what belongs to each stands in lists."""
    pipe = make(name, kinds, count=2)
    other = as_picture(draws(2, 1, 3, 64, 64))
    named = {**hinted(kinds, [HINT, other]), "controlnet_conditioning_scale": [0.7, 0.2]}
    named |= {"control_guidance_start": [0.0, 0.3], "control_guidance_end": [0.5, 1.0]}
    theirs = pipe("a red disc", generator=seeded(), **named, **FEW)[0]
    demo = ours(pipe)
    demo("a red disc", generator=seeded(), **named, **FAST)
    assert far(demo.finished[0].latent, theirs) < 1e-5
    halves = demo(
        "a red disc", generator=seeded(), **hinted(kinds, (HINT, HINT)), controlnet_conditioning_scale=0.5, **FAST
    )
    whole = ours(make(name, kinds))(
        "a red disc", generator=seeded(), **hinted(kinds, HINT), controlnet_conditioning_scale=1, **FAST
    )
    assert far(halves.images, whole.images) < 1e-4


@pytest.mark.parametrize("name", PLAIN)
def test_the_phases_are_the_command_line_s(
    name: str, make: Make, models: dict[str, Model], nets: dict[str, Any]
) -> None:
    """With the same hint at its own size, from the same phase 1 and seed."""
    demo, hint = ours(make(name)), draws(3, 1, 3, 128, 128)
    named = {"controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.6}
    settings = {"scale": 2, "preset": "fast", "steps": 3}
    drawn = demo(
        "a red disc",
        negative_prompt="blue",
        image=hint,
        height=64,
        width=64,
        generator=seeded(),
        **named,
        **settings,
        **FEW,
    )
    generator = seeded()
    torch.randn(1, 4, 8, 8, generator=generator)  # phase 1's
    seed = int(torch.randint(2**63 - 1, (), generator=generator))

    class Same(Drawing):
        def _base(self) -> Any:
            return demo.finished[0]

    params = Params.from_names({**settings, "enabled": True})
    control = Control(nets[name], hint, SMOOTH, 0.8, 0.0, 0.6)
    order = Order(["a red disc"], [seed], 64, 64, params, "blue", 4, "DDIM", guidance=4.0, controls=[control])
    expected = list(Same(models[name], order).phases())[-1].latent
    assert far(drawn.images, expected) < 1e-5


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Guided, torch.Tensor]]:
    """The guided network of each phase, and a latent of its size; nothing is sampled."""
    found: list[tuple[Guided, torch.Tensor]] = []

    def sample(self: Borrowed, guided: Guided, x: torch.Tensor, *_: Any) -> torch.Tensor:
        found.append((guided, x))
        return x

    monkeypatch.setattr(Borrowed, "_sample", sample)
    return found


def linearly(sample: torch.Tensor, timestep: torch.Tensor, **named: Any) -> Any:
    return LinearNet()(sample, timestep, **named)


@pytest.fixture
def linear(make: Make, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> Make:
    """A pipeline whose noise is a known linear map of the hints."""

    def made(kinds: dict[str, Any] = TEXT, count: int = 1) -> DemoFusionPipeline:
        built = [net_for(models["sd"]) for _ in range(count)]
        for net in built:
            net.forward = linearly
        pipe = make("sd", kinds, controlnet=built if count > 1 else built[0])
        monkeypatch.setitem(vars(pipe.unet), "forward", Adding().forward)
        return ours(pipe)

    return made


@pytest.mark.parametrize(
    ("hint_px", "asked"),
    [
        ((128, 128), {"height": 64, "width": 64}),
        ((128, 256), {"height": 64, "width": 64}),  # squeezed, as diffusers does for phase 1
        ((256, 192), {"height": 64, "width": 96}),
        ((64, 96), {}),  # whose size is phase 1's
        ((66, 103), {}),
        ((256, 256), {"height": 64, "width": 64, "target_width": 96, "target_height": 128}),  # cropped
    ],
)
def test_a_linear_map_of_the_hint_comes_out_as_of_the_whole(
    hint_px: tuple[int, int], asked: dict[str, Any], linear: Make, seen: list[tuple[Guided, torch.Tensor]]
) -> None:
    hint = draws(4, 1, 3, *hint_px)
    demo = linear()
    demo("a red disc", image=hint, controlnet_conditioning_scale=0.5, **{**FAST, **asked})
    first, last = demo.finished
    base_px = asked.get("height", hint_px[0] // 8 * 8), asked.get("width", hint_px[1] // 8 * 8)
    assert tuple(8 * side for side in first.latent.shape[-2:]) == base_px
    size_px = tuple(8 * side for side in last.latent.shape[-2:])
    kept = hint if size_px == tuple(2 * side for side in base_px) else hint[..., 32:-32]
    less = min(kept.shape[-2], size_px[0]), min(kept.shape[-1], size_px[1])
    sized = F.interpolate(kept, less, mode="area")
    expected = 0.5 * mapped(sized if less == size_px else F.interpolate(sized, size_px, mode="bicubic").clamp(0, 1))
    ((guided, x),) = seen
    assert float((noise_of(guided, x, LOCAL, FORMS[0]) - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("count", [1, 2])
def test_each_prompt_has_its_own_hint_and_each_of_its_images(
    count: int, linear: Make, seen: list[tuple[Guided, torch.Tensor]]
) -> None:
    hints = draws(5, 2, 3, 128, 128)
    given: Any = hints if count == 1 else [hints, draws(6, 1, 3, 128, 128)]
    linear(count=count)(["a red disc", "blue"], image=given, height=64, width=64, num_images_per_prompt=2, **FAST)
    ((guided, x),) = seen
    expected = mapped(hints).repeat_interleave(2, dim=0)
    expected = expected if count == 1 else expected + mapped(given[1])
    assert float((noise_of(guided, x, LOCAL, FORMS[0]) - expected).abs().max()) < 1e-5


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> list[Control]:
    """The controls that the phases are given."""
    found, for_phases = list[Control](), LentControls.for_phases

    def noted(self: LentControls) -> Sequence[Control]:
        controls = for_phases(self)
        found.extend(controls)
        return controls

    monkeypatch.setattr(LentControls, "for_phases", noted)
    return found


def test_a_batch_s_phase_1_is_the_pipeline_s_own(make: Make, lent: list[Control]) -> None:
    """Hints in lists, one for each prompt, as diffusers has them; of several sizes."""
    one, other, third = (as_picture(draws(seed, 1, 3, 64, 64) * seed / 3) for seed in (1, 2, 3))
    larger = other.resize((128, 128))
    prompts = {"prompt": ["a red disc", "blue"], "num_images_per_prompt": 2}
    for pipe, hints in ((make(), [one, larger]), (make(count=2), [[one, larger], [third, one]])):
        named = {**prompts, "image": hints, "height": 64, "width": 64}
        theirs = pipe(generator=seeded(), **named, **FEW).images
        assert torch.equal(ours(pipe)(generator=seeded(), enabled=False, **named, **FEW).images, theirs)
    means = [[float(image.mean()) for image in control.hint[::2]] for control in lent]
    wanted = [(one, other), (one, third), (other, one)]  # of each ControlNet, by prompt
    for found, pictures in zip(means, wanted, strict=True):
        assert np.allclose(found, [np.asarray(picture).mean() / 255 for picture in pictures], atol=0.01)


def test_a_hint_is_read_in_all_forms_of_diffusers(make: Make, lent: list[Control]) -> None:
    demo, values = ours(make()), np.asarray(HINT).astype("float32") / 255
    named = {**FEW, "num_inference_steps": 1, "enabled": False}
    first = demo("a red disc", image=HINT, generator=seeded(), **named).images
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    forms = [[HINT], values, values[None], [values], tensor, tensor[None], [tensor], HINT.convert("RGBA")]
    for form in forms:
        assert far(demo("a red disc", image=form, generator=seeded(), **named).images, first) < 1e-5
    assert len(lent) == 1 + len(forms) and all(torch.equal(one.hint, tensor[None]) for one in lent)


def test_lines_stay_lines(make: Make, lent: list[Control]) -> None:
    """A hint's kind is told by its look, as `--hint-kind auto` tells it."""
    lines = torch.zeros(1, 3, 64, 64)
    lines[..., ::9] = 1
    ours(make(count=2))("a red disc", image=[lines, draws(1, 1, 3, 64, 64)], enabled=False, **FEW)
    assert [(one.kind, one.name) for one in lent] == [(LINES, "ControlNetModel"), (SMOOTH, "ControlNetModel")]


def test_each_is_asked_on_its_part_of_the_way(make: Make, models: dict[str, Model]) -> None:
    built = [net_for(models["sd"]) for _ in range(2)]
    demo, asked = ours(make(controlnet=built)), []
    for number, net in enumerate(built):

        def forward(
            sample: Any, timestep: Any, *, number: int = number, forward: Any = net.forward, **named: Any
        ) -> Any:
            asked.append((demo.phase, number, float(timestep.flatten()[0])))
            return forward(sample, timestep, **named)

        net.forward = forward
    spans = {"control_guidance_start": [0.0, 0.5], "control_guidance_end": [0.5, 1.0]}
    demo("a red disc", image=[HINT, HINT], preset="none", steps=6, **spans, **FEW)
    early, late = ({t for phase, number, t in asked if phase == 2 and number == net} for net in (0, 1))
    assert (early, late) == ({831, 665}, {499, 333, 167, 1})


class Held(CpuOffload):
    """Of a part that is either there or not; nothing moves."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.there, self.brought = False, 0

    def init_hook(self, module: Any) -> Any:
        self.there = False
        return module

    def pre_forward(self, module: Any, *args: Any, **named: Any) -> Any:
        self.brought += not self.there
        self.there = True
        return args, named


@pytest.mark.parametrize("count", [1, 2])
def test_an_offloaded_controlnet_is_there_in_the_phases_alone(count: int, make: Make, models: dict[str, Model]) -> None:
    """Several are hooked as one."""
    built, hook, asked = [net_for(models["sd"]) for _ in range(count)], Held(), []
    pipe = make(controlnet=built if count > 1 else built[0])
    for net in built:

        def forward(*given: Any, forward: Any = net.forward, **named: Any) -> Any:
            asked.append(hook.there)
            return forward(*given, **named)

        net.forward = forward
    demo, hints = ours(pipe), [HINT] * count if count > 1 else HINT
    named = {"image": hints, "scale": 3, "preset": "fast", "plan": "every", **FEW}
    plain = demo("a red disc", generator=seeded(), **named).images
    asked.clear()
    add_hook_to_module(pipe.controlnet, hook)
    assert torch.equal(demo("a red disc", generator=seeded(), **named).images, plain)
    assert asked and all(asked) and not hook.there
    assert hook.brought == 3  # and not there while the VAE is, between the phases


def test_its_hint_lies_where_it_computes(make: Make, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, told = make(controlnet=net_for(models["sd"])), []
    monkeypatch.setattr(Borrowed, "_sample", lambda self, guided, x, *_: told.append(guided.steering.shown[0]) or x)
    plane = Control.plane
    monkeypatch.setattr(Control, "plane", lambda self, *sizes: told.append(self.where) or plane(self, *sizes))
    ours(pipe)("a red disc", image=HINT, **FAST)
    where, shown = told
    assert where == pipe._execution_device
    control = Control(pipe.controlnet, draws(1, 1, 3, 64, 64), where=torch.device("meta"))
    assert control.plane((8, 8), (8, 8), (16, 16)).device.type == "meta" and shown.plane.device.type == "cpu"


@pytest.mark.parametrize("count", [0, 2])
def test_a_compiled_controlnet(count: int, make: Make) -> None:
    """The wrapper that torch.compile answers."""
    pipe, hints = make(count=count), [HINT, HINT] if count else HINT
    plain = ours(pipe)("a red disc", image=hints, generator=seeded(), **FAST).images
    pipe.controlnet = torch._dynamo.OptimizedModule(pipe.controlnet, lambda function: function)
    assert torch.equal(ours(pipe)("a red disc", image=hints, generator=seeded(), **FAST).images, plain)


def test_img2img_of_another_size(make: Make) -> None:
    """Both are resized to what is asked for, or the hint to the picture."""
    pipe = make(kinds=IMAGE)
    picture, demo = PICTURE.resize((72, 64)), ours(pipe)
    named = {"image": picture, "control_image": HINT, "strength": 0.8, **FEW}
    theirs = pipe("a red disc", generator=seeded(), height=64, width=80, **named)[0]
    assert demo("a red disc", generator=seeded(), height=64, width=80, **named).images.shape[-2:] == (16, 20)
    assert torch.equal(demo.finished[0].latent, theirs)
    assert demo("a red disc", generator=seeded(), **named).images.shape[-2:] == (16, 18)


def test_a_picture_of_one_s_own_with_a_hint(make: Make) -> None:
    """In phase 1's place, with a pipeline that draws from text."""
    demo = ours(make())
    named = {**FEW, "image": PICTURE, "scale": 1.5, "strength": 0.7}
    one, other = (
        demo("a red disc", control_image=hint, generator=seeded(), **named).images for hint in (HINT, HINT.rotate(90))
    )
    assert one.shape[-2:] == (12, 12) and far(one, other) > 1e-3 and demo.finished[0].picture is not None
    with pytest.raises(ValueError, match="strength is 0, allowed with ControlNets above 0 alone"):
        demo("a red disc", control_image=HINT, image=PICTURE, strength=0)


def test_beside_an_ip_adapter(
    plain: dict[str, Any], make: Make, models: dict[str, Model], folders: dict[str, Path]
) -> None:
    torch.manual_seed(3)
    own = ip_adapted(StableDiffusionXLPipeline.from_pretrained(str(folders["sdxl"])))
    pipe = make("sdxl", unet=own.unet)
    named = {"ip_adapter_image_embeds": [torch.randn(2, 1, 6)], "image": HINT}
    theirs = pipe("a red disc", generator=seeded(), **named, **FEW).images
    demo = ours(pipe)
    assert torch.isfinite(demo("a red disc", generator=seeded(), **named, **FAST).images).all()
    assert torch.equal(demo.finished[0].latent, theirs)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no hint": ({"image": None}, "image is None, allowed with StableDiffusionControlNetPipeline: a hint for its ControlNet"),
    "hint": ({"image": "edges.png"}, "image is 'edges.png', allowed: what diffusers takes for a hint: a PIL image"),
    "bytes": ({"image": np.full((64, 64, 3), 255, "uint8")}, "image has values from 255 to 255, allowed: .* values in"),
    "signed": ({"image": draws(1, 1, 3, 64, 64) - 0.5}, "image has values from -0.4"),
    "nan": ({"image": torch.full((1, 3, 64, 64), float("nan"))}, "image has values from nan to nan"),
    "channels": ({"image": torch.zeros(1, 4, 64, 64)}, r"image is read as a tensor \(1, 4, 64, 64\), allowed: what"),
    "tiny": ({"image": torch.zeros(1, 3, 4, 64)}, r"image is read as a tensor \(1, 3, 4, 64\), allowed: .* 8 to"),
    "pictures": ({"image": torch.zeros(3, 3, 64, 64)}, r"image has 3 pictures, allowed: one, or one for each prompt \(1\)"),
    "named": ({"control_image": [3], "image": None}, "control_image is a list of 1, allowed: what diffusers takes"),
    "scale": ({"controlnet_conditioning_scale": "much"}, "controlnet_conditioning_scale is 'much', allowed: 0 to 10"),
    "scales": ({"controlnet_conditioning_scale": [1, 1]}, r"controlnet_conditioning_scale has 2 entries, .*ControlNet \(1\)"),
    "end": ({"control_guidance_end": 1.1}, "control_guidance_end is 1.1, allowed: 0 to 1"),
    "span": ({"control_guidance_start": 0.5, "control_guidance_end": [0.5]}, "control_guidance_start is 0.5, allowed: below"),
    "guess": ({"guess_mode": True}, "guess_mode is True, allowed: False"),
    "strength": ({"strength": 0.5}, "strength is 0.5, allowed with image alone"),
    "height": ({"height": 60}, "height is 60, allowed: whole numbers 8"),
}  # fmt: skip
BAD_SEVERAL: dict[str, tuple[dict[str, Any], str]] = {
    "one for all": ({"image": HINT}, "image is <PIL.* allowed: a list, an entry for each ControlNet"),
    "too few": ({"image": [HINT]}, r"image has 1 entries, allowed: one for each ControlNet \(2\)"),
    "lists": ({"image": [HINT, [HINT, HINT]]}, "image has lists in it, allowed: for each prompt one of 2 hints"),
    "prompts": ({"image": [[HINT, HINT]] * 2}, r"image has 2 pictures, allowed: one, or one for each prompt \(1\)"),
    "scales": ({"image": [HINT, HINT], "controlnet_conditioning_scale": [1]}, "controlnet_conditioning_scale has 1 entries"),
}  # fmt: skip


@pytest.mark.parametrize("case", [*BAD, *(f"several: {case}" for case in BAD_SEVERAL)])
def test_bad_input_is_told_in_one_line_before_anything_is_drawn(
    case: str, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = case.startswith("several: ")
    named, words = BAD_SEVERAL[case.removeprefix("several: ")] if several else BAD[case]
    pipe = make(count=2 if several else 0)
    monkeypatch.setitem(vars(pipe.unet), "forward", None)
    with pytest.raises(ValueError, match=words) as raised:
        ours(pipe)(**{"prompt": "a red disc", "image": HINT, **named})
    assert "\n" not in str(raised.value)


def test_lists_for_prompts_that_diffusers_does_not_take(make: Make) -> None:
    with pytest.raises(ValueError, match="image has lists in it, allowed: tensors of a hint for each prompt"):
        ours(make("sdxl", count=2))(["a red disc", "blue"], image=[[HINT, HINT]] * 2, **FEW)
    with pytest.raises(
        ValueError, match="control_image is None, allowed with StableDiffusionControlNetImg2ImgPipeline"
    ):
        ours(make(kinds=IMAGE))("a red disc", image=PICTURE, **FEW)
    with pytest.raises(ValueError, match="height is 72, allowed with this image: 64"):
        ours(make(kinds=IMAGE))("a red disc", image=torch.zeros(1, 4, 8, 8), control_image=HINT, height=72, **FEW)


def test_what_has_no_controlnet_takes_no_hint(plain: dict[str, Any]) -> None:
    for name, value in (("control_image", HINT), ("control_guidance_end", 0.5)):
        with pytest.raises(ValueError, match=f"{name} is given, allowed with StableDiffusionControlNetPipeline, "):
            ours(plain["sd"])("a red disc", **{name: value})


def test_what_is_not_supported_is_refused_by_name(make: Make, models: dict[str, Model], nets: dict[str, Any]) -> None:
    def refused(words: str, *given: Any, **named: Any) -> None:
        with pytest.raises(ValueError, match=words):
            DemoFusionPipeline.from_pipe(make(*given, **named))

    refused(
        "pipe is 'StableDiffusionControlNetInpaintPipeline', allowed:",
        kinds={"sd": StableDiffusionControlNetInpaintPipeline},
    )
    refused("which has no controlnet", controlnet=None)
    refused(
        "which carries a ControlNet that was made for another UNet: its cross_attention_dim", controlnet=nets["sdxl"]
    )
    pooling = ControlNetModel.from_unet(models["sd"].unet)
    pooling.register_to_config(global_pool_conditions=True)
    refused("which carries a ControlNet with global_pool_conditions, supported", controlnet=pooling)
    refused("which carries a 'UNet2DConditionModel', supported: ControlNetModel", controlnet=models["sd"].unet)
