"""Finished phases that are held in memory: what a later run takes over of them, to the bit, and what it must not."""

import enum
import importlib
import types

import numpy as np
import pytest
import torch

from .test_endings import at_call, calls_before

SIDE = 64
SIZE = {"width": SIDE, "height": SIDE, "steps": 4}
TOLD = "taken over from an earlier run"


@pytest.fixture(autouse=True)
def holding(host, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    host.opts.data["demofusion_held_mb"] = 16


def anew(host, settings, **fields):
    """A run from nothing."""
    store(host).clear()
    outcome = host.txt2img(settings, **{**SIZE, **fields})
    store(host).clear()
    return outcome


def store(host):
    return importlib.import_module("demofusion_lib.webui.held").STORE


def assert_same(one, other):
    assert torch.equal(one.latents[-1], other.latents[-1])
    assert all(map(np.array_equal, one.images, other.images)) and len(one.images) == len(other.images)
    assert one.processed.infotexts == other.processed.infotexts


SAMPLERS = ["Euler", "Euler a", "DPM++ 2M SDE", "Heun", "DDIM", "UniPC", "PLMS", "Restart", "LCM"]


def test_the_base_image_of_a_run_without_us_and_phases_of_a_smaller_run(host):
    for sampler in SAMPLERS:
        fields = {"sampler_name": sampler, "batch_size": 2, **SIZE}
        smaller, larger = (anew(host, {"scale": scale}, **fields) for scale in (2, 3))
        host.txt2img(None, **fields)
        outcome = host.txt2img({"scale": 2}, **fields)
        assert len(outcome.samplings) == 1 and f"phase 1 is {TOLD}" in outcome.comments, sampler
        assert_same(outcome, smaller)
        outcome = host.txt2img({"scale": 3}, **fields)
        assert len(outcome.samplings) == 1 and f"phases 1 to 2 are {TOLD}" in outcome.comments, sampler
        assert_same(outcome, larger)


@pytest.mark.parametrize("kind", ["seamless", "pixels", "v", "several", "late"])
def test_every_kind_of_picture(host, kind):
    settings = {"scale": 3, **({"enlarge": "pixels"} if kind == "pixels" else {})}
    settings |= {"start": 600, "residual": "x0"} if kind == "late" else {}
    fields = {"tiling": True} if kind == "seamless" else {"n_iter": 2} if kind == "several" else {}
    if kind == "v":
        host.install(parameterization="v")
    from_nothing = anew(host, settings, **fields)
    host.txt2img({**settings, "scale": 2}, **SIZE, **fields)
    outcome = host.txt2img(settings, **SIZE, **fields)
    assert len(outcome.samplings) == (2 if kind == "several" else 1)
    assert_same(outcome, from_nothing)


def test_a_batch_of_a_batch_count_serves_a_run_of_its_own_and_back(host):
    host.txt2img(None, **SIZE, n_iter=3)
    from_nothing = host.txt2img({"scale": 2}, **SIZE, seed=6)
    assert TOLD in from_nothing.comments
    assert_same(from_nothing, anew(host, {"scale": 2}, seed=6))


@pytest.mark.parametrize(
    ("size", "taken"), [("final", "phase 1 is"), ("phase", "phases 1 to 2 are"), ("base", "phases 1 to 2 are")]
)
def test_what_sdxl_is_told_of_the_final_size_counts(host, size, taken):
    host.install(sdxl=True)
    settings = {"scale": 3, "sdxl_size": size}
    from_nothing = anew(host, settings)
    host.txt2img({**settings, "scale": 2}, **SIZE)
    outcome = host.txt2img(settings, **SIZE)
    assert f"{taken} {TOLD}" in outcome.comments
    assert_same(outcome, from_nothing)


def test_a_run_that_all_is_held_of_is_only_decoded(host):
    from_nothing = host.txt2img({"scale": 3}, **SIZE)
    outcome = host.txt2img({"scale": 3}, **SIZE)
    assert outcome.calls == 0 and f"phases 1 to 3 are {TOLD}" in outcome.comments
    assert_same(outcome, from_nothing)


@pytest.mark.parametrize("first", [{"scale": 2}, {"scale": 3}, None], ids=str)
def test_kept_phases_are_shown_of_what_is_taken_over_too(host, first):
    settings = {"scale": 3, "keep_phases": True}
    from_nothing = anew(host, settings)
    host.txt2img(first, **SIZE)
    seen = []
    host.model.hooks.decoded = lambda image: (seen.append(host.state.textinfo), image)[1]
    outcome = host.txt2img(settings, **SIZE)
    assert TOLD in outcome.comments and len(outcome.images) == 3
    assert seen == [f"DemoFusion: decoding {side}x{side}" for side in (64, 128, 192)]  # in full, not as a preview
    assert_same(outcome, from_nothing)


def test_a_crop_to_a_target_shares_the_base_image_alone(host):
    settings = {"target_width": 128, "target_height": 192}
    from_nothing = anew(host, {**settings, "keep_phases": True})
    host.txt2img({"scale": 3}, **SIZE)
    outcome = host.txt2img({**settings, "keep_phases": True}, **SIZE)
    assert f"phase 1 is {TOLD}" in outcome.comments
    assert_same(outcome, from_nothing)


def test_a_refiner(host):
    host.install()
    host.install("refiner.safetensors")
    fields = {"refiner_checkpoint": "refiner", "refiner_switch_at": 0.5}
    from_nothing = anew(host, {"scale": 3}, **fields)
    host.txt2img({"scale": 2}, **SIZE, **fields)
    outcome = host.txt2img({"scale": 3}, **SIZE, **fields)
    assert f"phases 1 to 2 are {TOLD}" in outcome.comments and "Refiner: refiner" in outcome.infotext
    assert_same(outcome, from_nothing)
    kept = host.txt2img({"scale": 3, "keep_phases": True}, **SIZE, **fields)
    assert TOLD not in kept.comments  # its VAE decodes the base image
    assert_same(kept, anew(host, {"scale": 3, "keep_phases": True}, **fields))
    assert TOLD not in host.txt2img({"scale": 3}, **SIZE, **{**fields, "refiner_switch_at": 0.6}).comments


CHANGES = [
    {"prompt": "fog"}, {"negative_prompt": "fog"}, {"prompt": "cat <lora:one:0.5>"}, {"seed": 6}, {"steps": 5},
    {"cfg_scale": 4.0}, {"sampler_name": "Heun"}, {"scheduler": "Karras"}, {"s_churn": 5.0}, {"eta": 0.3}, {"width": 72},
    {"batch_size": 2}, {"tiling": True}, {"subseed_strength": 0.5}, {"seed_resize_from_h": 32, "seed_resize_from_w": 32},
    {"override_settings": {"CLIP_stop_at_last_layers": 2}}, {"override_settings": {"eta_noise_seed_delta": 7}},
    {"override_settings": {"s_min_uncond_all": True}}, {"disable_extra_networks": True}, {"styles": ["s"]},
]  # fmt: skip


def test_another_picture_is_not_taken(host):
    style = importlib.import_module("modules.styles").PromptStyle
    host.shared.prompt_styles.styles["s"] = style("s", "fog", "")
    host.txt2img({"scale": 2}, **SIZE)
    for change in CHANGES:
        outcome = host.txt2img({"scale": 2}, **{**SIZE, **change})
        assert TOLD not in outcome.comments and len(outcome.samplings) == 2, change
    assert TOLD in host.txt2img({"scale": 2}, **SIZE).comments


def test_other_settings_of_the_phases_share_the_base_image(host):
    changes = [{"a1": 2.0}, {"overlap": 0.25}, {"enlarge": "pixels"}, {"steps": 3}, {"phase_prompt": "fog"}, {"window_batch": 1}]  # fmt: skip
    from_nothing = [anew(host, {"scale": 2, **change}) for change in changes]
    host.txt2img({"scale": 2}, **SIZE)
    for change, expected in zip(changes, from_nothing):
        outcome = host.txt2img({"scale": 2, **change}, **SIZE)
        assert f"phase 1 is {TOLD}" in outcome.comments and len(outcome.samplings) == 1, change
        assert_same(outcome, expected)


@pytest.mark.parametrize("plan", ["every", "doubling", "direct"])
def test_a_plan_counts_by_the_sizes_that_it_goes_through(host, plan):
    from_nothing = anew(host, {"scale": 4, "plan": plan})
    host.txt2img({"scale": 2, "plan": "direct"}, **SIZE)
    outcome = host.txt2img({"scale": 4, "plan": plan}, **SIZE)
    assert len(outcome.samplings) == {"every": 2, "doubling": 1, "direct": 1}[plan]
    assert ("phases 1 to 2" in outcome.comments) == (plan != "direct")
    assert_same(outcome, from_nothing)


def test_another_model_is_not_taken(host):
    host.txt2img({"scale": 2}, **SIZE)
    host.install("other.safetensors")
    host.opts.sd_model_checkpoint = "other"
    assert TOLD not in host.txt2img({"scale": 2}, **SIZE).comments


Mode = enum.Enum("Mode", "CROP FILL")


def unit(mode):
    """As ControlNet's."""
    return types.SimpleNamespace(mode=mode, images=[{"image": np.zeros((2, 2, 3)), "mask": None}])


class Another:
    """An extension whose settings nobody else knows."""

    def script(self, host, hook=None):
        class Script(host.scripts.Script):
            def title(self):
                return "another"

            def show(self, is_img2img):
                return host.scripts.AlwaysVisible

        if hook:
            setattr(Script, hook, lambda self, p, *args, **kwargs: None)
        return Script()

    def run(self, host, settings, value, hook=None):
        p = host.generation(settings, **SIZE)
        p.scripts._add(self.script(host, hook), [value])
        p.script_args = tuple(p.scripts.inputs)
        outcome = host.run(p)
        assert outcome.error is None
        return outcome


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.5, 0.6), ("a", "b"), ({"weight": 1.0}, {"weight": 0.5}), (np.zeros((2, 2, 3)), np.ones((2, 2, 3))),
        (importlib.import_module("PIL.Image").new("L", (2, 2), 0), importlib.import_module("PIL.Image").new("L", (2, 2), 1)),
        (torch.zeros(3), torch.ones(3)), (unit(Mode.CROP), unit(Mode.FILL)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_another_extension_is_set_to_counts(host, one, other):
    another = Another()
    another.run(host, None, one)
    assert TOLD not in another.run(host, {"scale": 2}, other).comments
    assert TOLD in another.run(host, {"scale": 2}, one).comments


def test_a_setting_that_can_not_be_told_from_others_takes_nothing(host):
    another = Another()
    another.run(host, {"scale": 2}, iter([1]))
    assert TOLD not in another.run(host, {"scale": 2}, iter([1])).comments and not store(host).phases


def test_an_extension_that_may_change_what_was_sampled_leaves_nothing(host):
    another = Another()
    another.run(host, None, 1, "post_sample")
    assert TOLD not in another.run(host, {"scale": 2}, 1, "post_sample").comments
    assert TOLD in another.run(host, {"scale": 2}, 1, "post_sample").comments  # ours are seen before it


def test_what_is_told_of_a_prompt_counts(host):
    """The hashes of networks and embeddings, say: a file may be another under the same name."""

    class Hashes(host.scripts.Script):
        value = "one"

        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def process_batch(self, p, *args, **kwargs):
            p.extra_generation_params["Lora hashes"] = self.value

    script = Hashes()
    host.txt2img(None, scripts=(script,), **SIZE)
    assert TOLD in host.txt2img({"scale": 2}, scripts=(script,), **SIZE).comments
    script.value = "two"
    assert TOLD not in host.txt2img({"scale": 2}, scripts=(script,), **SIZE).comments


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_a_phase_that_was_stopped_is_not_held(host, how):
    stop = getattr(host.state, how)
    number = calls_before(host, 2, 1)
    from_nothing = anew(host, {"scale": 2})
    host.model.hooks.on_call = at_call(number, stop)
    host.txt2img({"scale": 2}, **SIZE)
    host.model.hooks.on_call = lambda n: None
    outcome = host.txt2img({"scale": 2}, **SIZE)
    assert f"phase 1 is {TOLD}" in outcome.comments and len(outcome.samplings) == 1
    assert_same(outcome, from_nothing)


@pytest.mark.parametrize("settings", [None, {"scale": 2}], ids=str)
def test_a_base_image_that_was_stopped_is_not_held(host, settings):
    host.model.hooks.on_call = at_call(1, host.state.interrupt)
    host.txt2img(settings, **SIZE)
    assert not store(host).phases


def test_hires_fix_leaves_nothing(host):
    host.txt2img(None, **SIZE, enable_hr=True)
    assert not store(host).phases


def test_a_file_counts_before_what_is_held(host):
    number = calls_before(host, 3, 1)
    store(host).clear()
    settings = {"scale": 3, "save_phases": True}
    host.model.hooks.on_call = at_call(number, host.state.interrupt)
    host.txt2img(settings, **SIZE)
    host.model.hooks.on_call = lambda n: None
    outcome = host.txt2img({**settings, "resume": "last"}, **SIZE)
    assert len(outcome.samplings) == 1 and TOLD not in outcome.comments


def test_what_is_taken_over_is_saved_as_if_it_was_drawn(host):
    saved = importlib.import_module("demofusion_lib.saved")
    host.txt2img({"scale": 2}, **SIZE)
    seen = []
    host.model.hooks.on_call = lambda n: seen.extend(
        saved.read(path).number for path in importlib.import_module("pathlib").Path("out/demofusion").glob("*.safetensors")
    )  # fmt: skip
    outcome = host.txt2img({"scale": 3, "save_phases": True}, **SIZE)
    assert TOLD in outcome.comments and set(seen) == {2}


class TestMemory:
    def test_there_is_no_more_than_the_limit_and_the_newest_stay(self, host, monkeypatch):
        each = 4 * 8 * 8 * 4
        monkeypatch.setattr(importlib.import_module("demofusion_lib.webui.held"), "most_bytes", lambda: 2 * each + 1)
        for seed in (5, 6, 5, 7):  # the second 5 is drawn again, and new again
            host.txt2img(None, **{**SIZE, "seed": seed})
            assert store(host).bytes <= 2 * each
        taken = {seed: TOLD in host.txt2img({"scale": 2}, **{**SIZE, "seed": seed}).comments for seed in (5, 7, 6)}
        assert taken == {5: True, 7: True, 6: False} and store(host).bytes <= 2 * each  # a phase has no room at all

    def test_none_where_it_is_0(self, host):
        host.opts.data["demofusion_held_mb"] = 0
        host.txt2img(None, **SIZE)
        host.txt2img({"scale": 2}, **SIZE)
        assert not store(host).phases

    def test_what_is_held_goes_when_it_is_turned_off(self, host):
        host.txt2img(None, **SIZE)
        host.opts.data["demofusion_held_mb"] = 0
        assert TOLD not in host.txt2img({"scale": 2}, **SIZE).comments and not store(host).phases

    def test_it_lies_on_the_cpu_and_is_nobodys_tensor(self, host):
        outcome = host.txt2img(None, **SIZE)
        (held,) = store(host).phases.values()
        assert torch.equal(held.phase.latent, outcome.latents[-1])
        assert held.phase.latent.data_ptr() != outcome.latents[-1].data_ptr()


def test_with_the_extension_off_nothing_is_taken_over(host):
    first = host.txt2img(None, **SIZE)
    again = host.txt2img(None, **SIZE)
    assert len(again.samplings) == 1 and again.calls == first.calls and not again.comments
    assert_same(again, first)
