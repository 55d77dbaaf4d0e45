"""Masks on img2img: what is drawn of a picture, and what of it stays, in every phase and in the result."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from .small_vae import FACTOR
from .test_endings import at_call
from .test_given import picture, values

SIDE = 64
SIZE = {"width": SIDE, "height": SIDE, "steps": 4, "denoising_strength": 0.75}
HOLE = (24, 16, 48, 40)
LANCZOS = Image.Resampling.LANCZOS


@pytest.fixture(autouse=True)
def small_native(host, monkeypatch, tmp_path):
    assert host.model is not None
    host.opts.data["demofusion_native_sd1"] = SIDE
    monkeypatch.chdir(tmp_path)


class Blends:
    """Of a run, what the host has blended: `(init_latent, nmask, blended, whether at the end)`."""

    def __init__(self, host):
        class Script(host.scripts.Script):
            def title(self):
                return "blends"

            def show(self, is_img2img):
                return host.scripts.AlwaysVisible

            def on_mask_blend(script, p, mba, *args):
                found = mba.init_latent.clone(), mba.nmask.clone(), mba.blended_latent.clone(), mba.is_final_blend
                self.all.append(found)

        self.script, self.all = Script(), []

    def of(self, cells):
        """In samplings of so many cells a side."""
        return [found for found in self.all if found[0].shape[-1] == cells]


def mask(box=HOLE, size=(SIDE, SIDE)):
    found = Image.new("L", size)
    ImageDraw.Draw(found).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
    return found


def prepared(host, image, settings=None, *, hole=None, scripts=(), **fields):
    masked = {"mask": hole or mask(), "mask_blur": 0, "inpaint_full_res": False, "inpainting_fill": 1}
    return host.of_picture(image, settings, scripts=scripts, **{**SIZE, **masked, **fields})


def drawn(host, image, settings=None, **fields):
    outcome = host.run(prepared(host, image, settings, **fields))
    if outcome.error is not None:
        raise outcome.error
    return outcome


def refused(host, settings, **fields):
    outcome = host.run(prepared(host, picture(), settings, **fields))
    assert isinstance(outcome.error, host.params.SettingsError) and outcome.calls == 0
    return str(outcome.error)


def differs(one, other):
    """Where two pictures do: `(height, width)`."""
    return (np.array(one, int) != np.array(other, int)).any(-1)


def inside(box, gain, size, beyond=0):
    found = np.zeros((size[1], size[0]), bool)
    left, top, right, bottom = (edge * gain for edge in box)
    found[max(top - beyond, 0) : bottom + beyond, max(left - beyond, 0) : right + beyond] = True
    return found


# Off


def test_off_it_is_the_hosts_own(host):
    ours = drawn(host, picture())
    p = prepared(host, picture())
    p.scripts = None
    plain = host.run(p)
    assert np.array_equal(ours.images[0], plain.images[0]) and ours.infotext == plain.infotext


# The result


@pytest.mark.parametrize("fields", [
    {}, {"mask_blur": 4}, {"inpainting_mask_invert": 1}, {"inpainting_fill": 0}, {"mask_round": False, "mask_blur": 3},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("enlarge", ["pixels", "latent"])
def test_outside_it_is_pasted_as_the_host_would_at_that_size(host, vae, fields, enlarge):
    hosts = drawn(host, picture(), None, **fields, width=128, height=128)
    ours = drawn(host, picture(), {"scale": 2, "enlarge": enlarge}, **fields, steps=2)
    assert ours.sizes == [(128, 128)]
    (one,), (other,) = ours.p.overlay_images, hosts.p.overlay_images
    assert one.tobytes() == other.tobytes()
    assert ours.p.mask_for_overlay.tobytes() == hosts.p.mask_for_overlay.tobytes()
    shares = np.array(ours.p.mask_for_overlay)
    apart = differs(ours.images[0], picture().resize((128, 128), LANCZOS))
    assert not apart[shares == 0].any() and apart[shares == 255].mean() > 0.8


def test_the_picture_behind_stays_where_the_setting_forbids_to_paste(host):
    host.opts.overlay_inpaint = False
    outcome = drawn(host, picture(), {"scale": 2}, steps=2)
    apart = differs(outcome.images[0], picture().resize((128, 128), LANCZOS))
    assert apart[~inside(HOLE, 2, (128, 128))].any()


def test_a_picture_of_odd_sides_and_its_mask_are_cropped_alike(host):
    image = picture(69, 67)
    outcome = drawn(host, image, {"scale": 2}, hole=mask((26, 17, 50, 41), (69, 67)), steps=2)
    part = image.crop((2, 1, 66, 65)).resize((128, 128), LANCZOS)
    apart = differs(outcome.images[0], part)
    assert outcome.sizes == [(128, 128)] and not apart[~inside(HOLE, 2, (128, 128), 6)].any() and apart.any()


def test_each_of_a_batch_is_pasted_into_its_own(host):
    images = [picture(seed=1), picture(seed=2)]
    outcome = drawn(host, images, {"scale": 2}, steps=2, batch_size=2)
    for one, image in zip(outcome.images, images):
        apart = differs(one, image.resize((128, 128), LANCZOS))
        assert not apart[~inside(HOLE, 2, (128, 128), 6)].any() and apart.any()


def test_all_of_a_batch_and_of_several(host):
    outcome = drawn(host, picture(), {"scale": 2}, steps=2, batch_size=2, n_iter=2)
    larger = picture().resize((128, 128), LANCZOS)
    assert outcome.sizes == [(128, 128)] * 4
    assert not any(differs(one, larger)[~inside(HOLE, 2, (128, 128), 6)].any() for one in outcome.images)
    assert len({one.tobytes() for one in outcome.images}) == 4


# The phases


@pytest.mark.parametrize("enlarge", ["pixels", "latent"])
def test_every_evaluation_of_every_phase_is_blended(host, vae, begun, enlarge):
    blends, decoded, decode = Blends(host), [], host.model.decode_first_stage
    host.model.decode_first_stage = lambda latent: decoded.append(latent) or decode(latent)
    settings = {"scale": 3, "enlarge": enlarge, "residual": "x0"}
    outcome = drawn(host, picture(), settings, scripts=(blends.script,), steps=3)
    assert [tuple(s.x.shape[-2:]) for s in outcome.samplings] == [(8, 8), (16, 16), (24, 24)]
    for sampling in outcome.samplings:
        cells = sampling.x.shape[-1]
        found = blends.of(cells)
        assert len(found) == len(sampling.evaluations) + 1 and [end for *_, end in found][-1]
        for known, nmask, blended, _ in found:
            assert torch.equal(known, sampling.x)
            assert torch.equal(blended * (1 - nmask), known * (1 - nmask))
        mask_lat = np.array(mask().resize((SIDE * cells // 8,) * 2, LANCZOS).resize((cells, cells)), float) / 255
        assert np.array_equal(found[0][1][0].numpy(), np.around(mask_lat))
    outside = 1 - blends.of(24)[-1][1]
    assert torch.equal(decoded[-1] * outside, begun[-1][0] * outside)


@pytest.mark.parametrize("residual", ["x0", "blend"])
def test_what_holds_a_phase_holds_inside_alone(host, vae, begun, monkeypatch, residual):
    """What the solver steps by is what is known, outside."""
    denoiser = importlib.import_module("demofusion_lib.webui.denoiser")
    answers, forward = [], denoiser.InstalledEngine.forward
    monkeypatch.setattr(
        denoiser.InstalledEngine, "forward", lambda self, *args, **more: answers.append(forward(self, *args, **more)) or answers[-1]
    )  # fmt: skip
    drawn(host, picture(), {"scale": 2, "enlarge": "latent", "residual": residual}, steps=3)
    cells = np.array(mask().resize((128, 128), LANCZOS).resize((16, 16)), dtype=np.float32) / 255
    outside, (previous, _) = 1 - torch.from_numpy(np.around(cells)), begun[0]
    assert len(answers) == 3 and all(torch.allclose(one * outside, previous * outside, atol=1e-5) for one in answers)
    assert not torch.allclose(answers[0], previous, atol=1e-2)


def test_what_a_phase_begins_with_is_the_picture_outside_and_the_drawn_inside(host, vae, begun):
    drawn(host, picture(), {"scale": 2, "enlarge": "pixels"}, mask_blur=2, steps=2)
    p = drawn(host, picture(), None, mask_blur=2, width=128, height=128).p
    previous, before = begun[0]
    shares = torch.from_numpy(np.array(p.mask_for_overlay, dtype=np.float32) / 255)
    with torch.no_grad():
        larger = F.interpolate(vae.decode(before / FACTOR).clamp(-1, 1), size=(128, 128), mode="bicubic").clamp(-1, 1)
        given = values(picture().resize((128, 128), LANCZOS))
        expected = vae.encode(given + (larger - given) * shares).latent_dist.mean * FACTOR
    assert torch.allclose(previous, expected, atol=1e-4)


def test_in_latents_they_begin_with_the_picture_enlarged_once(host, vae, begun):
    base = drawn(host, picture(), {"scale": 3, "enlarge": "latent"}, steps=2).samplings[0].x
    cells = np.array(mask().resize((192, 192), LANCZOS).resize((24, 24)), dtype=np.float32) / 255
    outside = 1 - torch.from_numpy(np.around(cells))
    larger = F.interpolate(base, size=(24, 24), mode="bicubic")
    assert torch.allclose(begun[1][0] * outside, larger * outside, atol=1e-5)


@pytest.mark.parametrize("sampler", ["DDIM", "UniPC", "DPM++ 2M SDE", "Euler a", "LCM", "DPM++ 3M SDE"])
def test_every_sampler(host, sampler):
    outcome = drawn(host, picture(), {"scale": 2}, sampler_name=sampler, steps=4)
    apart = differs(outcome.images[0], picture().resize((128, 128), LANCZOS))
    assert not apart[~inside(HOLE, 2, (128, 128), 6)].any() and apart.any()


def test_phase_1_is_the_hosts_own_inpainting(host, vae):
    host.model.encode_first_stage = vae.encode
    host.model.get_first_stage_encoding = lambda found: found.latent_dist.mean * FACTOR
    hosts = drawn(host, picture(), None).samplings[0].evaluations
    ours = drawn(host, picture(), {"scale": 2, "keep_phases": True}).samplings[0].evaluations
    assert len(hosts) == len(ours) and all(map(torch.equal, (e.sigma for e in hosts), (e.sigma for e in ours)))
    assert all(torch.allclose(one.guided, other.guided, atol=1e-4) for one, other in zip(hosts, ours))


def test_filled_it_begins_with_what_the_host_lays_under_the_mask(host, vae):
    outcome = drawn(host, picture(), {"scale": 2}, inpainting_fill=0, steps=2)
    filled = host.masking.fill(picture(), mask())
    with torch.no_grad():
        expected = vae.encode(values(filled)).latent_dist.mean * FACTOR
    assert torch.allclose(outcome.samplings[0].x, expected, atol=1e-4)


def test_a_small_picture_is_drawn_at_the_models_size_first(host):
    outcome = drawn(host, picture(32, 32), {"scale": 4}, hole=mask((8, 8, 24, 24), (32, 32)), steps=2)
    assert outcome.sizes == [(128, 128)] and "drawn at 64x64 px first" in outcome.comments
    assert [tuple(s.x.shape[-2:]) for s in outcome.samplings] == [(8, 8), (16, 16)]
    assert "Size: 32x32" in outcome.infotext


SAMPLERS = ["Euler", "DPM++ 2M", "DPM++ 2M SDE", "Heun", "DDIM", "PLMS", "UniPC", "LCM", "DPM2 a", "DPM fast"]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_evaluations_are_those_that_were_planned(host, sampler, strength):
    p = prepared(host, picture(), {"scale": 2}, steps=6, sampler_name=sampler, denoising_strength=strength)
    outcome = host.run(p)
    planning = importlib.import_module("demofusion_lib.webui.planning")
    plan = planning.plan_of(p, host.params.Params.from_names({"enabled": True, "preset": "none", "scale": 2}))
    assert sum(len(call.x) for s in outcome.samplings for call in s.calls) == plan.total_evaluations
    assert sum(len(call.x) for call in outcome.samplings[0].calls) == plan.base_evaluations > 0


def test_everything_is_put_back(host):
    outcome = drawn(host, picture(), {"scale": 2}, width=256, height=192, steps=2)
    p = outcome.p
    assert (p.width, p.height) == (256, 192) and p.nmask is None and p.mask is None
    assert p.sampler.model_wrap_cfg.init_latent.shape[-2:] == (8, 8)
    assert "img2img_image_conditioning" not in vars(p)


# Only masked


AREA = {"inpaint_full_res": True, "inpaint_full_res_padding": 8}


def test_only_masked_draws_the_crop_and_pastes_it(host):
    image = picture(192, 128)
    hole = mask((80, 40, 128, 88), (192, 128))
    outcome = drawn(host, image, {"scale": 2}, hole=hole, **AREA, steps=2)
    assert outcome.sizes == [(384, 256)] and "Size: 192x128" in outcome.infotext
    assert [tuple(s.x.shape[-2:]) for s in outcome.samplings] == [(8, 8), (16, 16)]
    assert outcome.p.paste_to == (144, 64, 128, 128)
    assert "64x64 px around the mask are drawn" in outcome.comments
    apart = differs(outcome.images[0], image.resize((384, 256), LANCZOS))
    assert not apart[~inside((80, 40, 128, 88), 2, (384, 256), 6)].any()
    assert apart[inside((82, 42, 126, 86), 2, (384, 256))].mean() > 0.8


def test_only_masked_begins_with_its_own_pixels(host, vae):
    image = picture(192, 128)
    outcome = drawn(host, image, {"scale": 2}, hole=mask((80, 40, 128, 88), (192, 128)), **AREA, steps=2)
    with torch.no_grad():
        expected = vae.encode(values(image.crop((72, 32, 136, 96)))).latent_dist.mean * FACTOR
    assert torch.allclose(outcome.samplings[0].x, expected, atol=1e-4)


def test_a_small_crop_is_drawn_at_the_models_size_and_shrunk_into_its_share(host):
    image = picture(128, 128)
    hole = mask((100, 100, 116, 116), (128, 128))
    outcome = drawn(host, image, {"scale": 2}, hole=hole, inpaint_full_res=True, steps=2)
    assert outcome.sizes == [(256, 256)] and len(outcome.samplings) == 1
    assert outcome.samplings[0].x.shape[-2:] == (8, 8) and outcome.p.paste_to == (200, 200, 32, 32)
    apart = differs(outcome.images[0], image.resize((256, 256), LANCZOS))
    assert not apart[~inside((100, 100, 116, 116), 2, (256, 256))].any()
    assert apart[inside((101, 101, 115, 115), 2, (256, 256))].any()


def test_a_mask_at_the_edge_and_a_broken_scale(host):
    image = picture(128, 128)
    hole = mask((0, 88, 128, 128), (128, 128))
    outcome = drawn(host, image, {"scale": 1.5}, hole=hole, **AREA, steps=2)
    assert outcome.sizes == [(192, 192)]
    left, top, width, height = outcome.p.paste_to
    assert (left, width) == (0, 192) and top + height == 192
    assert not differs(outcome.images[0], image.resize((192, 192), LANCZOS))[: 82 * 3 // 2].any()


def test_a_blank_mask_is_none(host):
    outcome = drawn(host, picture(), {"scale": 2}, hole=Image.new("L", (SIDE, SIDE)), **AREA, steps=2)
    without = host.run(host.of_picture(picture(), {"scale": 2}, **{**SIZE, "steps": 2}))
    assert np.array_equal(outcome.images[0], without.images[0]) and "the mask is blank" in outcome.comments


def test_only_masked_at_the_tabs_size_is_left_to_the_host(host):
    off = drawn(host, picture(), None, width=128, height=128)
    outcome = drawn(host, picture(), {"scale": 1}, width=128, height=128, inpaint_full_res=True)
    assert "the tab's own size is that of the masked area" in outcome.comments
    assert outcome.sizes == off.sizes and len(outcome.samplings) == 1


# Ends


def test_at_0_it_is_the_picture_enlarged(host):
    outcome = drawn(host, picture(), {"scale": 3}, denoising_strength=0, inpainting_fill=0)
    assert outcome.calls == 0
    larger = np.array(picture().resize((192, 192), LANCZOS), int)
    assert np.abs(outcome.images[0] - larger).max() <= 1


def test_kept_phases_are_pasted(host):
    outcome = drawn(host, picture(), {"scale": 3, "keep_phases": True}, steps=2)
    assert outcome.sizes == [(192, 192), (64, 64), (128, 128)]
    for one, (width, _) in zip(outcome.images, outcome.sizes):
        apart = differs(one, picture().resize((width, width), LANCZOS))
        assert not apart[~inside(HOLE, width // SIDE, (width, width), 9)].any() and apart.any()


@pytest.mark.parametrize("full_res", [False, True])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stopped_run_shows_its_last_phase_pasted(host, number, full_res):
    image, hole = picture(192, 128), mask((80, 40, 128, 88), (192, 128))
    fields = {"hole": hole, "steps": 2, **AREA, "inpaint_full_res": full_res}
    whole = drawn(host, image, {"scale": 3}, **fields)
    host.model.hooks.on_call = at_call(sum(len(s.calls) for s in whole.samplings[: number - 1]), host.state.interrupt)
    outcome = drawn(host, image, {"scale": 3}, **fields)
    size = (192, 128) if number == 1 else (192 * (number - 1), 128 * (number - 1))
    assert outcome.sizes == [size] and f"interrupted in phase {number} of 3" in outcome.comments
    apart = differs(outcome.images[0], image.resize(size, LANCZOS))
    assert not apart[~inside((80, 40, 128, 88), size[0] // 192, size, 6)].any()
    assert number == 1 or apart.any()


def test_it_goes_on_from_saved_phases_of_the_same_mask(host):
    settings = {"scale": 3, "save_phases": True}
    whole = drawn(host, picture(), {"scale": 3}, steps=2)
    host.model.hooks.on_call = at_call(sum(len(s.calls) for s in whole.samplings[:2]), host.state.interrupt)
    drawn(host, picture(), settings, steps=2)
    host.model.hooks.on_call = lambda n: None
    told = refused(host, {**settings, "resume": "last"}, hole=mask((8, 8, 24, 24)), steps=2)
    assert "made with another mask" in told
    assert "mask blur" in refused(host, {**settings, "resume": "last"}, mask_blur=2, steps=2)
    resumed = drawn(host, picture(), {**settings, "resume": "last"}, steps=2)
    assert len(resumed.samplings) == 1 and np.array_equal(resumed.images[0], whole.images[0])


# What is refused


@pytest.mark.parametrize("number, name", [(2, "latent noise"), (3, "latent nothing")])
def test_what_is_laid_under_the_mask_in_a_latent_alone_is_refused(host, number, name):
    told = refused(host, {"scale": 2}, inpainting_fill=number)
    assert told == f"DemoFusion: masked content is '{name}', allowed with DemoFusion: fill, original"


def test_models_of_another_kind_of_condition_are_refused(host):
    host.model.cond_stage_key = "edit"
    assert "the model is InstructPix2Pix, allowed on img2img" in refused(host, {"scale": 2})
    host.model.cond_stage_key, host.model.depth_model = "txt", object()
    assert "the model is depth2img, allowed on img2img" in refused(host, {"scale": 2})


# Models that are told of the mask


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_an_inpainting_model_is_told_of_the_mask_in_every_phase(host, vae, weight):
    host.model.model.conditioning_key = "hybrid"
    host.opts.inpainting_mask_weight = weight
    outcome = drawn(host, picture(), {"scale": 2, "enlarge": "pixels"}, steps=2)
    assert len(outcome.samplings) == 2
    for sampling in outcome.samplings:
        side = sampling.x.shape[-1] * 8
        shares = torch.from_numpy(np.array(mask().resize((side, side), LANCZOS), dtype=np.float32) / 255).round()
        given = values(picture().resize((side, side), LANCZOS))
        with torch.no_grad():
            coded = vae.encode(given * (1 - weight * shares)).latent_dist.mean * FACTOR
        for evaluation in sampling.evaluations:
            for row in evaluation.image_cond:
                assert torch.equal(row[0], shares[::8, ::8]) and torch.allclose(row[1:], coded[0], atol=1e-4)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"model": SimpleNamespace(conditioning_key="hybrid")}, True),  # AUTOMATIC1111's, reForge
        ({"model": SimpleNamespace(conditioning_key="crossattn")}, False),
        ({"model": SimpleNamespace(conditioning_key="crossattn"), "is_sdxl_inpaint": True}, True),
        ({"is_inpaint": True}, True),  # Forge, whose models have no `model`
        ({"is_inpaint": False}, False),
    ],
)
def test_which_models_are_told_of_the_mask(host, model, told):
    masks = importlib.import_module("demofusion_lib.webui.masks")
    assert masks.is_inpainting(SimpleNamespace(**model)) is told
