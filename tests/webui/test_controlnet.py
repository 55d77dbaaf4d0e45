"""ControlNet's units in the phases: what they add to each part is what they would add to the whole picture."""

import importlib

import pytest
import torch
import torch.nn.functional as F

from demofusion_lib.core import looking

LATE = {"preset": "none", "start": 600, "blur": 0}
PATHS = {"local": {"dilated": False}, "mixed": {"a2": 1.0}, "dilated": {"a2": 0.0}}
PHASES_ONLY, BASE_ONLY = "High res only", "Low res only"


@pytest.fixture
def cn(host):
    return importlib.import_module("controlling")


def added(host, cn, units, settings, phase=0, **fields):
    """What the units have added to the network's output, in the first evaluation of the phase; and its timestep.

    They take no part in the base image, so that the first evaluation sees the same latent without them.
    """
    units = [unit if hasattr(unit, "kind") else cn.unit(**unit) for unit in units]
    for unit in units:
        unit.hr_option = PHASES_ONLY
    plain = host.txt2img(settings, **fields)
    host.model.hooks.output = lambda n, output: output
    script = cn.Script(host, *units)
    drawn = host.txt2img(settings, scripts=(script,), **fields)
    host.model.hooks.output = lambda n, output: output
    assert not host.swallowed and "DemoFusion stopped" not in drawn.infotext
    first, other = (outcome.phases[phase].evaluations[0] for outcome in (drawn, plain))
    if phase == 0:
        assert torch.equal(first.x, other.x)
    t, factor = cn.level(first, fields.get("sampler_name", "Euler"), host.model)
    return (first.denoised - other.denoised) / factor, t, script.last


def expected(cn, host, settings, t, plane, dilation):
    """By hand: the map's own part, and in the dilated path a picture of it as much smaller as the sub-image is."""
    c2, s = host.params.Params.from_names({"preset": "none", **settings}).weights.c2(t), dilation
    kernel = cn.KERNEL.repeat_interleave(s, -2).repeat_interleave(s, -1) / s**2
    coarse = F.conv2d(F.pad(plane, [4 * (s - 1)] * 4, mode="replicate"), kernel, stride=8)
    return (1 - c2) * cn.linear(plane) + c2 * coarse


def near(one, other):
    return float((one - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))


