"""The family's own ControlNet in the phases: what it adds to each part is what it would add to the whole picture."""

import importlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from tests.webui.test_controlnet import LATE, LOCAL, PATHS, SIZES, SQUARE, expected, near

from . import controlling
from .controlling import unit

KINDS = ("reForge", "Forge")
PHASES_ONLY, BASE_ONLY = "High res only", "Low res only"


@pytest.fixture
def cn(host):
    return importlib.import_module("controlling")


def level(evaluation, model):
    """Its timestep, and by what the network's output counts in the denoised."""
    sigma, squared = float(evaluation.sigma[0]), model.alphas_cumprod
    t = float((((1 - squared) / squared).log() / 2 - math.log(sigma)).abs().argmin())
    return t, -sigma / (math.sqrt(sigma**2 + 1) if model.parameterization == "v" else 1)


def added(host, kind, units, settings, phase=0, **fields):
    """What the units have added to the network's output, in the first evaluation of the phase; its timestep; the script."""
    for each in units:
        each.hr_option = PHASES_ONLY
    script = controlling.script_of(host, kind, *units)
    plain, drawn = (host.txt2img(settings, scripts=scripts, **fields) for scripts in ((), (script,)))
    assert not host.swallowed and "DemoFusion stopped" not in drawn.infotext
    first, other = (outcome.phases[phase].evaluations[0] for outcome in (drawn, plain))
    assert torch.equal(first.x, other.x)
    t, factor = level(first, host.model)
    return (first.guided - other.guided) / factor, t, script


FAMILIES = {
    "eps": ({}, "Euler", "reForge"), "eps, Forge": ({}, "Euler", "Forge"),
    "v": ({"parameterization": "v"}, "Heun", "reForge"), "SDXL": ({"sdxl": True}, "Euler", "Forge"),
    "DDIM": ({}, "DDIM", "reForge"),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", PATHS)
def test_a_linear_map_of_the_hint_is_that_of_the_whole_plane(host, cn, as_forge, path, family):
    model, sampler, kind = FAMILIES[family]
    host.install(**model)
    as_forge(kind)
    settings = {**LATE, **PATHS[path], "scale": 2}
    found, t, _ = added(
        host, kind, [unit()], settings, width=96, sampler_name=sampler, batch_size=2, prompt="cat AND sea"
    )
    plane = cn.picture(256, 192)
    assert near(found, expected(cn, host, settings, t, plane, 2).expand_as(found))
    assert near(found, cn.linear(plane).expand_as(found)) == (path == "local")


@pytest.mark.parametrize("most_chunks", [1, 2])
def test_calls_cut_up_for_want_of_memory(host, cn, as_forge, most_chunks):
    as_forge("Forge").most_chunks = most_chunks
    heavy = unit(positive={"output": [0.5]}, negative={"output": [0.0]})
    found, *_ = added(host, "Forge", [heavy], LOCAL, prompt="cat AND sea", batch_size=2)
    assert near(found, 3 * 2 * 0.5 * cn.linear(cn.picture(*SQUARE)).expand_as(found))  # CFG, the weights' sum


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("path", "kind"), [("local", "Forge"), ("mixed", "reForge")])
def test_at_every_shape_the_hint_is_where_the_picture_is(host, cn, as_forge, path, size, kind):
    as_forge(kind)
    change, (width, height), whole, (top, left) = SIZES[size]
    settings = {**LATE, **PATHS[path], "plan": "direct", **change}
    found, t, script = added(host, kind, [unit()], settings, width=width, height=height)
    assert cn.FOUND[-1][:2] == whole
    rows, cols = (8 * n for n in found.shape[-2:])
    plane = cn.picture(*whole)[..., top : top + rows, left : left + cols]
    by_hand = cn.linear(plane) if path == "local" else expected(cn, host, settings, t, plane, 3)
    assert near(found, by_hand.expand_as(found))
    assert all(max(latent[2:]) <= 16 for latent, _, _ in script.calls)


