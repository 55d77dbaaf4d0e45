"""Which rows see which windows, and what the model is told of each."""

import importlib

import pytest
import torch

LONG = "cat " * 90


@pytest.fixture
def looking(host):
    return importlib.import_module("witness")


def patches_by_row(evaluation, prompts_of_image, model):
    """For each image, for each of its texts that the model was asked about: the patches, in order."""
    keys = {
        tuple(model.encode(text)[0].tolist()): (i, text) for i, texts in enumerate(prompts_of_image) for text in texts
    }
    assert len(keys) == sum(len(texts) for texts in prompts_of_image)
    seen = [{} for _ in prompts_of_image]
    for patch, text in evaluation.patches:
        image, words = keys[tuple(text.tolist())]
        seen[image].setdefault(words, []).append(patch.numpy().tobytes())
    return seen


CASES = {
    "plain": ({}, [["cat"]], ["dog"], 4),
    "longer prompt": ({}, [[LONG]], ["dog"], 4),
    "longer negative prompt": ({}, [["cat"]], [LONG], 4),
    "rows apart": ({"batch_cond_uncond": False}, [["cat"]], ["dog"], 4),
    "AND": ({}, [["cat", "sea", "sky"]], ["dog"], 4),
    "AND, rows apart, longer prompt": ({"batch_cond_uncond": False}, [["cat", LONG]], ["dog"], 4),
    "batch": ({}, [["cat"], ["sea"]], ["dog", "fog"], 4),
    "batch, AND in one": ({}, [["cat", "sun"], ["sea"]], ["dog", "fog"], 4),
    "batch, AND in one, rows apart": ({"batch_cond_uncond": False}, [["cat"], ["sea", "sun"]], ["dog", "fog"], 4),
    "batch, AND in both, longer prompt": ({}, [["cat", "sun"], ["sea", LONG]], ["dog", "fog"], 4),
    "padded": ({"pad_cond_uncond": True}, [["cat", LONG]], ["dog"], 4),
    "NGMS": ({"s_min_uncond": 2000.0}, [["cat"], ["sea"]], ["dog", "fog"], 2),
    "NGMS, longer prompt": ({"s_min_uncond": 2000.0}, [["cat"], [LONG]], ["dog", "fog"], 2),
    "skip early CFG": ({"skip_early_cond": 0.25}, [["cat", "sun"], ["sea"]], ["dog", "fog"], 2),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_all_rows_of_an_image_see_the_same_windows(host, case, sampler):
    options, prompts, negatives, guided = CASES[case]
    for name, value in options.items():
        setattr(host.opts, name, value)
    outcome = host.txt2img(
        {"scale": 2}, prompt=[" AND ".join(texts) for texts in prompts], negative_prompt=negatives, steps=4 + (sampler == "DDIM"),
        batch_size=len(prompts), sampler_name=sampler,
    )  # fmt: skip
    assert not host.swallowed
    texts = [[*prompt, negative] for prompt, negative in zip(prompts, negatives)]
    with_negative, drawn = 0, set()
    for evaluation in outcome.phases[0].evaluations:
        seen = patches_by_row(evaluation, texts, host.model)
        for image, rows in enumerate(seen):
            first, *others = rows.values()
            assert all(row == first for row in others)
            assert set(texts[image]) - set(rows) <= {negatives[image]}
            drawn.add(tuple(first))
        with_negative += negatives[0] in seen[0]
    assert with_negative == guided
    assert len(drawn) == 4 * len(prompts)  # windows are drawn anew in each step, for each image


@pytest.mark.parametrize("case", ["AND", "batch, AND in one"])
def test_how_rows_are_batched_changes_nothing(host, case):
    _, prompts, negatives, _ = CASES[case]
    fields = {
        "prompt": [" AND ".join(texts) for texts in prompts], "negative_prompt": negatives, "batch_size": len(prompts)
    }  # fmt: skip
    together = host.txt2img({"scale": 2}, **fields)
    host.opts.batch_cond_uncond = False
    apart = host.txt2img({"scale": 2}, **fields)
    assert len(apart.phases[0].calls) > len(together.phases[0].calls)
    for one, other in zip(together.latents, apart.latents):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("sampler", ["Euler a", "DDIM", "DPM++ 2M SDE"])
def test_an_image_does_not_depend_on_its_batch(host, sampler):
    fields = {"sampler_name": sampler, "steps": 5}
    batch = host.txt2img({"scale": 2}, batch_size=2, **fields)
    singles = [host.txt2img({"scale": 2}, seed=seed, **fields) for seed in (5, 6)]
    for together, single in zip(batch.latents, singles):
        assert torch.allclose(together, single.latents[0], atol=1e-5 * float(together.abs().max()))
    assert not torch.allclose(batch.latents[0], batch.latents[1], atol=0.1)


@pytest.mark.parametrize("size", [1, 3, 64])
def test_the_model_gets_no_more_windows_than_asked(host, size):
    phase = host.txt2img({"scale": 2, "window_batch": size}).phases[0]
    assert max(len(call.x) for call in phase.calls) == min(size, 18)
    assert {call.x.shape[1:] for call in phase.calls} == {(4, 16, 16)}


def test_prompt_editing_counts_within_each_phase(host):
    outcome = host.txt2img({"scale": 3, "steps": 6}, prompt="[cat:sea:0.5]", steps=4, negative_prompt="dog")
    names = {tuple(host.model.encode(text)[0].tolist()): text for text in ("cat", "sea", "dog")}
    words = [
        [
            "".join({names[tuple(text.tolist())] for _, text in evaluation.patches} - {"dog"})
            for evaluation in s.evaluations
        ]
        for s in outcome.samplings
    ]
    assert words == [["cat"] * 3 + ["sea"], *[["cat"] * 4 + ["sea"] * 2] * 2]


def test_second_order_prompt_editing(host):
    """The webui counts evaluations; a second order sampler has nearly two to a step."""
    base, phase = host.txt2img({"scale": 2}, prompt="[cat:sea:0.5]", steps=4, sampler_name="Heun").samplings
    assert [e.patches[0][1].tolist() for e in base.evaluations] == [e.patches[0][1].tolist() for e in phase.evaluations]


class TestSdxl:
    """DDIM, whose model is given parts of `x` as they are, so that each patch can be found again."""

    fields = {"sampler_name": "DDIM", "steps": 4, "width": 96, "height": 128}  # noqa: RUF012

    def told(self, host, outcome, phase):
        """Each patch of a phase with the whole latent and the six numbers it came with."""
        for evaluation in outcome.phases[phase].evaluations:
            for call in evaluation.calls:
                for patch, numbers in zip(call.x, host.model.conditioner.read(call.vector)):
                    yield patch, evaluation.x[0], numbers

    @pytest.mark.parametrize("crop", [(0, 0), (16, 40)])
    @pytest.mark.parametrize("moving", [False, True])
    def test_crop_corner_of_each_window(self, host, looking, crop, moving):
        model = host.install(sdxl=True)
        if moving:  # as --medvram and --lowvram leave it
            model.embedder = None
        host.opts.sdxl_crop_top, host.opts.sdxl_crop_left = crop
        outcome = host.txt2img({"scale": 3, "blur": 0}, **self.fields)
        for phase, dilation in enumerate((2, 3)):
            corners, offsets = set(), set()
            for patch, whole, (_, _, top, left, _, _) in self.told(host, outcome, phase):
                corner = looking.find_window(patch, whole)
                if corner is None:
                    offsets.add(looking.find_dilated(patch, whole, dilation))
                    assert (top, left) == crop
                else:
                    corners.add(corner)
                    assert (top, left) == (crop[0] + 8 * corner[0], crop[1] + 8 * corner[1])
            assert len(corners) > (2 * dilation - 1) ** 2
            assert offsets == {(i, j) for i in range(dilation) for j in range(dilation)}

    def test_paper_border_counts_from_the_padded_edge(self, host, looking):
        host.install(sdxl=True)
        outcome = host.txt2img({"scale": 2, "blur": 0, "border": "paper"}, **self.fields)
        margins = (2, 1)  # (window - stride) / 4
        overhanging = 0
        for patch, whole, (_, _, top, left, _, _) in self.told(host, outcome, 0):
            if looking.find_dilated(patch, whole, 2):
                continue
            padded = torch.nn.functional.pad(whole, (margins[1],) * 2 + (margins[0],) * 2)
            assert (top, left) == tuple(8 * n for n in looking.find_window(patch, padded))
            overhanging += looking.find_window(patch, whole) is None
        assert overhanging

    @pytest.mark.parametrize(
        ("choice", "sizes"),
        [("final", [(384, 288)] * 2), ("phase", [(256, 192), (384, 288)]), ("base", [(128, 96)] * 2)],
    )
    def test_sizes_told(self, host, choice, sizes):
        host.install(sdxl=True)
        outcome = host.txt2img({"scale": 3, "sdxl_size": choice}, **self.fields)
        for phase, size in enumerate(sizes):
            told = {(*numbers[:2], *numbers[4:]) for _, _, numbers in self.told(host, outcome, phase)}
            assert told == {(*size, *size)}

    def test_the_rest_of_the_condition_is_the_hosts(self, host):
        host.install(sdxl=True)
        outcome = host.txt2img({"scale": 2}, prompt=["cat", "sea"], batch_size=2, **self.fields)
        for call in outcome.phases[0].calls:
            assert torch.equal(call.vector[:, :4], call.text[:, 0])

    def test_the_base_image_is_told_what_it_is_told_alone(self, host):
        host.install(sdxl=True)
        with_phases = host.txt2img({"scale": 2}, **self.fields).base
        alone = host.txt2img(None, **self.fields).base
        for one, other in zip(with_phases.calls, alone.calls, strict=True):
            assert torch.equal(one.vector, other.vector)
            assert torch.equal(one.x, other.x)
            assert torch.equal(one.text, other.text)


class TestImageConditions:
    fields = {"sampler_name": "DDIM", "steps": 4, "width": 96, "height": 128}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("settings", "tiling"),
        [
            ({"scale": 2}, False),
            ({"scale": 2.5, "border": "paper"}, False),
            ({"scale": 2}, True),
            ({"scale": 2.5}, True),
        ],
        ids=str,
    )
    def test_a_plane_is_cut_as_the_latent_is(self, host, settings, tiling):
        """Another extension shows an inpainting model planes in which each cell of each row holds its own place."""
        host.install(conditioning_key="hybrid")

        def numbered(params):
            count, _, height, width = params.x.shape
            if height > 16:
                cells = torch.arange(1, height * width + 1).float().view(1, 1, height, width)
                rows = cells + 10_000 * torch.arange(count).view(-1, 1, 1, 1)
                params.image_cond = rows.expand(count, 5, -1, -1)
            params.x = params.image_cond[:, :4].clone()

        host.script_callbacks.on_cfg_denoiser(numbered)
        outcome = host.txt2img({"blur": 0, **settings}, batch_size=2, **self.fields, tiling=tiling)
        assert not host.swallowed
        for phase in outcome.phases:
            for call in phase.calls:
                assert call.concat.shape == (len(call.x), 5, *call.x.shape[-2:])
                assert torch.equal(call.concat[:, :4], call.x)

    def test_a_plane_of_the_phases_size_is_made_without_encoding_it(self, host):
        host.install(conditioning_key="hybrid")
        outcome = host.txt2img({"scale": 3}, **self.fields)
        assert {call.concat.shape[1:] for call in outcome.phases[1].calls} == {(5, 16, 12)}
        assert set(host.model.encoded_sizes) == {(128, 96)}
        base = outcome.base.evaluations[0].image_cond
        for scale, phase in zip((2, 3), outcome.phases, strict=True):
            enlarged = base.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
            assert all(torch.equal(evaluation.image_cond, enlarged) for evaluation in phase.evaluations)

    def test_the_cell_that_nobody_reads_goes_with_its_row(self, host):
        outcome = host.txt2img({"scale": 2}, **self.fields)
        for call in outcome.phases[0].calls:
            assert call.concat.shape == (len(call.x), 5, 1, 1)


def test_noise_of_variation_seeds(host):
    """Each phase begins with the noise that the webui would draw for an image of its size."""
    outcome = host.txt2img({"scale": 2}, subseed=77, subseed_strength=0.4)
    expected = host.rng.ImageRNG((4, 32, 32), [5], subseeds=[77], subseed_strength=0.4).next()
    assert torch.equal(outcome.phases[0].noise, expected)


def test_extra_networks_stay_as_the_base_had_them(host):
    host.txt2img({"scale": 2}, prompt="cat <lora:fur:0.5>")
    assert [event for event, _ in host.extra_networks._events] == ["activate", "deactivate"]
