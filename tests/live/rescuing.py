"""Run inside the webui by its script "Custom code": a UNet in half precision that answers one window with NaN."""

from __future__ import annotations

import contextlib

import torch


@contextlib.contextmanager
def half_that_fails_once(sd_model, at):
    """bfloat16, as this CPU computes in no other half: the webui casts what it gives the UNet (`unet_needs_upcast`)."""
    from modules import devices  # noqa: TID251

    unet, calls = sd_model.model.diffusion_model, []
    before = devices.dtype_unet, devices.unet_needs_upcast, unet.dtype
    weights = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    real = unet.forward

    def forward(x, *args, **kwargs):
        calls.append((str(unet.input_blocks[0][0].weight.dtype), str(x.dtype), len(x)))
        answer = real(x, *args, **kwargs)
        if len(calls) == at:
            answer[1] = torch.nan
        return answer

    unet.to(torch.bfloat16)
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.float()  # a CPU has no other for a shorter input
    devices.dtype_unet, devices.unet_needs_upcast, unet.dtype = torch.bfloat16, True, torch.bfloat16
    unet.forward = forward
    try:
        yield calls
        assert devices.dtype_unet == torch.bfloat16 and devices.unet_needs_upcast and unet.dtype == torch.bfloat16
    finally:
        del unet.forward
        devices.dtype_unet, devices.unet_needs_upcast, unet.dtype = before
        unet.to(before[0])
        unet.load_state_dict(weights)


def rescued(p, at):
    """The picture's size, what the user is told, and each call of the UNet: its precision, its input's, and its rows."""
    from modules.processing import process_images  # noqa: TID251

    with half_that_fails_once(p.sd_model, at) as calls:
        processed = process_images(p)
    return {"size": processed.images[0].size, "comments": processed.comments, "calls": calls}
