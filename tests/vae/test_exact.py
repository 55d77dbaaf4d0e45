"""Tiles against the undivided VAE, which knows nothing of them."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from demofusion_lib.vae import Memory, NotFinite, decode, encode
from demofusion_lib.vae.exact import step_stretches
from demofusion_lib.vae.program import Attend
from demofusion_lib.vae.reading import read_decoder

from .support import (
    ROOMY,
    diffusers_vae,
    ldm_vae,
    make_circular,
    noise,
    psnr,
    toy_vae,
    undivided,
    undivided_moments,
)

EXACT = 100.0  # dB; the issue asks for 80, rounding leaves 115 and more
SIZES = [(1, 4, 24, 24), (2, 4, 13, 29), (1, 4, 5, 120), (1, 4, 90, 7), (1, 4, 1, 1)]


def exact(vae: Any, latent: torch.Tensor, **more: Any) -> torch.Tensor:
    return decode(vae, latent, **{"mode": "exact", "tile_lat": 8, "memory": ROOMY, **more})


def exact_moments(vae: Any, image: torch.Tensor, **more: Any) -> torch.Tensor:
    return encode(vae, image, **{"mode": "exact", "tile_lat": 8, "memory": ROOMY, **more})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [diffusers_vae, ldm_vae], ids=["diffusers", "ldm"])
def test_a_decode_by_tiles_is_the_undivided_one(make: Any, size: tuple[int, ...]) -> None:
    vae, latent = make(), noise(*size)
    made = exact(vae, latent)
    assert made.dtype == torch.float32 and made.device.type == "cpu"
    assert psnr(made, undivided(vae, latent)) > EXACT


@pytest.mark.parametrize("size", [(1, 3, 96, 96), (2, 3, 101, 67), (1, 3, 19, 403), (1, 3, 301, 9)])
@pytest.mark.parametrize("make", [diffusers_vae, ldm_vae], ids=["diffusers", "ldm"])
def test_an_encode_by_tiles_is_the_undivided_one(make: Any, size: tuple[int, ...]) -> None:
    vae, image = make(), noise(*size)
    assert psnr(exact_moments(vae, image), undivided_moments(vae, image)) > EXACT


def test_sdxl_is_read_like_sd_1() -> None:
    vae, latent = diffusers_vae("sdxl", (32, 32, 64, 64)), noise(1, 4, 20, 26)
    assert psnr(exact(vae, latent), undivided(vae, latent)) > EXACT


def test_the_trained_toy() -> None:
    vae, image = toy_vae(), noise(1, 3, 264, 200).cumsum(2).cumsum(3).div(80).tanh()
    moments = undivided_moments(vae, image)
    assert psnr(exact_moments(vae, image, tile_lat=12), moments) > 80
    latent = moments[:, :4]
    assert psnr(exact(vae, latent, tile_lat=12), undivided(vae, latent)) > 80


def test_pictures_of_a_batch_know_nothing_of_each_other() -> None:
    vae, latent = diffusers_vae(), noise(2, 4, 12, 12)
    latent[1] *= 20
    assert torch.equal(exact(vae, latent)[:1], exact(vae, latent[:1]))


def test_tiles_are_many_and_their_size_changes_nothing() -> None:
    vae, latent, told = diffusers_vae(), noise(1, 4, 48, 40), []
    small = exact(vae, latent, on_tile=lambda done, total: told.append((done, total)))
    assert len(told) > 500 and told == [(number + 1, len(told)) for number in range(len(told))]
    assert psnr(small, exact(vae, latent, tile_lat=64)) > EXACT


@pytest.mark.parametrize("wide", [False, True], ids=["bands", "bands cut across"])
def test_a_picture_whose_edges_meet(wide: bool) -> None:
    """The webui's Tiling sets every convolution to circular padding."""
    vae, latent = diffusers_vae(), noise(1, 4, 10, 60 if wide else 14)
    plain = undivided(vae, latent)
    make_circular(vae)
    whole = undivided(vae, latent)
    assert psnr(plain, whole) < 50
    assert psnr(exact(vae, latent), whole) > EXACT
    image = noise(1, 3, 88, 120)
    assert psnr(exact_moments(vae, image), undivided_moments(vae, image)) > EXACT


