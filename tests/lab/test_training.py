"""The training's parts in small, and the file they make: what it holds is what was trained, in any reader of SD1 files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import CLIPTokenizer

from demofusion_lib.standalone import loading
from demofusion_lib.standalone.models import load_model
from demofusion_lib.standalone.prompts import encode
from demofusion_lib.standalone.toy import TOY_FILE, write_tokenizer
from lab import install
from lab.checkpoint import save_checkpoint
from lab.data import draw_window
from lab.judge import judged
from lab.text import TextEncoder
from lab.tokens import tokenize
from lab.toy import CONTEXT, new_unet, new_vae
from lab.unet import UNet
from lab.unet_training import LatentSet, UNetStage, alphas_cumprod, encode_pictures, train_unet
from lab.vae import VAE
from lab.vae_training import SCALE_FACTOR, freeze_attention, reconstruction_psnr, standardise, start_linear, train_vae

CPU = torch.device("cpu")
PROMPTS = ["a red disc", "", "A very odd, unprompted lighthouse's dusk 42!"]


def silent(text: str) -> None:
    pass


def test_the_tokenizer_is_clips(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(str(tmp_path))
    expected = theirs(PROMPTS, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(tokenize(PROMPTS), expected)


def test_windows_for_the_autoencoder_are_never_flat() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        assert float(draw_window(generator, 64).std((1, 2)).max()) > 0.1


def test_the_autoencoder_learns() -> None:
    torch.manual_seed(1)
    model = VAE(32, (1, 1, 1, 1))
    start_linear(model)
    freeze_attention(model)
    pictures = torch.stack([draw_window(torch.Generator().manual_seed(9), 32) for _ in range(8)])
    before = reconstruction_psnr(model, pictures)
    train_vae(model, torch.Generator().manual_seed(1), steps=120, batch=4, size_px=32, rate=2e-3, log=silent)
    assert reconstruction_psnr(model, pictures) > before + 1
    assert not any(
        parameter.any()
        for half in (model.encoder, model.decoder)
        for parameter in half.mid["attn_1"].proj_out.parameters()
    )


def test_latents_get_the_scale_that_sd1_expects() -> None:
    torch.manual_seed(2)
    model = VAE(32, (1, 1, 1, 1))
    picture = draw_window(torch.Generator().manual_seed(2), 64)[None]
    before = model.decode(model.moments(picture)[0])
    standardise(model, torch.Generator().manual_seed(3), pictures=4)
    assert torch.allclose(model.decode(model.moments(picture)[0]), before, atol=1e-4)
    latents = encode_pictures(model, 4, 8, silent, CPU).latents
    assert latents.mean((0, 2, 3)).abs().max() < 0.5
    assert 0.5 < float(latents.std()) < 2


def test_pictures_are_the_same_however_many_are_encoded_at_once() -> None:
    torch.manual_seed(3)
    model = VAE(32, (1, 1, 1, 1))
    before = torch.get_num_threads()
    sets = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        sets.append(encode_pictures(model, 5, 6, silent, CPU))
    torch.set_num_threads(before)
    assert torch.equal(sets[0].latents, sets[1].latents)
    assert sets[0].prompts == sets[1].prompts and torch.equal(sets[0].labels, sets[1].labels)
    assert sets[0].prompts[0] == ""


def test_crops_are_shown_below_their_timestep_alone() -> None:
    wholes = torch.tensor([True, False, False, False])
    data = LatentSet(torch.zeros(4, 4, 8, 8), [""], torch.zeros(4, dtype=torch.long), wholes)
    generator = torch.Generator().manual_seed(7)
    t, chosen = UNetStage(1, 4000, 1e-3, crops_below=800).choose(data, generator)
    assert bool((chosen[t >= 800] == 0).all())
    assert 0.2 < float((chosen[t < 800] == 0).float().mean()) < 0.3
    assert 0.15 < float((t >= 800).float().mean()) < 0.25
    t, _ = UNetStage(1, 4000, 1e-3, high=2.0).choose(data, generator)
    assert 0.70 < float((t >= 500).float().mean()) < 0.80


def test_the_unet_learns() -> None:
    torch.manual_seed(4)
    signs = torch.tensor([0, 1]).repeat(16)
    latents = (signs * 2.0 - 1).view(-1, 1, 1, 1).expand(-1, 4, 8, 8).clone()
    data = LatentSet(latents, ["a red disc", "a blue disc"], signs, signs == 0)
    losses: list[float] = []

    def log(text: str) -> None:
        losses.append(float(text.split("loss ")[1].split(",")[0]))

    unet, text = UNet(32, (1, 1), (0, 1), CONTEXT, 2), TextEncoder(CONTEXT)
    before = text.state_dict()["embeddings.token_embedding.weight"].clone()
    stage = UNetStage(200, 8, 1.5e-3)
    _, text = train_unet(unet, text, data, tokenize, torch.Generator().manual_seed(4), stage=stage, log=log, device=CPU)
    assert losses[1] < 0.8 * losses[0]
    assert not torch.equal(text.state_dict()["embeddings.token_embedding.weight"], before)


def test_the_committed_toy_draws_what_it_is_asked() -> None:
    """Two pictures of every prompt in few steps; `python -m lab.judge` draws more."""
    right = [one for _, _, one in judged(load_model("toy", CPU, torch.float32), 24, steps=12)]
    assert sum(right) >= 21


@pytest.fixture(scope="module")
def networks() -> tuple[UNet, VAE, TextEncoder]:
    torch.manual_seed(0)
    unet, vae, text = new_unet(), new_vae(), TextEncoder(CONTEXT)
    torch.nn.init.normal_(unet.out[2].weight, std=0.05)
    for network in (unet, vae, text):
        network.half().float()
    return unet, vae, text


def test_diffusers_reads_what_was_trained(
    networks: tuple[UNet, VAE, TextEncoder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet, vae, text = networks
    size = save_checkpoint(tmp_path / "toy.safetensors", unet.state_dict(), vae.state_dict(), text.state_dict())
    assert size <= 12e6
    monkeypatch.setattr(loading, "TOY_FILE", tmp_path / "toy.safetensors")
    loaded = load_model("toy", CPU, torch.float32)
    generator = torch.Generator().manual_seed(1)
    latent, t = torch.randn(2, 4, 32, 48, generator=generator), torch.tensor([10, 900])
    picture = torch.rand(1, 3, 64, 96, generator=generator)
    with torch.no_grad():
        context = text(tokenize(PROMPTS[:2]))
        assert torch.allclose(encode(loaded, PROMPTS[:2]).context, context, atol=1e-5)
        theirs = loaded.unet(latent, t, encoder_hidden_states=context).sample
        assert torch.allclose(theirs, unet(latent, t, context), atol=1e-4)
        assert torch.allclose(loaded.vae.encode(picture).latent_dist.mean, vae.moments(picture)[0], atol=1e-4)
        assert torch.allclose(loaded.vae.decode(latent).sample, vae.decode(latent), atol=1e-4)
    assert loaded.native_px == 256 and loaded.vae.config.scaling_factor == SCALE_FACTOR
    assert torch.allclose(loaded.alphas_cumprod, alphas_cumprod(), rtol=1e-4)


def test_the_committed_file() -> None:
    """At most 12 MB, all of it in half precision, and no part missing."""
    assert TOY_FILE.stat().st_size <= 12e6
    unet, vae, text = new_unet(), new_vae(), TextEncoder(CONTEXT)
    with safe_open(TOY_FILE, "pt") as file:
        names = set(file.keys())
        assert all(file.get_tensor(name).dtype in (torch.float16, torch.int64) for name in names)
        assert all(bool(torch.isfinite(file.get_tensor(name)).all()) for name in names)
    count = sum(len(network.state_dict()) for network in (unet, vae, text))
    assert len(names) == count + 1  # the text encoder's position ids


def test_it_can_be_put_into_a_webui(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models" / "Stable-diffusion"
    with pytest.raises(SystemExit):
        install.main([str(tmp_path)])
    assert "is no webui" in capsys.readouterr().err
    folder.mkdir(parents=True)
    install.main([str(tmp_path)])
    checkpoint = folder / f"{install.NAME}.safetensors"
    assert checkpoint.read_bytes() == TOY_FILE.read_bytes()
    params = yaml.safe_load(checkpoint.with_suffix(".yaml").read_text())["model"]["params"]
    text_encoder = Path(params["cond_stage_config"]["params"]["version"])
    assert {"config.json", "vocab.json", "merges.txt"} <= {path.name for path in text_encoder.iterdir()}
    unet, vae = params["unet_config"]["params"], params["first_stage_config"]["params"]["ddconfig"]
    assert (unet["model_channels"], unet["context_dim"], unet["num_heads"]) == (64, CONTEXT, 4)
    assert (vae["ch"], vae["ch_mult"]) == (64, [1, 1, 1, 1])