@pytest.mark.parametrize("kind", [*KINDS, "Forge Classic"])
def test_units_of_all_kinds_add_up(host, cn, as_forge, kind):
    as_forge(kind)
    units = [unit(weight=0.5), unit("adapter", seed=2), unit("lite", seed=3, weight=2.0)]
    found, *_ = added(host, kind, units, LOCAL, batch_size=2)
    shown = zip((1, 2, 3), (0.5, 1.0, 2.0), strict=True)
    by_hand = sum(weight * cn.linear(cn.picture(*SQUARE, seed=seed)) for seed, weight in shown)
    assert near(found, by_hand.expand_as(found))


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_than_a_part_is_asked_for(host, as_forge, kind):
    """The host would ask for the whole latent by itself; what it loads and reckons with for them stays."""
    family = as_forge(kind)
    script = controlling.script_of(host, kind, unit(), unit())
    outcome = host.txt2img({"scale": 4, "plan": "direct", "window_batch": 3}, width=64, height=64, scripts=(script,))
    assert {latent[2:] for latent, _, _ in script.calls} == {(8, 8)}
    assert all(hint[2:] == (64, 64) for _, hint, _ in script.calls)
    assert max(latent[0] for latent, _, _ in script.calls) == 3
    assert [len(models) for models in family.loaded] == [2, 2] and family.prepared == [2 * 64 + 14, 3 * 64 + 14]
    assert len(outcome.phases) == 1


@pytest.mark.parametrize("setting", [{"weight": 1.0}, {"positive": {"output": [0.5]}, "negative": {"output": [0.25]}}])
def test_weights_of_prompts_and_negatives(host, cn, as_forge, setting):
    """Of patches of both kinds in one call; low-pass guidance asks for each kind apart."""
    as_forge("Forge")
    found, *_ = added(host, "Forge", [unit(**setting)], LOCAL, cfg_scale=3)
    positive, negative = (setting.get(sign, {"output": [1.0]})["output"][0] for sign in ("positive", "negative"))
    share = negative + 3 * (positive - negative)
    assert near(found, share * cn.linear(cn.picture(*SQUARE)).expand_as(found))


def test_weights_of_pictures_and_of_levels(host, cn, as_forge):
    as_forge("Forge")
    heavy = unit(frames=[0.25, 2.0], sigmas=lambda sigma: sigma * 0 + 0.5, masked=True)
    found, *_ = added(host, "Forge", [heavy], LOCAL, batch_size=2)
    region = F.interpolate(controlling.mask_of(*SQUARE), size=found.shape[-2:], mode="bilinear")
    by_hand = 0.5 * region * cn.linear(cn.picture(*SQUARE))
    assert near(found, torch.cat([0.25 * by_hand, 2.0 * by_hand]))


@pytest.mark.parametrize(
    ("start", "end", "shows"), [(0.0, 0.39, False), (0.0, 0.41, True), (0.5, 1.0, False), (0.3, 0.9, True)]
)
@pytest.mark.parametrize(("model", "kind"), [("net", "reForge"), ("lite", "Forge"), ("shrunk", "Forge")])
def test_a_unit_begins_and_ends_by_the_noise_that_is_left(host, as_forge, start, end, shows, model, kind):
    """A phase from timestep 600 begins at two fifths of the way, also where the whole is shrunk and its noise with it."""
    as_forge(kind)
    settings = {**LOCAL, "guidance": "low-pass"} if model == "shrunk" else LOCAL
    found, t, _ = added(host, kind, [unit(model, guidance_start=start, guidance_end=end)], settings, steps=10)
    assert t == 600
    assert bool(found.abs().max() > 0.1) == shows


def test_a_unit_that_ends_is_asked_for_the_shrunk_whole_as_long_as_for_windows(host, as_forge):
    as_forge("Forge")
    *_, script = added(host, "Forge", [unit(guidance_end=0.41)], {**LATE, "scale": 2, "guidance": "low-pass"}, steps=10)
    sigmas = host.model.forge_objects.unet.model.levels.sigmas
    shrunk = [sigma for _, _, sigma in script.calls if sigma < 0.75 * float(sigmas[590])]
    assert shrunk and len({round(sigma, 4) for sigma in shrunk}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_units_for_the_base_image_alone_and_for_the_phases_alone(host, as_forge, kind):
    as_forge(kind)
    drawn = {}
    for option in (BASE_ONLY, PHASES_ONLY, 1, "HiResFixOption.HIGH_RES_ONLY", "Both"):
        script = controlling.script_of(host, kind, unit(hr_option=option))
        host.txt2img(LOCAL, scripts=(script,))
        rows = [latent[0] for latent, _, _ in script.calls]
        drawn[option] = 2 in rows, max(rows) > 2
    assert drawn == {
        BASE_ONLY: (True, False), PHASES_ONLY: (False, True), 1: (True, False),
        "HiResFixOption.HIGH_RES_ONLY": (False, True), "Both": (True, True),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "kind"), [("end", "Forge"), ("end", "reForge"), ("error", "Forge"), ("interrupt", "reForge")]
)
def test_afterwards_all_is_as_it_was(host, as_forge, kind, ending):
    as_forge(kind)
    model, script = host.model, controlling.script_of(host, kind, unit(), unit("adapter"), unit("lite"))
    before = host.txt2img(None, scripts=(script,))
    state, kept = dict(vars(script)), []

    def act(n):
        kept.extend(model.forge_objects.unet.list_controlnets())
        if n == 6 and ending == "error":
            raise ValueError("broken")
        if n == 6 and ending == "interrupt":
            host.state.interrupt()

    model.hooks.on_call = act
    outcome = host.txt2img({**LATE, "scale": 2}, scripts=(script,))
    model.hooks.on_call = lambda n: None
    assert ("DemoFusion stopped" in outcome.infotext) == (ending != "end")
    assert vars(script).keys() == state.keys()
    for objects in (model.forge_objects, model.forge_objects_after_applying_lora, model.forge_objects_original):
        assert "model_function_wrapper" not in objects.unet.model_options
        assert all(net.cond_hint_original.shape[-1] == 128 for net in objects.unet.list_controlnets())
    assert not hasattr(outcome.p, "enable_hr") or not outcome.p.enable_hr
    nets = [net for net in kept if isinstance(net, controlling.ControlNet)]
    assert len({id(net) for net in nets}) > 2
    assert all(net.cond_hint is None and net.cond_hint_original.shape[-1] in (128, 256) for net in nets)
    after = host.txt2img(None, scripts=(script,))
    assert np.array_equal(before.images[0], after.images[0])


