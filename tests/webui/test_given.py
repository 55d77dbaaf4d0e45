"""img2img: the user's own picture in place of the base image."""

import importlib
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from .small_vae import FACTOR
from .test_endings import at_call
from .test_planning import rows

SIDE = 64
SIZE = {"width": SIDE, "height": SIDE, "steps": 4}


@pytest.fixture(autouse=True)
def small_native(host, monkeypatch, tmp_path):
    """Of the doubles' model, and a folder of the test's own."""
    assert host.model is not None
    host.opts.data["demofusion_native_sd1"] = SIDE
    monkeypatch.chdir(tmp_path)


def picture(width=SIDE, height=SIDE, seed=0):
    """Of blocks, with a corner of its own colour each."""
    values = np.random.default_rng(seed).integers(60, 200, (-(-height // 4), -(-width // 4), 3), dtype=np.uint8)
    whole = values.repeat(4, 0).repeat(4, 1)[:height, :width].copy()
    whole[:8, :8], whole[:8, -8:], whole[-8:, :8], whole[-8:, -8:] = (250, 10, 10), (10, 250, 10), (10, 10, 250), 250
    return Image.fromarray(whole)


def values(image):
    """`(1, 3, height, width)` in [-1, 1]."""
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]


def bicubic(pixels, height, width):
    return F.interpolate(pixels, size=(height, width), mode="bicubic").clamp(-1, 1)


def drawn(host, image, settings=None, **fields):
    outcome = host.run(host.of_picture(image, settings, **{**SIZE, **fields}))
    if outcome.error is not None:
        raise outcome.error
    return outcome


def refused(host, image, settings, **fields):
    outcome = host.run(host.of_picture(image, settings, **{**SIZE, **fields}))
    assert isinstance(outcome.error, importlib.import_module("demofusion_lib.params").SettingsError)
    assert outcome.calls == 0 and (outcome.p.width, outcome.p.height) == (SIDE, SIDE)
    return str(outcome.error)


# Off


def test_off_it_is_the_hosts_own(host):
    ours = drawn(host, picture(), None, denoising_strength=0.5)
    p = host.of_picture(picture(), None, denoising_strength=0.5, **SIZE)
    p.scripts = None
    plain = host.run(p)
    assert np.array_equal(ours.images[0], plain.images[0]) and ours.infotext == plain.infotext


@pytest.mark.parametrize("settings", [{"scale": 1}, {"target_width": SIDE, "target_height": SIDE}], ids=str)
def test_where_nothing_is_enlarged_the_host_draws(host, settings):
    off = drawn(host, picture(), None, denoising_strength=0.5)
    outcome = drawn(host, picture(), settings, denoising_strength=0.5)
    assert np.array_equal(outcome.images[0], off.images[0])
    assert "nothing is enlarged" in outcome.comments or "nothing was enlarged" in outcome.comments
    assert "DemoFusion enabled" not in outcome.infotext


# What the phases begin with


def test_phases_begin_with_the_pictures_own_pixels(host, vae, begun):
    image = picture()
    outcome = drawn(host, image, {"scale": 3, "enlarge": "pixels"}, steps=2)
    assert outcome.sizes == [(192, 192)] and len(outcome.samplings) == 2  # phase 1 is not drawn
    with torch.no_grad():
        base, larger = (
            vae.encode(v).latent_dist.mean * FACTOR for v in (values(image), bicubic(values(image), 128, 128))
        )
    (previous, before), _ = begun
    assert torch.allclose(before, base, atol=1e-4) and torch.allclose(previous, larger, atol=1e-4)


def test_each_of_a_batch_begins_with_its_own(host, vae, begun):
    images = [picture(seed=1), picture(seed=2)]
    outcome = drawn(host, images, {"scale": 2, "enlarge": "pixels"}, steps=2, batch_size=2)
    assert outcome.sizes == [(128, 128)] * 2
    with torch.no_grad():
        expected = torch.cat(
            [vae.encode(bicubic(values(image), 128, 128)).latent_dist.mean * FACTOR for image in images]
        )
    assert torch.allclose(begun[0][0], expected, atol=1e-4)


def test_one_picture_for_a_whole_batch(host, vae, begun):
    drawn(host, picture(), {"scale": 2, "enlarge": "pixels"}, steps=2, batch_size=2)
    assert len(begun[0][0]) == 2 and torch.equal(begun[0][0][0], begun[0][0][1])


def test_in_latents_they_begin_with_the_pictures(host, vae, begun):
    drawn(host, picture(), {"scale": 2, "enlarge": "latent"}, steps=2)
    with torch.no_grad():
        base = vae.encode(values(picture())).latent_dist.mean * FACTOR
    assert torch.allclose(begun[0][0], F.interpolate(base, size=(16, 16), mode="bicubic"), atol=1e-4)


# Strength


@pytest.mark.parametrize("strength, level", [(1.0, 601), (0.5, 300.5), (0.2, 120.2)])
def test_the_strength_says_where_phases_begin(host, strength, level):
    outcome = drawn(host, picture(), {"scale": 2, "start": 601}, denoising_strength=strength, sampler_name="Euler")
    first = float(outcome.samplings[0].evaluations[0].sigma[0])
    alphas = host.model.alphas_cumprod.double()
    sigmas = ((1 - alphas) / alphas).sqrt().log()
    below = int(level)
    expected = torch.lerp(sigmas[below], sigmas[below + 1], torch.tensor(level - below, dtype=torch.float64)).exp()
    assert first == pytest.approx(float(expected), rel=1e-3)


def test_at_0_it_is_the_picture_enlarged_and_nothing_is_drawn(host):
    image = picture()
    outcome = drawn(host, image, {"scale": 3}, denoising_strength=0)
    expected = (bicubic(values(image), 192, 192)[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(outcome.images[0] - expected.numpy()).max() <= 1
    assert outcome.calls == 0 and not outcome.latents and "the strength is 0" in outcome.comments


@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_what_is_coarse_is_held_to_the_picture(host, vae, strength):
    image = picture()
    seen, decode = [], host.model.decode_first_stage
    host.model.decode_first_stage = lambda latent: seen.append(decode(latent)) or seen[-1].clone()
    outcome = drawn(host, image, {"scale": 2}, denoising_strength=strength, steps=2)
    (decoded,) = seen
    missing = bicubic_free(values(image) - F.avg_pool2d(decoded, 2), 128)
    expected = ((decoded + (1 - strength) ** 2 * missing).clamp(-1, 1)[0].permute(1, 2, 0) + 1) * 127.5
    assert np.abs(outcome.images[0] - expected.numpy()).max() <= 1.01


def bicubic_free(pixels, side):
    return F.interpolate(pixels, size=(side, side), mode="bicubic")


# Sizes


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_the_scale_is_of_the_picture_whatever_the_tab_says(host, mode):
    outcome = drawn(host, picture(96, 64), {"scale": 2}, width=512, height=256, resize_mode=mode, steps=2)
    assert outcome.sizes == [(192, 128)] and "Size: 96x64" in outcome.infotext
    assert (outcome.p.width, outcome.p.height) == (512, 256)


@pytest.mark.parametrize(
    "mode, corners, brought", [(0, True, "88x48"), (1, False, "64x32"), (2, True, "128x64"), (3, True, "88x48")]
)
def test_scale_1_leaves_the_size_to_the_tab(host, mode, corners, brought):
    """And the shape to its mode: cut, the picture loses two corners; else none."""
    image = picture(64, 64)
    outcome = drawn(
        host, image, {"scale": 1}, width=256, height=128, resize_mode=mode, denoising_strength=0
    )  # fmt: skip
    assert outcome.sizes == [(256, 128)] and "Size: 256x128" in outcome.infotext
    left = {1: 0, 2: 64}.get(mode, 0)
    corner = outcome.images[0][4, left + 4]
    assert bool(corner[0] > 200 and corner[1] < 60) is corners
    does = {0: "stretched", 1: "cropped", 2: "filled up", 3: "stretched"}[mode]
    assert f"the picture is {does} from 64x64 to {brought} px" in outcome.comments


def test_a_target_counts_before_the_tab(host):
    outcome = drawn(host, picture(), {"scale": 1, "target_width": 128}, width=192, height=192, steps=2)
    assert outcome.sizes == [(128, 128)] and "Size: 64x64" in outcome.infotext


def test_a_picture_of_odd_sides_loses_its_edge(host):
    outcome = drawn(host, picture(69, 67), {"scale": 2}, steps=2)
    assert outcome.sizes == [(128, 128)] and "the picture is cropped from 69x67 to 64x64 px" in outcome.comments


def test_a_larger_one_is_drawn_through_windows(host):
    outcome = drawn(host, picture(128, 128), {"scale": 2, "jitter": False}, steps=2)
    assert outcome.sizes == [(256, 256)] and "through windows of 64x64 px" in outcome.comments
    assert {tuple(x.shape[-2:]) for e in outcome.samplings[0].evaluations for x, _ in e.patches} == {(8, 8)}


def test_a_smaller_one_is_drawn_at_the_models_size_first(host):
    outcome = drawn(host, picture(32, 32), {"scale": 4}, steps=2)
    assert outcome.sizes == [(128, 128)] and "drawn at 64x64 px first" in outcome.comments
    assert [tuple(s.x.shape[-2:]) for s in outcome.samplings] == [(8, 8), (16, 16)]


@pytest.mark.parametrize("size", [(1, 1), (20000, 50), (7, 64)], ids=str)
def test_a_picture_of_no_use_is_refused_in_one_line(host, size):
    told = refused(host, Image.new("RGB", size), {"scale": 2})
    assert told.startswith(f"DemoFusion: the picture is {size[0]}x{size[1]} px, allowed: 8 to 16384 px a side")
    assert "\n" not in told


def test_no_picture_is_told(host):
    assert "the picture is missing" in refused(host, [None], {"scale": 2})


def test_the_tabs_size_out_of_reach_is_told_in_its_words(host):
    outcome = host.run(host.of_picture(picture(), {"scale": 1}, width=1024, height=1024, steps=2))
    assert "the tab's width is 1024, allowed: 64 to 512 for this picture (the nearest is 512)" in str(outcome.error)


# Kinds of pictures


def test_transparent_places_have_the_settings_colour(host):
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    host.opts.data["img2img_background_color"] = "#ff0000"
    outcome = drawn(host, image, {"scale": 2}, denoising_strength=0)
    assert (outcome.images[0] == (255, 0, 0)).all()


@pytest.mark.parametrize("mode", ["P", "L", "LA", "I;16", "1", "CMYK"])
def test_every_mode_is_drawn_as_it_looks(host, mode):
    grey = np.full((SIDE, SIDE), 128, np.uint8)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    outcome = drawn(host, image, {"scale": 2}, denoising_strength=0)
    assert abs(float(outcome.images[0].mean()) - 128) < 2.5


# What a run leaves


def test_the_infotext_pastes_to_the_same_picture(host):
    outcome = drawn(host, picture(), {"scale": 2}, denoising_strength=0.5)
    assert "Denoising strength: 0.5" in outcome.infotext and "DemoFusion enabled: True" in outcome.infotext
    assert "Schedule type: Automatic" in outcome.infotext


def test_kept_phases_are_those_that_were_drawn(host):
    outcome = drawn(host, picture(), {"scale": 3, "keep_phases": True}, steps=2)
    assert sorted(outcome.sizes) == [(128, 128), (192, 192)]


def test_a_kept_phase_is_held_as_the_result_is(host):
    one, two = (
        drawn(host, picture(), {"scale": scale, "keep_phases": True}, denoising_strength=0.3, steps=2)
        for scale in (2, 3)
    )
    at = two.sizes.index((128, 128))
    assert np.array_equal(one.images[0], two.images[at])


@pytest.mark.parametrize("number", [2, 3])
def test_a_stopped_run_shows_its_last_phase(host, number):
    whole = drawn(host, picture(), {"scale": 3}, steps=2)
    before = 0 if number == 2 else len(whole.samplings[0].calls)
    host.model.hooks.on_call = at_call(before, host.state.interrupt)
    outcome = drawn(host, picture(), {"scale": 3}, steps=2)
    assert outcome.sizes == [(SIDE * (number - 1),) * 2]
    assert f"interrupted in phase {number} of 3" in outcome.comments
    if number == 2:
        assert np.array_equal(outcome.images[0], np.array(picture()))


def test_interrupt_while_the_picture_is_encoded(host, vae, monkeypatch):
    coding = importlib.import_module("demofusion_lib.vae")
    encode, seen = coding.encode, []

    def pressed(*args, **options):
        seen.append(host.state.textinfo)
        host.state.interrupted = True
        return encode(*args, **options)

    monkeypatch.setattr(coding, "encode", pressed)
    outcome = drawn(host, picture(), {"scale": 2, "vae": "auto", "enlarge": "pixels"}, steps=2)
    assert seen == ["DemoFusion: encoding 64x64"] and outcome.sizes == [(SIDE, SIDE)]
    assert "interrupted in phase 2 of 2; this is the image of phase 1" in outcome.comments


@pytest.mark.parametrize("place", [2, 3])
def test_it_goes_on_from_saved_phases(host, place):
    settings = {"scale": 3, "save_phases": True, "enlarge": "pixels"}
    whole = drawn(host, picture(), {"scale": 3, "enlarge": "pixels"}, steps=2)
    before = 0 if place == 2 else len(whole.samplings[0].calls)
    host.model.hooks.on_call = at_call(before + 1, host.state.interrupt)
    drawn(host, picture(), settings, steps=2)
    host.model.hooks.on_call = lambda n: None
    assert "made with another picture" in refused(host, picture(seed=3), {**settings, "resume": "last"}, steps=2)
    assert "Denoising strength" in refused(
        host, picture(), {**settings, "resume": "last"}, steps=2, denoising_strength=0.9
    )
    resumed = drawn(host, picture(), {**settings, "resume": "last"}, steps=2)
    assert len(resumed.samplings) == 4 - place
    assert np.array_equal(resumed.images[0], whole.images[0])


def test_progress_is_told_of_the_phases_alone(host):
    drawn(host, picture(), {"scale": 3}, steps=2)
    assert host.shared.total_tqdm._total == 4


def test_two_runs_are_the_same(host):
    first, second = (
        drawn(host, picture(), {"scale": 2}, denoising_strength=0.5, sampler_name="Euler a") for _ in range(2)
    )
    assert np.array_equal(first.images[0], second.images[0]) and first.calls == second.calls > 0


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "DPM++ 2M SDE", "Heun", "DDIM", "UniPC", "LCM", "DPM2 a"])
def test_evaluations_are_those_that_were_planned(host, sampler):
    p = host.of_picture(picture(), {"scale": 3}, denoising_strength=0.5, sampler_name=sampler, **{**SIZE, "steps": 5})
    outcome = host.run(p)
    planning = importlib.import_module("demofusion_lib.webui.planning")
    settings = host.params.Params.from_names({"enabled": True, "preset": "none", "scale": 3})
    plan = planning.plan_of(p, settings)
    assert sum(len(call.x) for s in outcome.samplings for call in s.calls) == plan.total_evaluations


def test_one_request_after_another_of_a_folder(host):
    """The batch tab puts one picture after the other into the same object."""
    p = host.of_picture(picture(), {"scale": 2}, denoising_strength=0.3, **{**SIZE, "steps": 2})
    sizes = []
    for image in (picture(), picture(96, 64), picture(64, 96, seed=4)):
        p.init_images = [image]
        sizes += host.run(p).sizes
        assert (p.width, p.height) == (SIDE, SIDE)
    assert sizes == [(128, 128), (192, 128), (128, 192)]


def test_what_takes_no_part_is_told(host):
    host.install("refiner.safetensors", accent=0.5)
    fields = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.5, "initial_noise_multiplier": 1.1}
    plain = drawn(host, picture(), {"scale": 2}, steps=2)
    outcome = drawn(host, picture(), {"scale": 2}, steps=2, **fields)
    assert "the refiner takes no part" in outcome.comments and "the noise multiplier" in outcome.comments
    assert np.array_equal(outcome.images[0], plain.images[0])


# What it will come to


@pytest.mark.parametrize(
    ("image", "settings", "fields"),
    [
        ((SIDE, SIDE), {"scale": 2}, {"denoising_strength": 0.5}),
        ((SIDE, SIDE), {"scale": 3, "plan": "every", "start": 601, "steps": 2}, {"n_iter": 2}),
        ((32, 32), {"scale": 4}, {"denoising_strength": 0.3}),
        ((128, 96), {"scale": 1.5}, {"denoising_strength": 0.7, "batch_size": 2}),
        ((SIDE, SIDE), {"scale": 1}, {"width": 128, "height": 128}),
        ((100, 68), {"target_width": 128, "target_height": 128}, {"resize_mode": 1}),
        ((96, SIDE), {"target_width": 128, "target_height": 128}, {"resize_mode": 2}),
        ((SIDE, SIDE), {"scale": 2}, {"denoising_strength": 0.0}),
    ],
    ids=str,
)  # fmt: skip
def test_the_forecast_of_a_run(host, image, settings, fields):
    """Its rows, its sizes and what it tells."""
    forecast, seen = (importlib.import_module(f"demofusion_lib.webui.{name}") for name in ("forecast", "seen"))
    fields = {**SIZE, "denoising_strength": 1.0, **fields}
    of_picture = {name: fields[name] for name in ("denoising_strength", "resize_mode") if name in fields}
    others = {name: value for name, value in fields.items() if name not in of_picture}
    told = forecast.forecast(
        {"enabled": True, "preset": "none", "vae": "host", **settings}, sampler="Euler", cfg_scale=3.0,
        picture=seen.Picture([image], **of_picture), **others,
    )  # fmt: skip
    outcome = drawn(host, picture(*image), settings, **fields)
    assert told.error is None and told.evaluations == sum(map(rows, outcome.samplings))
    assert told.sizes[-1] == outcome.sizes[-1]
    for text in told.warnings:
        assert f"DemoFusion: {text}." in outcome.comments


@pytest.mark.parametrize("strength", [2.0, -0.1, float("nan")])
def test_a_strength_that_is_none(host, strength):
    """The page's slider keeps within, a request may not."""
    assert "denoising_strength is" in refused(host, picture(), {"scale": 2}, denoising_strength=strength)


def test_an_axis_in_its_plot(host):
    """A cell is drawn as if it had been asked for alone."""
    xyz = importlib.import_module("demofusion_lib.webui.xyz")
    cell = host.of_picture(picture(), None, denoising_strength=0.5, **SIZE)
    xyz.put(host.params.BY_NAME["scale"], cell, "2", ["2"])
    outcome = host.run(cell)
    alone = drawn(host, picture(), {"preset": "fine", "scale": 2}, denoising_strength=0.5)
    assert outcome.sizes == alone.sizes == [(128, 128)]
    assert np.array_equal(outcome.images[0], alone.images[0])


@pytest.mark.parametrize("file", ["sd_upscale.py", "ultimate-upscale.py"])
def test_scripts_that_draw_in_pieces_go_without(host, file):
    """Each of their pieces would be enlarged, and put together as if it were not."""
    chosen = types.SimpleNamespace(filename=f"/webui/scripts/{file}", title=lambda: "SD upscale")
    outcomes = []
    for settings in ({"scale": 2}, None):
        p = host.of_picture(picture(), settings, denoising_strength=0.5, **SIZE)
        p.scripts.selectable_scripts, p.script_args = [chosen], [1, *p.script_args[1:]]
        outcomes.append(host.run(p))
    assert np.array_equal(outcomes[0].images[0], outcomes[1].images[0])
    assert "left out, as the script SD upscale draws the picture in pieces" in outcomes[0].comments


def test_what_no_memory_holds_is_refused_before(host, monkeypatch):
    memory = importlib.import_module("demofusion_lib.vae.memory")
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 4 * 3 * 128 * 128 * 4 - 1)
    outcome = host.run(host.of_picture(picture(), {"scale": 2}, **SIZE, denoising_strength=0))
    assert "the result is 128x128 px, which takes 0.0 GiB of memory, allowed" in str(outcome.error)
    monkeypatch.setattr(memory, "free_host_bytes", lambda: 4 * 3 * 128 * 128 * 4)
    assert drawn(host, picture(), {"scale": 2}, denoising_strength=0).sizes == [(128, 128)]


def test_what_is_done_with_the_pixels_is_told(host):
    image = picture().convert("RGBA")
    image.putpixel((9, 9), (0, 0, 0, 0))
    outcome = drawn(host, image, {"scale": 2}, denoising_strength=0)
    assert "transparent in places: they are drawn as #ffffff" in outcome.comments
    assert "transparent" not in drawn(host, picture().convert("RGBA"), {"scale": 2}, denoising_strength=0).comments
    two = drawn(host, [picture(), picture(128, 64)], {"scale": 2}, denoising_strength=0, batch_size=2)
    assert "of several sizes: all are brought to the first one's" in two.comments


def test_a_mode_that_is_none_is_refused(host):
    assert "resize_mode is 7, allowed: 0 to 3" in refused(host, picture(), {"scale": 2}, resize_mode=7)


def test_a_target_below_the_picture_is_told_in_its_words(host):
    assert "allowed: 0, or 64 to 512 for this picture" in refused(host, picture(), {"target_width": 32})