FAMILIES = {
    "eps": ({}, "Euler"), "v": ({"parameterization": "v"}, "Euler"), "SDXL": ({"sdxl": True}, "Euler"),
    "DDIM": ({}, "DDIM"), "DDIM v": ({"parameterization": "v"}, "DDIM"),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("path", PATHS)
def test_a_linear_map_of_the_hint_is_that_of_the_whole_plane(host, cn, family, path):
    model, sampler = FAMILIES[family]
    host.install(**model)
    settings = {**LATE, **PATHS[path], "scale": 2}
    found, t, _ = added(host, cn, [{}], settings, width=96, sampler_name=sampler, batch_size=2, prompt="cat AND sea")
    plane = cn.picture(256, 192)
    assert near(found, expected(cn, host, settings, t, plane, 2).expand_as(found))
    assert near(found, cn.linear(plane).expand_as(found)) == (path == "local")


SIZES = {
    "portrait": ({"scale": 2.5}, (96, 128), (320, 240), (0, 0)),
    "wide, cropped": ({"target_width": 384, "target_height": 192}, (128, 128), (384, 384), (96, 0)),
    "tall, cropped": ({"target_width": 200, "target_height": 320}, (128, 128), (320, 320), (0, 60)),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("path", ["local", "mixed"])
def test_at_every_shape_the_hint_is_where_the_picture_is(host, cn, size, path):
    change, (width, height), whole, (top, left) = SIZES[size]
    settings = {**LATE, **PATHS[path], "plan": "direct", **change}
    found, t, _ = added(host, cn, [{}], settings, width=width, height=height)
    assert cn.FOUND[-1][:2] == whole
    rows, cols = (8 * n for n in found.shape[-2:])
    plane = cn.picture(*whole)[..., top : top + rows, left : left + cols]
    if path == "local":
        assert near(found, cn.linear(plane).expand_as(found))
    else:
        assert near(found, expected(cn, host, settings, t, plane, 3).expand_as(found))


LOCAL = {**LATE, **PATHS["local"], "scale": 2}
SQUARE = (256, 256)


def test_units_of_all_kinds_add_up(host, cn):
    units = [
        {"weight": 0.5}, {"kind": "T2I_Adapter", "seed": 2}, {"kind": "Controlllite", "seed": 3, "weight": 2.0}, {"kind": "ControlLoRA"},
    ]  # fmt: skip
    found, *_ = added(host, cn, units, LOCAL, batch_size=2)
    shown = zip((1, 2, 3, 1), (0.5, 1.0, 2.0, 1.0))
    expected = sum(weight * cn.linear(cn.picture(*SQUARE, seed=seed)) for seed, weight in shown)
    assert near(found, expected.expand_as(found))


@pytest.mark.parametrize("batch", [1, 5])
def test_the_maps_have_as_many_rows_as_the_call(host, cn, batch):
    """Of windows, sub-images and the shrunk whole; a window that is answered with NaN is asked for again as it was."""
    settings = {**LATE, "scale": 2, "window_batch": batch, "guidance": "low-pass", "residual": "x0"}
    _, _, network = added(host, cn, [{}], settings, width=96)
    assert {(height, width) for _, height, width in network.shown} == {(128, 96)}
    assert max(rows for rows, *_ in network.shown) <= max(batch, 2)


def test_a_window_that_is_asked_for_again_has_its_own_map(host, cn):
    script, broken = cn.Script(host, cn.unit(hr_option=PHASES_ONLY)), []
    plain = host.txt2img(LOCAL, scripts=(script,))
    entry = cn.Script.controlnet_main_entry

    def entry_with_nan(self, p):
        entry(self, p)
        own = self.latest_network.added

        def output(n, output):
            answer = own(n, output)
            if looking() is not None and not broken:
                broken.append(n)
                answer[1] = float("nan")
            return answer

        host.model.hooks.output = output

    script.controlnet_main_entry = entry_with_nan.__get__(script)
    mended = host.txt2img(LOCAL, scripts=(script,))
    assert broken and "NaN and drawn again" in mended.infotext
    assert near(mended.latents[-1], plain.latents[-1])


@pytest.mark.parametrize(
    ("guidance", "shows"), [((0.0, 0.39), False), ((0.0, 0.41), True), ((0.5, 1.0), False), ((0.3, 0.9), True)]
)
def test_a_unit_begins_and_ends_by_the_noise_that_is_left(host, cn, guidance, shows):
    """A phase from timestep 600 begins at two fifths of the way."""
    found, t, _ = added(host, cn, [{"guidance": guidance}], LOCAL)
    assert t == 600
    assert bool(found.abs().max() > 0.1) == shows


def test_units_for_the_base_image_alone(host, cn):
    units = [
        cn.unit(hr_option=BASE_ONLY),
        cn.unit("IPAdapter", hr_option=BASE_ONLY),
        cn.unit("Controlllite", hr_option=BASE_ONLY),
    ]
    script = cn.Script(host, *units)
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert not host.swallowed and "DemoFusion stopped" not in outcome.infotext
    base = outcome.base.calls
    assert not cn.FOUND and len(script.last.shown) == len(base) == 4
    plain = host.txt2img(None, scripts=(cn.Script(host, *units),))
    assert torch.equal(plain.base.evaluations[-1].denoised, outcome.base.evaluations[-1].denoised)


@pytest.mark.parametrize("ending", ["end", "error", "interrupt"])
def test_afterwards_the_units_are_as_the_extension_left_them(host, cn, ending):
    units = [
        cn.unit(),
        cn.unit("T2I_Adapter", cfg_injection=True),
        cn.unit("Controlllite"),
        cn.unit(hr_option=BASE_ONLY),
    ]
    script = cn.Script(host, *units)
    states = {}

    def state(network):
        return [
            {k: v for k, v in vars(owner).items() if k not in ("guidance_stopped", "used_hint_cond")}
            for param in network.control_params
            for owner in (param, param.control_model, *(param.control_model.modules.values() if param.control_model_type.name == "Controlllite" else ()))
            if owner is not None
        ]  # fmt: skip

    class After(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def process_before_every_sampling(self, p, *args, x, **kwargs):
            if x.shape[-1] == 16:
                states["before"] = state(script.latest_network)

        def post_sample(self, p, ps, *args):
            states["after"] = state(script.latest_network)
            states["count"] = len(script.latest_network.control_params)

    def act(n):
        if n == 6 and ending == "error":
            raise ValueError("broken")
        if n == 6 and ending == "interrupt":
            host.state.interrupt()

    host.model.hooks.on_call = act
    outcome = host.txt2img({**LATE, "scale": 2}, scripts=(script, After()))
    assert ("DemoFusion stopped" in outcome.infotext) == (ending != "end")
    assert states["count"] == 4
    for before, after in zip(states["before"], states["after"]):
        assert before.keys() == after.keys()
        assert all(before[k] is after[k] or k in ("control", "cond_emb", "hint_cond") for k in before)


def test_a_map_that_can_not_be_found_in_the_phases_size_is_enlarged(host, cn):
    found, *_ = added(host, cn, [{"maps": 2}], LOCAL, batch_size=2)
    larger = F.interpolate(cn.picture(128, 128), scale_factor=2, mode="bicubic").clamp(0, 1)
    assert near(found, cn.linear(larger).expand_as(found))
    script = cn.Script(host, cn.unit(broken=True, hr_option=PHASES_ONLY))
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert "the map of ControlNet's unit 1 is enlarged from the base image's" in outcome.infotext
    assert [text for text, _ in host.swallowed] == ["DemoFusion: ControlNet found no map in the phase's size"]


def test_maps_that_no_picture_of_the_batch_has_are_left_out(host, cn):
    script = cn.Script(host, cn.unit(maps=3, hr_option=PHASES_ONLY))
    plain = host.txt2img(LOCAL, batch_size=2)
    outcome = host.txt2img(LOCAL, scripts=(script,), batch_size=2)
    assert "unit 1 has 3 maps for 2 pictures and is left out of the phases" in outcome.infotext
    assert torch.equal(plain.latents[-1], outcome.latents[-1])


def test_the_found_resolution_grows_with_the_phase_as_far_as_the_picture_goes(host, cn):
    for own_px, pixel_perfect, resolution in (
        (200, True, 200),
        (1000, True, 256),
        (100, True, 128),
        (1000, False, 128),
    ):
        unit = cn.unit(own_px=own_px, pixel_perfect=pixel_perfect)
        added(host, cn, [unit], LOCAL)
        assert cn.FOUND[-1] == (*SQUARE, resolution)
        assert (unit.pixel_perfect, unit.processor_res) == (pixel_perfect, 128)


def test_a_mask_of_an_inpaint_unit_stays_in_place(host, cn):
    found, *_ = added(host, cn, [{"channels": 4, "module": "inpaint_global_harmonious"}], LOCAL)
    plane = cn.picture(*SQUARE, channels=4)
    mask = (plane[:, 3:] > 0.5).float()
    assert 0.1 < float(mask.mean()) < 0.9
    assert near(found, cn.linear(plane[:, :3] * (1 - mask) - mask).expand_as(found))


def test_a_region_stays_in_place(host, cn):
    region = torch.zeros(1, 1, 128, 128)
    region[..., :64] = 1
    for kind in ("ControlNet", "T2I_Adapter"):
        found, *_ = added(host, cn, [{"region": region, "kind": kind}], LOCAL)
        expected = cn.linear(cn.picture(*SQUARE)).expand_as(found)
        assert near(found[..., :15], expected[..., :15]) and float(found[..., 17:].abs().max()) < 1e-5


def test_an_adapter_for_the_prompt_alone(host, cn):
    found, *_ = added(
        host, cn, [{"kind": "T2I_Adapter", "cfg_injection": True}], LOCAL, batch_size=2, prompt="cat AND sea"
    )
    assert near(found[:4], cn.linear(cn.picture(*SQUARE)).expand(4, -1, -1, -1))
    assert float(found[4:].abs().max()) < 1e-5


def test_a_reference_is_shown_whole_to_every_window(host, cn):
    """As many of it as the call has rows, however many the base image's had."""
    script = cn.Script(host, cn.unit("AttentionInjection", module="reference_only"))
    outcome = host.txt2img({**LATE, "scale": 2, "window_batch": 5}, scripts=(script,))
    assert not host.swallowed and "DemoFusion stopped" not in outcome.infotext and not cn.FOUND


def test_prompts_that_are_encoded_anew_are_told_apart_for_the_extension(host, cn):
    host.install(sdxl=True)
    host.txt2img({**LATE, "scale": 3}, scripts=(cn.Script(host, cn.unit()),))
    assert cn.MARKED == [(False, True), (True, False)] * 2


def test_a_base_image_of_another_map_is_not_taken_over(host, cn):
    """What the infotext says of the units does not tell their pictures apart."""
    host.opts.data["demofusion_held_mb"] = 64
    one, other = (host.txt2img(LOCAL, scripts=(cn.Script(host, cn.unit(seed=seed)),)) for seed in (1, 2))
    assert not near(one.latents[-1], other.latents[-1])
    assert "taken over" not in other.comments and len(other.samplings) == 2


def test_without_units_nothing_is_touched(host, cn):
    plain = host.txt2img(LOCAL)
    outcome = host.txt2img(LOCAL, scripts=(cn.Script(host),))
    assert torch.equal(plain.latents[-1], outcome.latents[-1]) and outcome.infotext == plain.infotext


@pytest.mark.parametrize(("count", "units"), [(1, "its unit"), (2, "all of its 2 units")])
def test_units_that_the_extension_can_not_use_are_told_of(host, cn, count, units):
    class Refused(cn.Script):
        def process(self, p, *args):
            self.enabled_units = list(self.wanted)
            raise ValueError("no such model")

        def postprocess(self, p, processed, *args):
            self.enabled_units.clear()

    told = f"ControlNet draws without {units}, as one can't be used"
    outcome = host.txt2img(LOCAL, scripts=(Refused(host, *[cn.unit()] * count),))
    assert told in outcome.infotext and told in outcome.comments and outcome.sizes == [(256, 256)]
    assert "draws without" not in host.txt2img(LOCAL, scripts=(cn.Script(host, cn.unit()),)).infotext


def test_prompts_for_parts_of_the_picture_are_asked_with_their_own_map(host, cn):
    """A long one makes calls of its own."""
    regions = [{"prompt": "sea " * 90, "box": [0, 0, 0.5, 0.5]}, {"prompt": "sky", "box": [0.25, 0.5, 1, 1]}]
    found, *_ = added(host, cn, [{}], {**LOCAL, "regions": regions}, batch_size=2)
    assert near(found, cn.linear(cn.picture(*SQUARE)).expand_as(found))


def test_an_inpaint_unit_pastes_at_the_size_of_the_picture(host, cn):
    """What is far outside of the mask is the user's own picture; inside it is drawn; a base image has the extension's own."""
    unit = cn.unit(channels=4, module="inpaint_only")
    outcome = host.txt2img(LOCAL, scripts=(cn.Script(host, unit),), n_iter=2)
    plane = cn.picture(*SQUARE, channels=4)[0]
    mask = F.max_pool2d((plane[3:] > 0.5).float()[None], 31, 1, 15)[0, 0].bool()
    assert 0 < int((~mask).sum()) < mask.numel()
    for image in outcome.images:
        shown = torch.from_numpy(image).movedim(-1, 0) / 255
        apart = (shown - plane[:3]).abs().amax(0)
        assert float(apart[~mask].max()) < 0.01 and float(apart[mask].max()) > 0.1
    host.model.hooks.on_call = lambda n: host.state.interrupt() if n > 4 else None
    assert not host.txt2img(LOCAL, scripts=(cn.Script(host, unit),)).images[0].any()


def test_what_recolours_at_the_base_images_size_alone_is_named(host, cn):
    outcome = host.txt2img(LOCAL, scripts=(cn.Script(host, cn.unit(module="recolor_luminance")),))
    assert "unit 1 (recolor_luminance) finishes pictures of the base image's size alone" in outcome.infotext


def test_units_of_single_pictures_are_for_the_base_images_alone(host, cn):
    """The extension tells them by the rows of a call, which are windows in a phase."""
    for units, left_out in ((2, True), (1, False)):
        script = cn.Script(host, *[cn.unit(hr_option=PHASES_ONLY) for _ in range(units)])
        script.ui_batch_option_state[0] = "Each ControlNet unit for each image in a batch"
        outcome = host.txt2img(LOCAL, scripts=(script,), batch_size=2)
        assert ("each for one picture of the batch, take part in the base images alone" in outcome.infotext) == left_out
        assert (not script.last.shown) == left_out


@pytest.mark.parametrize("units", [0, 1])
def test_windows_are_not_aligned_with_each_other(host, cn, units):
    script = cn.Script(host, *[cn.unit() for _ in range(units)])
    script.ui_batch_option_state[1] = True
    seen = []
    host.script_callbacks.on_cfg_denoised(
        lambda params: seen.append(set(script.latest_network.machines)) or script.latest_network.machines.clear()
    )
    outcome = host.txt2img(LOCAL, scripts=(script,))
    aligned, read = {cn.Machine.StyleAlign}, {cn.Machine.Read}
    assert seen == [aligned] * 4 + [read] * (len(seen) - 4) and len(seen) > 4
    assert "StyleAlign takes part in the base images alone" in outcome.infotext
    assert script.last.attention_auto_machine is cn.Machine.StyleAlign


def test_after_another_model_took_the_unets_place_it_is_said(host, cn):
    """The doubles' refiner is another object, and so is the model that comes back."""
    host.install()
    host.install("refiner.safetensors", accent=0.3)
    script = cn.Script(host, cn.unit())

    def leave(params):
        vars(script.latest_network.model).pop("forward", None)

    host.script_callbacks.on_cfg_denoised(leave)
    outcome = host.txt2img(LOCAL, scripts=(script,))
    assert "ControlNet takes part in the base image alone, as another model was loaded" in outcome.infotext
    assert not cn.FOUND and "DemoFusion stopped" not in outcome.infotext


@pytest.mark.parametrize("size", [(128, 128), (200, 150), (90, 333)], ids=str)
def test_pictures_given_to_img2img_have_the_maps_of_their_phases(host, cn, size):
    from PIL import Image

    picture = Image.new("RGB", size, (200, 90, 30))
    script = cn.Script(host, cn.unit())
    p = host.of_picture(picture, LOCAL, scripts=(script,), width=size[0], height=size[1], denoising_strength=0.8)
    outcome = host.run(p)
    assert outcome.error is None and not host.swallowed and "DemoFusion stopped" not in outcome.infotext
    assert cn.FOUND[-1][:2] == outcome.sizes[0][::-1]
    assert script.last.shown


@pytest.mark.parametrize("images", [1, 2])
def test_tile_units_are_shown_what_the_phase_before_has_drawn(host, cn, images):
    """Each picture of a batch its own; the other units keep their maps."""
    settings = {**LOCAL, "tile_units": True}
    units = [{"module": "tile_resample"}, {"module": "depth", "seed": 2, "weight": 0.5}]
    found, *_ = added(host, cn, units, settings, batch_size=images, width=96)
    base = torch.cat(host.txt2img(None, batch_size=images, width=96).latents)
    drawn = base[:, :3].div(4).clamp(-1, 1).add(1).div(2).repeat_interleave(8, -1).repeat_interleave(8, -2)
    larger = F.interpolate(drawn, scale_factor=2, mode="bicubic").clamp(0, 1)
    expected = cn.linear(larger) + 0.5 * cn.linear(cn.picture(256, 192, seed=2))
    assert near(found, expected.repeat(2, 1, 1, 1))


def test_tile_units_keep_their_maps_where_that_is_not_asked(host, cn):
    found, *_ = added(host, cn, [{"module": "tile_resample", "seed": 2}], LOCAL, width=96)
    assert near(found, cn.linear(cn.picture(256, 192, seed=2)).repeat(2, 1, 1, 1))


def test_a_tile_model_is_known_by_its_name_and_none_is_missed(host, cn):
    added(host, cn, [{"model": "control_v11f1e_sd15_tile [a371b31b]", "module": "none"}], {**LOCAL, "tile_units": True})
    assert not cn.FOUND
    for units in ([], [cn.unit(module="canny")]):
        outcome = host.txt2img({**LOCAL, "tile_units": True}, scripts=(cn.Script(host, *units),))
        assert "no unit of ControlNet's is a tile unit, so that none follows the phase before" in outcome.infotext


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_an_ip_adapters_region_is_cut_to_the_tokens_of_each_window(host, cn, factor):
    """It counts the base image's tokens by itself, of which a window has as many at another place."""
    control = importlib.import_module("demofusion_lib.webui.units")
    core = importlib.import_module("demofusion_lib.core")
    region = torch.zeros(1, 1, 256, 384)
    region[..., 64:192, 128:] = 1
    phase = core.Phase(2, 2, 2.0, 32, 48, 2)
    views = [core.View(slice(8, 24), slice(8, 32), (8, 8)), core.View(slice(0, 16), slice(24, 48), (0, 24))]
    now = core.Looking(phase, 500.0, [0, 0], [0, 0], [False] * 2, views, core.Layout([views]))
    tokens = torch.ones(2, 16 * 24 // factor**2, 5)
    masked = control.masking(control.Plane(region))
    assert torch.equal(masked(tokens), tokens)  # in the base image's calls it is not ours to say
    with core.look(now):
        shares = masked(tokens).unflatten(1, (16 // factor, 24 // factor))
    for share, (rows, cols) in zip(shares, ((slice(8, 24), slice(8, 32)), (slice(0, 16), slice(24, 48)))):
        whole = region[0, 0, ::8, ::8][rows, cols][::factor, ::factor]
        assert torch.equal(share, whole[..., None].expand_as(share))


@pytest.mark.parametrize("kind", ["ControlNet", "T2I_Adapter", "Controlllite"])
@pytest.mark.parametrize("given", [{}, {"broken": True}], ids=["found", "enlarged"])
def test_behind_a_mask_phase_1_has_maps_of_its_own_size(host, cn, kind, given, monkeypatch):
    """Drawn at the model's size, or as a crop, it is not of the tab's size, in which the extension has found them."""
    from PIL import Image

    linear, shown = cn.linear, []
    monkeypatch.setattr(cn, "linear", lambda hint: linear(shown.append(hint) or hint))
    masked = {"mask": Image.new("L", (48, 32), 255), "mask_blur": 0, "inpaint_full_res": False, "inpainting_fill": 1}
    fields = {"width": 48, "height": 32, "steps": 2, **masked}
    script, picture = cn.Script(host, cn.unit(kind, **given)), Image.new("RGB", (48, 32), "gray")
    outcome = host.run(host.of_picture(picture, {"preset": "none", "scale": 4}, scripts=(script,), **fields))
    assert outcome.error is None and bool(host.swallowed) == bool(given) and outcome.sizes == [(192, 128)]
    assert ("is enlarged from the base image's" in outcome.infotext) == bool(given)
    height, width = (8 * cells for cells in outcome.base.calls[0].x.shape[-2:])
    assert (height, width) != (32, 48)
    plane = cn.picture(height, width)
    if given:
        plane = F.interpolate(cn.picture(32, 48), (height, width), mode="bicubic").clamp(0, 1)
    assert shown[0].shape == plane.shape and torch.allclose(shown[0], plane, atol=1e-5)
