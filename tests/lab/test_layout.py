"""The toy model's parts have SD1's names and shapes."""

import torch

from lab.text import END, START, TextEncoder
from lab.unet import UNet
from lab.vae import VAE


def test_unet():
    model = UNet(32, (1, 2), (0, 1), 16, 2)
    names = set(model.state_dict())
    for name in (
        "time_embed.2.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.bias",
        "input_blocks.1.1.transformer_blocks.0.ff.net.0.proj.weight",
        "input_blocks.2.0.op.weight",
        "input_blocks.3.0.skip_connection.weight",
        "middle_block.1.proj_out.weight",
        "output_blocks.1.2.conv.weight",
        "output_blocks.3.0.in_layers.2.weight",
        "out.2.bias",
    ):
        assert name in names
    torch.nn.init.normal_(model.out[2].weight)
    x, t = torch.randn(2, 4, 16, 24, generator=torch.Generator().manual_seed(1)), torch.tensor([10, 900])
    context = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(2))
    answer = model(x, t, context)
    assert answer.shape == x.shape
    assert not torch.allclose(answer, model(x, t, context + 1))
    assert not torch.allclose(answer, model(x, t - 5, context))
    assert torch.allclose(answer[1:], model(x[1:], t[1:], context[1:]), atol=1e-4)


def test_vae():
    model = VAE()
    names = set(model.state_dict())
    for name in (
        "encoder.down.2.downsample.conv.weight",
        "encoder.mid.attn_1.proj_out.weight",
        "decoder.up.3.upsample.conv.weight",
        "decoder.up.0.block.1.conv2.bias",
        "post_quant_conv.weight",
    ):
        assert name in names
    assert not any(name.startswith(("encoder.down.3.downsample", "decoder.up.0.upsample")) for name in names)
    mean, logvar = model.moments(torch.zeros(1, 3, 64, 96))
    assert mean.shape == logvar.shape == (1, 4, 8, 12)
    assert model.decode(mean).shape == (1, 3, 64, 96)


def test_text_encoder():
    model = TextEncoder(16, 2, 2)
    assert "encoder.layers.1.self_attn.q_proj.weight" in model.state_dict()
    tokens = torch.tensor([[START, 320, 736, *[END] * 74], [START, 320, 1746, *[END] * 74]])
    encoded = model(tokens)
    assert encoded.shape == (2, 77, 16)
    assert torch.allclose(encoded[0, :2], encoded[1, :2], atol=1e-5)  # a token doesn't see those behind it
    assert not torch.allclose(encoded[0, -1], encoded[1, -1], atol=1e-3)
