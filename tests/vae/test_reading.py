"""Which modules are read, and which are left to the host's own decoder."""

from __future__ import annotations

import ast
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, SpatialNorm
from torch import nn

import demofusion_lib.vae
from demofusion_lib.vae import Unreadable, decode, encode

from .support import ROOMY, diffusers_vae, ldm_vae, noise, psnr, undivided

Change = Callable[[Any], Any]


def decoded(vae: Any) -> torch.Tensor:
    return decode(vae, noise(1, 4, 9, 9), memory=ROOMY, tile_lat=8)


def give_pre_end(vae: Any) -> None:
    vae.decoder.give_pre_end = True


def instance_forward(vae: Any) -> None:
    """multidiffusion-upscaler's tiled VAE does this to the decoder."""
    vae.decoder.forward = lambda z: z


def instance_conv_forward(vae: Any) -> None:
    """Extensions that tile along one axis do this to every convolution."""
    conv = vae.decoder.conv_in
    conv._conv_forward = types.MethodType(lambda self, *given: nn.Conv2d._conv_forward(self, *given), conv)


def instance_decode(vae: Any) -> None:
    vae.decode = lambda z: z


def leaf_hook(vae: Any) -> None:
    vae.decoder.conv_out.register_forward_hook(lambda module, given, made: made * 2)


def leaf_pre_hook(vae: Any) -> None:
    vae.post_quant_conv.register_forward_pre_hook(lambda module, given: None)


def whole_hook(vae: Any) -> None:
    vae.register_forward_pre_hook(lambda module, given: None)


def sequential_offload(vae: Any) -> None:
    accelerate.cpu_offload(vae, torch.device("cpu"))


def on_meta(vae: Any) -> None:
    vae.to("meta")


def layer_norm(vae: Any) -> None:
    norm = vae.decoder.norm_out if hasattr(vae.decoder, "norm_out") else vae.decoder.conv_norm_out
    vae.decoder.norm_out = vae.decoder.conv_norm_out = nn.BatchNorm2d(norm.num_channels)


def reflected(vae: Any) -> None:
    vae.decoder.conv_in.padding_mode = "reflect"


def dilated(vae: Any) -> None:
    vae.decoder.conv_in.dilation = (2, 2)


def training(vae: Any) -> None:
    for module in vae.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    vae.train()


def other_conv(vae: Any) -> None:
    class Doubled(nn.Conv2d):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return super().forward(given) * 2

    vae.decoder.conv_in.__class__ = Doubled


def coarse_weights(vae: Any) -> None:
    vae.to(torch.float8_e4m3fn)


BOTH = [
    instance_forward, instance_conv_forward, instance_decode, leaf_hook, leaf_pre_hook, whole_hook, sequential_offload,
    on_meta, layer_norm, reflected, dilated, training, other_conv, coarse_weights,
]  # fmt: skip


@pytest.mark.parametrize("change", BOTH, ids=lambda change: change.__name__)
@pytest.mark.parametrize("make", [diffusers_vae, ldm_vae], ids=["diffusers", "ldm"])
def test_what_others_changed_is_not_read(make: Any, change: Change) -> None:
    vae = make()
    change(vae)
    with pytest.raises(Unreadable):
        decoded(vae)


def gated_ldm(vae: Any) -> None:
    class LinAttnBlock(nn.Module):
        pass

    vae.decoder.mid.attn_1 = LinAttnBlock()


def plain_upsample(vae: Any) -> None:
    vae.decoder.up[1].upsample.with_conv = False


@pytest.mark.parametrize("change", [give_pre_end, gated_ldm, plain_upsample], ids=lambda change: change.__name__)
def test_ldm_options_that_are_not_read(change: Change) -> None:
    vae = ldm_vae()
    change(vae)
    with pytest.raises(Unreadable):
        decoded(vae)


def other_attention(vae: Any) -> None:
    class Odd(AttnProcessor):
        pass

    vae.decoder.mid_block.attentions[0].processor = Odd()


def spatial_norm(vae: Any) -> None:
    vae.decoder.mid_block.attentions[0].spatial_norm = SpatialNorm(32, 32)


def gelu(vae: Any) -> None:
    vae.decoder.up_blocks[0].resnets[0].nonlinearity = nn.GELU()


def group_offload(vae: Any) -> None:
    """What newer diffusers do to each block."""
    vae.decoder.mid_block.forward = lambda *given: given[0]


@pytest.mark.parametrize(
    "change", [other_attention, spatial_norm, gelu, group_offload], ids=lambda change: change.__name__
)
def test_diffusers_parts_that_are_not_read(change: Change) -> None:
    vae = diffusers_vae()
    change(vae)
    with pytest.raises(Unreadable):
        decoded(vae)


@pytest.mark.parametrize(
    "make",
    [
        lambda: diffusers.AutoencoderTiny(),
        lambda: diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4),
        lambda: diffusers.AutoencoderKLTemporalDecoder(block_out_channels=(32,)),
        lambda: nn.Identity(),
        lambda: None,
    ],
    ids=["tiny", "vq", "temporal", "identity", "none"],
)
def test_other_classes_are_not_read(make: Callable[[], Any]) -> None:
    with pytest.raises(Unreadable, match="readable: AutoencoderKL"):
        decoded(make())