@pytest.mark.parametrize("kind", KINDS)
def test_maps_that_cannot_be_found_in_the_phases_size_are_enlarged(host, cn, as_forge, kind):
    """One for each picture; or where the script breaks."""
    as_forge(kind)
    found, *_ = added(host, kind, [unit(maps=2)], LOCAL, batch_size=2)
    larger = [F.interpolate(cn.picture(128, 128, seed=s), scale_factor=2, mode="bicubic").clamp(0, 1) for s in (1, 2)]
    assert near(found, cn.linear(torch.cat(larger)))
    script = controlling.script_of(host, kind, unit(broken=True))
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert "the map of ControlNet's unit 1 is enlarged from the base image's" in outcome.infotext
    assert [text for text, _ in host.swallowed] == ["DemoFusion: ControlNet found no map in the phase's size"]


def test_each_batch_of_a_run_has_its_own_maps(host, cn, as_forge):
    """reForge keeps the maps of all of them."""
    as_forge("reForge")
    script = controlling.script_of(host, "reForge", unit(maps=4, hr_option=PHASES_ONLY))
    plain, drawn = (host.txt2img(LOCAL, scripts=scripts, batch_size=2, n_iter=2) for scripts in ((), (script,)))
    (first, other), factor = ((o.samplings[3].evaluations[0] for o in (drawn, plain)), None)
    _, factor = level(first, host.model)
    larger = [F.interpolate(cn.picture(128, 128, seed=s), scale_factor=2, mode="bicubic").clamp(0, 1) for s in (3, 4)]
    assert near((first.guided - other.guided) / factor, cn.linear(torch.cat(larger)))


def test_the_found_resolution_grows_with_the_phase_as_far_as_the_picture_goes(host, cn, as_forge):
    as_forge("Forge")
    for given, pixel_perfect, resolution in ((200, True, 200), (1000, True, 256), (100, True, 128), (1000, False, 512)):
        own = unit(given=given, pixel_perfect=pixel_perfect)
        added(host, "Forge", [own], LOCAL)
        assert cn.FOUND[-1] == (*SQUARE, resolution)
        assert own.pixel_perfect == pixel_perfect and own.save_detected_map


def test_a_mask_of_an_inpaint_unit_stays_in_place(host, cn, as_forge, monkeypatch):
    """In the dilated path nothing is mixed of what the mask hides and what it doesn't."""
    as_forge("Forge")
    inpaint = unit(module="inpaint_global_harmonious", masked=True)
    plane, mask = cn.picture(*SQUARE), controlling.mask_of(*SQUARE)
    found, *_ = added(host, "Forge", [inpaint], LOCAL)
    assert near(found, cn.linear(plane * (1 - mask) - mask).expand_as(found))
    hints, own = [], controlling.linear
    monkeypatch.setattr(controlling, "linear", lambda hint: hints.append(hint) or own(hint))
    host.txt2img({**LATE, **PATHS["dilated"], "scale": 2}, scripts=(controlling.script_of(host, "Forge", inpaint),))
    assert hints and all(bool(((hint == -1) | (hint >= 0)).all()) for hint in hints)