def test_statistics_are_of_all_cells_not_the_mean_of_tiles() -> None:
    """A slope makes the tiles' means differ: their variances' mean would miss nearly all of it."""
    vae = diffusers_vae()
    latent = noise(1, 4, 40, 16) * 0.1 + torch.linspace(-8, 8, 40)[None, None, :, None]
    assert psnr(exact(vae, latent), undivided(vae, latent)) > EXACT


def test_a_mean_far_from_zero_loses_no_variance() -> None:
    vae = diffusers_vae()
    vae.decoder.conv_in.bias += 300.0
    latent = noise(1, 4, 24, 24)
    whole = diffusers_vae().double()
    whole.load_state_dict(vae.double().state_dict())
    truth = undivided(whole, latent.double()).float()
    vae.float()
    assert psnr(exact(vae, latent), truth) > psnr(undivided(vae, latent), truth) - 3


def test_several_heads_and_a_rescaled_residual() -> None:
    vae, latent = diffusers_vae(), noise(1, 4, 11, 17)
    for coder in (vae.encoder, vae.decoder):
        attention = coder.mid_block.attentions[0]
        attention.heads, attention.scale, attention.rescale_output_factor = 4, (32 // 4) ** -0.5, 1.5
        for block in coder.mid_block.resnets:
            block.output_scale_factor = 1.25
    assert psnr(exact(vae, latent), undivided(vae, latent)) > EXACT


def test_sharp_attention() -> None:
    """Scores of several hundred: a softmax by blocks has to take the greatest out before it is exponentiated."""
    vae, latent = ldm_vae(), noise(1, 4, 14, 22)
    for layer in (vae.decoder.mid.attn_1.q, vae.decoder.mid.attn_1.k):
        layer.weight *= 30
    assert psnr(exact(vae, latent), undivided(vae, latent)) > EXACT - 15


def test_no_attention_no_quantisation_and_other_depths() -> None:
    """As newer models configure the same class."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        latent_channels=16, block_out_channels=(8, 16, 16), norm_num_groups=4, mid_block_add_attention=False,
        use_quant_conv=False, use_post_quant_conv=False,
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
    ).eval()  # fmt: skip
    latent, image = noise(1, 16, 30, 22), noise(1, 3, 70, 90)
    assert psnr(exact(vae, latent), undivided(vae, latent)) > EXACT
    assert psnr(exact_moments(vae, image), undivided_moments(vae, image)) > EXACT


def test_tanh_at_the_end_is_honoured() -> None:
    vae, latent = ldm_vae(), noise(1, 4, 9, 9) * 5
    vae.decoder.tanh_out = True
    assert psnr(exact(vae, latent), undivided(vae, latent)) > EXACT


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_half_precision_is_no_further_off_than_the_undivided(seed: int) -> None:
    vae, latent = diffusers_vae(channels=(32, 32, 64, 64)), noise(1, 4, 24, 20, seed=seed)
    truth = undivided(vae, latent)
    vae.to(torch.bfloat16)
    made, whole = exact(vae, latent.bfloat16()), undivided(vae, latent.bfloat16())
    assert made.dtype == torch.bfloat16
    assert psnr(made, truth) > psnr(whole, truth) - 0.3


def test_precision_asked_for_leaves_the_module_alone() -> None:
    vae, latent = diffusers_vae().to(torch.bfloat16), noise(1, 4, 16, 16)
    wide = diffusers_vae()
    wide.load_state_dict(vae.state_dict())
    made = exact(vae, latent, dtype=torch.float32)
    assert made.dtype == torch.float32 and vae.dtype == torch.bfloat16
    assert psnr(made, undivided(wide, latent)) > EXACT


def test_halves_mixed_as_diffusers_upcasts_a_vae() -> None:
    """SDXL's pipeline leaves the first layers in half precision and widens the rest."""
    vae, latent = diffusers_vae(), noise(1, 4, 16, 16).bfloat16()
    for part in (vae.post_quant_conv, vae.decoder.conv_in, vae.decoder.mid_block):
        part.to(torch.bfloat16)
    assert psnr(exact(vae, latent), undivided(vae, latent)) > 40  # bfloat16's own rounding lies at 45


def test_a_layer_that_is_not_finite_is_named() -> None:
    vae, latent = diffusers_vae(), noise(1, 4, 16, 16)
    vae.decoder.up_blocks[1].resnets[0].conv2.weight *= 1e38
    vae.decoder.up_blocks[1].resnets[0].conv2.weight *= 1e3
    with pytest.raises(NotFinite, match=r"decoder\.up_blocks\.1\.resnets\.0\.conv2") as caught:
        exact(vae, latent)
    assert caught.value.layer == "decoder.up_blocks.1.resnets.0.conv2"


def test_a_last_layer_that_is_not_finite_is_named() -> None:
    vae, latent = diffusers_vae(), noise(1, 4, 16, 16)
    vae.decoder.conv_out.bias[1] = torch.nan
    with pytest.raises(NotFinite, match=r"decoder\.conv_out"):
        exact(vae, latent)


def test_what_is_not_finite_is_decoded_once_more_in_the_fallback_precision() -> None:
    vae, latent, plans = diffusers_vae(), noise(1, 4, 16, 16), []
    vae.decoder.up_blocks[1].resnets[0].conv2.weight *= 1e38  # the sums are beyond float32
    vae.decoder.up_blocks[1].resnets[0].norm2.weight *= 1e3
    made = exact(vae, latent, fallback=torch.float64, told=plans.append)
    assert made.dtype == torch.float64 and made.isfinite().all()
    assert [plan.dtype for plan in plans] == [torch.float32, torch.float64]
    with pytest.raises(NotFinite):
        exact(vae, latent, fallback=torch.float32)


def test_two_decodes_at_once() -> None:
    """A live preview decodes while the picture is."""
    vae = diffusers_vae()
    latents = [noise(1, 4, 20, 24, seed=seed) for seed in (1, 2)]
    alone = [exact(vae, latent) for latent in latents]
    made: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda at=at: made.__setitem__(at, exact(vae, latents[at]))) for at in (0, 1)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(made[0], alone[0]) and torch.equal(made[1], alone[1])