def test_the_unread_is_told_before_any_work() -> None:
    vae, told = diffusers_vae(), []
    leaf_hook(vae)
    with pytest.raises(Unreadable):
        decode(vae, noise(1, 4, 9, 9), told=told.append, on_tile=lambda *count: told.append(count))
    assert told == []


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_what_is_put_back_is_its_own(part: str) -> None:
    """Another extension leaves a coder's forward on the instance, bound, once it is off."""
    vae, other = diffusers_vae(), diffusers_vae()
    latent, coder = noise(1, 4, 9, 9), getattr(vae, part)
    whole = undivided(vae, latent)
    coder.forward = coder.forward
    assert psnr(decoded(vae), whole) > 100 and encode(vae, noise(1, 3, 64, 64)).shape == (1, 8, 8, 8)
    coder.forward = getattr(other, part).forward
    with pytest.raises(Unreadable):
        decoded(vae) if part == "decoder" else encode(vae, noise(1, 3, 64, 64))


def test_a_changed_encoder_stops_no_decode() -> None:
    vae = diffusers_vae()
    vae.encoder.forward = lambda image: image
    assert decoded(vae).shape == (1, 3, 72, 72)
    with pytest.raises(Unreadable):
        encode(vae, noise(1, 3, 64, 64))


def test_the_webui_s_medvram_is_known() -> None:
    """It hooks the whole module and wraps its encode and decode; the host's adapter brings the module to the device."""
    vae, latent = ldm_vae(), noise(1, 4, 9, 9)
    whole = undivided(vae, latent)

    def send_me_to_gpu(module: Any, given: Any) -> None:
        raise AssertionError("the adapter calls it")

    def first_stage_model_decode_wrap(z: torch.Tensor) -> torch.Tensor:
        raise AssertionError("not asked")

    vae.register_forward_pre_hook(send_me_to_gpu)
    vae.decode = first_stage_model_decode_wrap
    assert psnr(decoded(vae), whole) > 100


def test_hypertile_is_known_while_it_is_off() -> None:
    """Switched on once, the webui leaves its wrapper on the attention; only while it is on it changes the sum."""
    vae, latent = ldm_vae(), noise(1, 4, 9, 9)
    attention = vae.decoder.mid.attn_1
    params = types.SimpleNamespace(enabled=False)
    setattr(attention, "__webui_hypertile_params", params)
    own = attention.forward
    attention.forward = lambda *args: own(*args)
    assert psnr(decoded(vae), undivided(vae, latent)) > 100
    params.enabled = True
    with pytest.raises(Unreadable):
        decoded(vae)


def test_accelerate_s_whole_model_offload_is_called() -> None:
    vae, latent = diffusers_vae(), noise(1, 4, 9, 9)
    whole = undivided(vae, latent)
    accelerate.cpu_offload_with_hook(vae, torch.device("cpu"))
    called = []
    before = vae._hf_hook.pre_forward
    vae._hf_hook.pre_forward = lambda module, *given, **more: (called.append(module), before(module, *given, **more))[1]
    assert psnr(decode(vae, latent, memory=ROOMY), whole) > 100
    assert called == [vae]


def test_class_wide_replacements_of_the_same_sum_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The webui replaces AttnBlock's forward on the class by the optimisation it was told to use."""
    vae, latent = ldm_vae(), noise(1, 4, 9, 9)
    whole = undivided(vae, latent)
    monkeypatch.setattr(type(vae.decoder.mid.attn_1), "forward", lambda self, x: 1 / 0)
    assert psnr(decoded(vae), whole) > 100


def test_diffusers_own_tiling_is_not_in_the_way() -> None:
    vae, latent = diffusers_vae(), noise(1, 4, 90, 9)
    whole = undivided(vae, latent)
    vae.enable_tiling()
    vae.enable_slicing()
    assert psnr(decode(vae, latent, memory=ROOMY, tile_lat=8), whole) > 100


@pytest.mark.parametrize(
    "path", sorted(Path(demofusion_lib.vae.__file__).parent.glob("*.py")), ids=lambda path: path.name
)
def test_it_imports_torch_and_itself(path: Path) -> None:
    """It stands beside the core, and knows neither that nor the settings nor a host."""
    allowed = {"torch", "__future__", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or (node.level == 0 and str(node.module).split(".")[0] in allowed)


class Casting(nn.Conv2d):
    """As Forge's family has its layers: plain, unless they are told to change their weights on the way."""

    __module__ = "ldm_patched.modules.ops"
    ldm_patched_cast_weights = False

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        made = super().forward(given)
        return made * 2 if self.ldm_patched_cast_weights else made


def of_forge(vae: Any, name: str = "AutoencoderKL") -> Any:
    for module in vae.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Casting
    vae.__class__ = type(name, (type(vae),), {})
    return vae


@pytest.mark.parametrize("name", ["AutoencoderKL", "IntegratedAutoencoderKL"])
def test_the_layers_of_forge(name: str) -> None:
    latent, vae = noise(1, 4, 9, 9), of_forge(ldm_vae(), name)
    assert psnr(decode(vae, latent, memory=ROOMY, tile_lat=8), undivided(vae, latent)) > 80


def test_layers_of_forge_that_change_their_weights() -> None:
    vae = of_forge(ldm_vae())
    vae.decoder.conv_in.ldm_patched_cast_weights = True
    with pytest.raises(Unreadable, match="the webui moves or casts its weights layer by layer"):
        decoded(vae)