@pytest.mark.parametrize("ending", ["end", "interrupt"])
def test_an_inpaint_unit_pastes_at_the_size_of_the_picture(host, cn, as_forge, ending):
    """Also where a later phase was begun: the preprocessor keeps what it was shown last."""
    as_forge("Forge")
    if ending == "interrupt":
        host.model.hooks.on_call = lambda n: host.state.interrupt() if n == 6 else None
    script = controlling.script_of(host, "Forge", unit(module="inpaint_only", masked=True))
    outcome = host.txt2img(LOCAL, scripts=(script,))
    size = SQUARE if ending == "end" else (128, 128)
    assert not host.swallowed and outcome.images[0].shape[:2] == size
    plane, mask = cn.picture(*size)[0], controlling.mask_of(*size)[0, 0].bool()
    apart = (torch.from_numpy(outcome.images[0]).movedim(-1, 0) / 255 - plane).abs().amax(0)
    assert float(apart[~mask].max()) < 0.01 and float(apart[mask].max()) > 0.1


def test_what_recolours_does_so_at_the_size_of_the_picture(host, cn, as_forge):
    as_forge("Forge")
    script = controlling.script_of(host, "Forge", unit(module="recolor_luminance"))
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert not host.swallowed and outcome.images[0].shape[:2] == SQUARE
    shades = torch.from_numpy(outcome.images[0]).float().mean(-1) / 255
    wanted = cn.picture(*SQUARE)[0].mean(0)
    assert float((shades - wanted).abs().median()) < 0.01 < float((shades.T - wanted).abs().median())


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"module": "reference_only"}, "unit 2 (reference_only) draws in the base image only: it needs the whole picture"),
        ({"kind": "fooocus"}, "unit 2 (depth) draws in the base image only: it adds to the network"),
        ({"kind": "ip", "masked": True}, "unit 2 (depth) draws in the base image only: it has a mask"),
    ],
)  # fmt: skip
def test_what_cannot_follow_is_left_out_by_name(host, cn, as_forge, wrong, named):
    """The units beside it take part."""
    as_forge("Forge")
    script = controlling.script_of(host, "Forge", unit(), unit(**wrong))
    alone = controlling.script_of(host, "Forge", unit())
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert f"ControlNet's {named}" in outcome.infotext and not host.swallowed
    assert script.current_params == {} and len(alone.calls) == 0
    host.txt2img(LOCAL, scripts=(alone,))
    assert len([call for call in script.calls if call[1][-1] == 128]) >= len(alone.calls) > 4


def test_an_ip_adapter_without_a_mask_is_shown_to_every_window(host, as_forge):
    as_forge("Forge")
    outcome = host.txt2img(LOCAL, scripts=(controlling.script_of(host, "Forge", unit("ip")),))
    assert "ControlNet's" not in outcome.infotext and not host.swallowed
    (_, options, _) = host.model.forge_objects.unet.model.controls[-1]
    assert len(options["adapters"]) == 1


def test_colours_are_kept_in_the_base_image_only(host, as_forge):
    as_forge("Forge")
    script = controlling.script_of(host, "Forge", unit(module="tile_colorfix"))
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert "ControlNet's unit 1 (tile_colorfix) keeps the colours in the base image only" in outcome.infotext
    assert script.kept["tile_colorfix"].whole == [(128, 128)]
    (_, options, _) = host.model.forge_objects.unet.model.controls[-1]
    assert "block_modifiers" not in options and any(call[0][-1] == 16 for call in script.calls[5:])


def test_an_unknown_unit_that_patches_the_unet_is_named(host, as_forge):
    as_forge("Forge")
    outcome = host.txt2img(LOCAL, scripts=(controlling.script_of(host, "Forge", unit("another")),))
    assert "what ControlNet's unit 1 (depth) does to the UNet it does to every window" in outcome.infotext
    assert outcome.comments.count("it does to every window") == 1