def test_autocast_around_it_changes_nothing() -> None:
    vae, latent = diffusers_vae(), noise(1, 4, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        made = exact(vae, latent)
    assert torch.equal(made, exact(vae, latent))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"mode": "Exact"}, r"mode is 'Exact', allowed: auto, exact, estimated"),
        ({"tile_lat": 7}, r"tile_lat is 7, allowed: 8 or more"),
        ({"tile_lat": "64"}, r"tile_lat is '64', allowed"),
    ],
)
def test_bad_values_are_told(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(diffusers_vae(), noise(1, 4, 8, 8), **more)


@pytest.mark.parametrize("size", [(4, 8, 8), (1, 3, 8, 8), (1, 4, 0, 8)])
def test_a_latent_of_another_shape_is_told(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        decode(diffusers_vae(), torch.zeros(size), memory=Memory(1 << 40, 1 << 40))


def test_shares_are_of_the_work_not_of_the_tiles() -> None:
    """Tiles of the latent's size are many and quick."""
    vae, shares = diffusers_vae(channels=(32, 64, 64, 64)), [0.0]
    exact(vae, noise(1, 4, 24, 20), on_share=shares.append)
    steps = [later - earlier for earlier, later in itertools.pairwise(shares)]
    assert shares[-1] == pytest.approx(1) and min(steps) > 0
    assert max(steps) > 10 * min(steps)


@pytest.mark.parametrize(("side_lat", "measured"), [(64, 0.056), (128, 0.19)])
def test_attentions_share_is_as_measured(side_lat: int, measured: float) -> None:
    """Of few channels, where a score takes longer to exponentiate than to reckon: the toy's, on a CPU by the clock."""
    program = read_decoder(toy_vae())
    shapes = program.shapes(side_lat, side_lat)
    work = [
        sum(work for _, work in step_stretches(step, before, after, program.tile_values(64)))
        for step, before, after in zip(program.steps, shapes, shapes[1:])
    ]
    attention = sum(amount for step, amount in zip(program.steps, work) if isinstance(step, Attend))
    assert attention / sum(work) == pytest.approx(measured, rel=0.25)


def test_two_pictures_are_half_the_work_each() -> None:
    shares: list[float] = []
    exact_moments(diffusers_vae(), noise(2, 3, 64, 80), on_share=shares.append)
    assert shares[len(shares) // 2 - 1] == pytest.approx(0.5) and shares[-1] == pytest.approx(1)
