"""The two layouts of AutoencoderKL, ldm's (sgm's) and diffusers', read from the module itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .errors import Unreadable
from .program import Attend, Conv, Norm, Program, Step, Sweep

PRECISIONS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
CLASSES = ("AutoencoderKL", "AutoencoderKLInferenceWrapper", "IntegratedAutoencoderKL")
"""The second is sgm's, with an `encode` that draws; the third Forge's."""
LDM_ATTENTION = ("AttnBlock", "MemoryEfficientAttnBlock")
PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor")
WRAPS = ("first_stage_model_encode_wrap", "first_stage_model_decode_wrap", "tiled_decode")
"""What may stand in the place of the module's own: the webui's, for --medvram, and our adapter there."""
CASTING = ("ldm_patched.modules.ops", "backend.operations")
CASTS = ("ldm_patched_cast_weights", "weight_function", "bias_function", "parameters_manual_cast")
"""The modules that the layers of reForge and Forge come from, and what says that they change their weights."""
PRE_HOOK = "send_me_to_gpu"  # likewise


def read_decoder(vae: Any) -> Program:
    """Raises Unreadable."""
    reader = _Reader(vae)
    return reader.program(reader.decoder)


def read_encoder(vae: Any) -> Program:
    """Raises Unreadable."""
    reader = _Reader(vae)
    return reader.program(reader.encoder)


class _Reader:
    def __init__(self, vae: Any):
        if not isinstance(vae, nn.Module) or type(vae).__name__ not in CLASSES:
            raise Unreadable(f"the VAE is a {type(vae).__name__}, readable: {CLASSES[0]}")
        self.vae = vae
        self.names = {module: name for name, module in vae.named_modules()}
        self.is_diffusers = hasattr(getattr(vae, "decoder", None), "up_blocks")

    def program(self, read: Callable[[], Iterator[Step]]) -> Program:
        try:
            steps = tuple(read())
        except (AttributeError, TypeError, IndexError, KeyError) as error:
            raise Unreadable(f"the VAE is laid out in another way ({error})") from error
        first = steps[0]
        assert isinstance(first, Sweep)
        return Program(steps, first.conv.inputs, first.conv.weight.device)

    # -- the whole ways

    def decoder(self) -> Iterator[Step]:
        decoder = self.vae.decoder
        self.check_tree(decoder, getattr(self.vae, "post_quant_conv", None))
        yield from self.pointwise(self.vae.post_quant_conv)
        yield self.plain(decoder.conv_in)
        yield from self.middle(decoder)
        if self.is_diffusers:
            for block in decoder.up_blocks:
                yield from self.level(block, "UpDecoderBlock2D", block.upsamplers, self.upsampler)
        else:
            for up in reversed(decoder.up):
                yield from self.ldm_level(up, "upsample", self.upsampler)
        if getattr(decoder, "give_pre_end", False):
            raise Unreadable("the VAE's decoder gives its values before the last layer (give_pre_end)")
        yield self.last(decoder, tanh=bool(getattr(decoder, "tanh_out", False)))

    def encoder(self) -> Iterator[Step]:
        encoder = self.vae.encoder
        self.check_tree(encoder, getattr(self.vae, "quant_conv", None))
        yield self.plain(encoder.conv_in)
        if self.is_diffusers:
            for block in encoder.down_blocks:
                yield from self.level(block, "DownEncoderBlock2D", block.downsamplers, self.downsampler)
        else:
            for down in encoder.down:
                yield from self.ldm_level(down, "downsample", self.downsampler)
        yield from self.middle(encoder)
        yield self.last(encoder)
        yield from self.pointwise(self.vae.quant_conv)

    # -- their parts

    def pointwise(self, conv: nn.Module | None) -> Iterator[Step]:
        if conv is not None:
            yield self.plain(conv)

    def plain(self, conv: nn.Module) -> Sweep:
        return Sweep(self.name(conv), self.conv(conv))

    def last(self, coder: nn.Module, tanh: bool = False) -> Sweep:
        norm = coder.conv_norm_out if self.is_diffusers else coder.norm_out
        if self.is_diffusers:
            self.check_silu(coder.conv_act)
        return Sweep(self.name(coder.conv_out), self.conv(coder.conv_out), self.norm(norm), tanh=tanh)

    def middle(self, coder: nn.Module) -> Iterator[Step]:
        if not self.is_diffusers:
            yield from self.block(coder.mid.block_1)
            yield from self.ldm_attention(coder.mid.attn_1)
            yield from self.block(coder.mid.block_2)
            return
        first, *rest = coder.mid_block.resnets
        yield from self.block(first)
        for attention, block in zip(coder.mid_block.attentions, rest, strict=True):
            if attention is not None:
                yield self.attention(attention)
            yield from self.block(block)

    def level(
        self, level: nn.Module, kind: str, samplers: Any, read: Callable[[nn.Module], Iterator[Step]]
    ) -> Iterator[Step]:
        if type(level).__name__ != kind:
            raise Unreadable(f"{self.name(level)} is a {type(level).__name__}, readable: {kind}")
        for block in level.resnets:
            yield from self.block(block)
        for sampler in samplers or ():
            yield from read(sampler)

    def ldm_level(self, level: nn.Module, name: str, read: Callable[[nn.Module], Iterator[Step]]) -> Iterator[Step]:
        for number, block in enumerate(level.block):
            yield from self.block(block)
            if len(level.attn):
                yield from self.ldm_attention(level.attn[number])
        if hasattr(level, name):
            yield from read(getattr(level, name))

    def block(self, block: nn.Module) -> Iterator[Step]:
        """A residual block."""
        if type(block).__name__ not in ("ResnetBlock", "ResnetBlock2D"):
            raise Unreadable(f"{self.name(block)} is a {type(block).__name__}, readable: a residual block")
        shortcut = getattr(block, "conv_shortcut", None) or getattr(block, "nin_shortcut", None)
        shortcut = None if shortcut is None else self.conv(shortcut)
        if shortcut is not None and shortcut.kernel != 1:
            raise Unreadable(f"{self.name(block)} has a shortcut of {shortcut.kernel} cells, readable: 1")
        if self.is_diffusers:
            self.check_silu(block.nonlinearity)
            if block.upsample is not None or block.downsample is not None or block.time_emb_proj is not None:
                raise Unreadable(f"{self.name(block)} does more than a residual block of a VAE")
            if block.time_embedding_norm not in ("default", "group"):  # the same, where no time is told
                raise Unreadable(f"{self.name(block)} is normalised by {block.time_embedding_norm!r}")
        first, second = self.conv(block.conv1), self.conv(block.conv2)
        yield Sweep(self.name(block.conv1), first, self.norm(block.norm1), target="h")
        yield Sweep(
            self.name(block.conv2), second, self.norm(block.norm2), source="h", adds=True, shortcut=shortcut,
            divide=float(getattr(block, "output_scale_factor", 1.0)),
        )  # fmt: skip

    def upsampler(self, sampler: nn.Module) -> Iterator[Step]:
        if type(sampler).__name__ not in ("Upsample", "Upsample2D"):
            raise Unreadable(f"{self.name(sampler)} is a {type(sampler).__name__}")
        if self.is_diffusers:
            plain = sampler.use_conv and not sampler.use_conv_transpose and getattr(sampler, "interpolate", True)
            if not plain or getattr(sampler, "norm", None) is not None:
                raise Unreadable(f"{self.name(sampler)} does not just double the size before its convolution")
        elif not sampler.with_conv:
            raise Unreadable(f"{self.name(sampler)} has no convolution")
        yield Sweep(self.name(sampler.conv), self.conv(sampler.conv), up=2)

    def downsampler(self, sampler: nn.Module) -> Iterator[Step]:
        """Padded by one zero at the right and the bottom, whatever its convolution's own padding mode says of none."""
        if type(sampler).__name__ not in ("Downsample", "Downsample2D"):
            raise Unreadable(f"{self.name(sampler)} is a {type(sampler).__name__}")
        with_conv = sampler.use_conv if self.is_diffusers else sampler.with_conv
        if not with_conv or getattr(sampler, "norm", None) is not None:
            raise Unreadable(f"{self.name(sampler)} does not just halve the size by its convolution")
        conv = self.conv(sampler.conv, stride=2)
        if conv.pads == (0, 0):
            conv = Conv(conv.weight, conv.bias, (0, 1), 2)
        elif not self.is_diffusers:
            raise Unreadable(f"{self.name(sampler)} is padded by {conv.pads}")
        yield Sweep(self.name(sampler.conv), conv)

    # -- attention

    def ldm_attention(self, block: nn.Module) -> Iterator[Step]:
        if isinstance(block, nn.Identity):
            return
        if type(block).__name__ not in LDM_ATTENTION:
            raise Unreadable(f"{self.name(block)} is a {type(block).__name__}, readable: {', '.join(LDM_ATTENTION)}")
        q, k, v, out = (self.conv(conv) for conv in (block.q, block.k, block.v, block.proj_out))
        yield Attend(self.name(block), self.norm(block.norm, silu=False), q, k, v, out, scale=q.outputs**-0.5)

    def attention(self, block: Any) -> Attend:
        name = self.name(block)
        if type(block).__name__ == "AttentionBlock":  # diffusers' until 0.17
            parts, heads, scale = (block.query, block.key, block.value, block.proj_attn), block.num_heads, None
            adds, divide = True, block.rescale_output_factor
        else:
            self.check_attention(block)
            parts, heads, scale = (block.to_q, block.to_k, block.to_v, block.to_out[0]), block.heads, block.scale
            adds, divide = block.residual_connection, block.rescale_output_factor
        q, k, v, out = (self.conv(part) for part in parts)
        norm = None if block.group_norm is None else self.norm(block.group_norm, silu=False)
        if not adds and norm is None:
            raise Unreadable(f"{name} has neither a norm nor a residual")
        heads = heads or 1
        scale = (q.outputs // heads) ** -0.5 if scale is None else scale
        return Attend(name, norm, q, k, v, out, heads, float(scale), bool(adds), float(divide))

    def check_attention(self, block: Any) -> None:
        processor = type(getattr(block, "processor", None)).__name__
        if type(block).__name__ != "Attention" or processor not in PROCESSORS:
            raise Unreadable(f"{self.name(block)} is a {type(block).__name__} of {processor}")
        extra = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim", "only_cross_attention")
        for attribute in extra:
            if getattr(block, attribute, None):
                raise Unreadable(f"{self.name(block)} has {attribute}")

    # -- leaves

    def name(self, module: nn.Module) -> str:
        return self.names.get(module, type(module).__name__)

    def conv(self, module: Any, stride: int = 1) -> Conv:
        name = self.name(module)
        if _is_plain(module, nn.Linear):
            return Conv(module.weight[:, :, None, None], module.bias)
        if type(module).__module__ in CASTING and not _casts_nothing(module):
            raise Unreadable("the webui moves or casts its weights layer by layer")
        if not _is_plain(module, nn.Conv2d) or type(module)._conv_forward is not nn.Conv2d._conv_forward:
            raise Unreadable(f"{name} is a {type(module).__name__}, readable: Conv2d")
        size, padding = module.kernel_size[0], module.padding
        centred = padding == (size // 2, size // 2) or (stride == 2 and padding == (0, 0))
        square = module.kernel_size == (size, size) and size % 2 == 1
        if (
            not square
            or not centred
            or module.stride != (stride, stride)
            or module.dilation != (1, 1)
            or module.groups != 1
        ):
            raise Unreadable(f"{name} is a convolution of {module.extra_repr()}")
        if module.padding_mode not in ("zeros", "circular"):
            raise Unreadable(f"{name} is padded by {module.padding_mode!r}")
        return Conv(
            module.weight, module.bias, (padding[0], padding[0]), stride,
            wraps=module.padding_mode == "circular" and padding[0] > 0,
        )  # fmt: skip

    def norm(self, module: Any, silu: bool = True) -> Norm:
        if not _is_plain(module, nn.GroupNorm) or not module.affine:
            raise Unreadable(f"{self.name(module)} is a {type(module).__name__}, readable: GroupNorm")
        return Norm(module.num_groups, module.eps, module.weight, module.bias, silu)

    def check_silu(self, module: nn.Module) -> None:
        if not _is_plain(module, nn.SiLU):
            raise Unreadable(f"{self.name(module)} is a {type(module).__name__}, readable: SiLU")

    # -- what others may have changed

    def check_tree(self, coder: nn.Module, conv: nn.Module | None) -> None:
        self.check_whole()
        modules = [module for part in (coder, conv) if part is not None for module in part.modules()]
        for module in modules:
            self.check_module(module)
        tensors = [tensor for module in modules for tensor in module.parameters(recurse=False)]
        devices = {tensor.device for tensor in tensors}
        if len(devices) != 1 or next(iter(devices)).type == "meta":
            raise Unreadable(f"the VAE's weights are on {', '.join(sorted(map(str, devices)))}, readable: one device")
        for tensor in tensors:
            if tensor.dtype not in PRECISIONS:
                raise Unreadable(f"the VAE's weights are {tensor.dtype}")

    def check_whole(self) -> None:
        """The module itself, where the hosts' own offloading is known."""
        vae = self.vae
        offloads = is_offloaded(vae)
        for name in _shadowed(vae):
            known = getattr(vae.__dict__[name], "__name__", "") in WRAPS or (offloads and name == "forward")
            if not known:
                raise Unreadable(f"the VAE's {name} was replaced")
        hooks = [hook for hook in vae._forward_pre_hooks.values() if getattr(hook, "__name__", "") != PRE_HOOK]
        if hooks or vae._forward_hooks or (hasattr(vae, "_hf_hook") and not offloads):
            raise Unreadable("the VAE has hooks that are not known")

    def check_module(self, module: nn.Module) -> None:
        name = self.name(module)
        for attribute in _shadowed(module):
            if not (attribute == "forward" and _sleeps(module)):
                raise Unreadable(f"{name} has its {attribute} replaced")
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            raise Unreadable(f"{name} has hooks that are not known")
        if isinstance(module, nn.Dropout) and module.training and module.p > 0:
            raise Unreadable(f"{name} is in training")


def is_offloaded(vae: nn.Module) -> bool:
    """By accelerate, as a whole: its hook brings all of it to the device."""
    return type(getattr(vae, "_hf_hook", None)).__name__ in ("CpuOffload", "UserCpuOffloadHook")


def _shadowed(module: nn.Module) -> list[str]:
    """Methods of the class that were replaced on the instance; ldm's latent models take their VAE's `train` away.

    Not its own, bound to it: so another extension leaves a coder when it is switched off again (Tiled VAE).
    """
    kind, own = type(module), vars(module).items()
    replaced = [name for name, value in own if callable(value) and callable(getattr(kind, name, None))]
    return [name for name in replaced if name != "train" and not _is_own(module, name)]


def _is_own(module: nn.Module, name: str) -> bool:
    value = vars(module)[name]
    return getattr(value, "__self__", None) is module and getattr(value, "__func__", None) is getattr(
        type(module), name
    )


def _sleeps(module: nn.Module) -> bool:
    """The webui's Hypertile leaves its wrapper behind where it was once switched on, and passes all on while it is off."""
    params = getattr(module, "__webui_hypertile_params", None)
    return params is not None and not params.enabled


def _is_plain(module: Any, kind: type[nn.Module]) -> bool:
    return isinstance(module, kind) and (type(module).forward is kind.forward or _casts_nothing(module))


def _casts_nothing(module: nn.Module) -> bool:
    """One of the layers of Forge's family, which can change their weights on the way, and which changes nothing."""
    return type(module).__module__ in CASTING and not any(getattr(module, name, None) for name in CASTS)