def test_a_hint_that_no_unit_has_set(host, cn, as_forge):
    """Another extension's, of any size: its middle, in the picture's shape, as the host shows it."""
    as_forge("Forge")
    for size in ((100, 100), (128, 200)):
        picture = cn.picture(*size)

        class Links(host.scripts.Script):
            def show(self, is_img2img):
                return host.scripts.AlwaysVisible

            def process_before_every_sampling(self, p, *args, x, picture=picture, **kwargs):
                unet = p.sd_model.forge_objects.unet.clone()
                if x.shape[-1] > 16:
                    unet.add_patched_controlnet(controlling.ControlNet().set_cond_hint(picture))
                p.sd_model.forge_objects.unet = unet

        plain, drawn = (host.txt2img(LOCAL, scripts=scripts) for scripts in ((), (Links(),)))
        first, other = (o.phases[0].evaluations[0] for o in (drawn, plain))
        middle = picture[..., (size[1] - size[0]) // 2 :][..., : size[0]]
        larger = F.interpolate(middle, size=SQUARE, mode="bicubic").clamp(0, 1)
        assert near((first.guided - other.guided) / level(first, host.model)[1], cn.linear(larger))


@pytest.mark.parametrize("size", [(128, 128), (90, 333)], ids=str)
def test_pictures_given_to_img2img_have_the_maps_of_their_phases(host, cn, as_forge, size):
    as_forge("reForge")
    script = controlling.script_of(host, "reForge", unit())
    picture = Image.new("RGB", size, (200, 90, 30))
    p = host.of_picture(picture, LOCAL, scripts=(script,), width=size[0], height=size[1], denoising_strength=0.8)
    outcome = host.run(p)
    assert outcome.error is None and not host.swallowed and "DemoFusion stopped" not in outcome.infotext
    assert "enlarged from" not in outcome.infotext
    assert cn.FOUND[-1][:2] == outcome.sizes[0][::-1] and script.calls


@pytest.mark.parametrize("images", [1, 2])
def test_tile_units_are_shown_what_the_phase_before_has_drawn(host, cn, as_forge, images):
    as_forge("reForge")
    units = [unit(module="tile_resample"), unit(seed=2, weight=0.5)]
    found, *_ = added(host, "reForge", units, {**LOCAL, "tile_units": True}, batch_size=images, width=96)
    base = torch.cat(host.txt2img(None, batch_size=images, width=96).latents)
    drawn = base[:, :3].div(4).clamp(-1, 1).add(1).div(2).repeat_interleave(8, -1).repeat_interleave(8, -2)
    larger = F.interpolate(drawn, scale_factor=2, mode="bicubic").clamp(0, 1)
    assert near(found, cn.linear(larger) + 0.5 * cn.linear(cn.picture(256, 192, seed=2)))
    for some in ([], [unit()]):
        outcome = host.txt2img({**LOCAL, "tile_units": True}, scripts=(controlling.script_of(host, "reForge", *some),))
        assert "no unit of ControlNet's is a tile unit" in outcome.infotext


def test_prompts_for_parts_of_the_picture_are_asked_with_their_own_map(host, cn, as_forge):
    as_forge("Forge")
    regions = [{"prompt": "sea " * 90, "box": [0, 0, 0.5, 0.5]}, {"prompt": "sky", "box": [0.25, 0.5, 1, 1]}]
    found, *_ = added(host, "Forge", [unit()], {**LOCAL, "regions": regions}, batch_size=2)
    assert near(found, cn.linear(cn.picture(*SQUARE)).expand_as(found))


@pytest.mark.parametrize("kind", KINDS)
def test_without_units_nothing_is_touched(host, as_forge, kind):
    as_forge(kind)
    plain, beside = (host.txt2img(LOCAL, scripts=scripts) for scripts in ((), (controlling.script_of(host, kind),)))
    assert np.array_equal(plain.images[0], beside.images[0]) and plain.infotext == beside.infotext


def test_a_fault_of_the_scripts_own_is_named(host, as_forge):
    as_forge("Forge")
    script = controlling.script_of(host, "Forge", unit(module="inpaint_only"))  # without a mask
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert "a unit of ControlNet's is left out of phase 2 (" in outcome.infotext


def level_sizes(height, width, levels=4):
    """Of a UNet, whose halving convolutions round up."""
    sizes = [(height, width)]
    for _ in range(levels - 1):
        sizes.append(tuple(-(-length // 2) for length in sizes[-1]))
    return sizes


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("size", [(64, 64), (54, 40), (13, 9)], ids=str)
def test_a_controllllite_answers_for_each_token(host, depth, size):
    """Its convolutions, as they are for each depth; what is beyond the picture is at the right and below."""
    maps = importlib.import_module("demofusion_lib.webui.maps")
    strides = {1: (4, 2), 2: (4, 4), 3: (4, 4, 2)}[depth]
    lite = torch.nn.Sequential(*(torch.nn.Conv2d(3, 3, stride, stride) for stride in strides))
    lite.depth = depth
    image = torch.rand(1, 3, *(8 * length for length in size))
    shown = maps.whole_steps(lite, image)
    assert tuple(lite(shown).shape[-2:]) == level_sizes(*size)[depth - 1]
    assert torch.equal(shown[..., : image.shape[-2], : image.shape[-1]], image)
