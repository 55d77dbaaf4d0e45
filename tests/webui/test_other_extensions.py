"""Other extensions in the same webui: what they are told, what they replace, and generations within generations."""

import copy

import numpy as np
import pytest


def test_every_phase_is_announced_once_and_in_order(host):
    outcome = host.txt2img({"scale": 2.5}, width=96, height=128, batch_size=2)
    assert [tuple(s.x.shape) for s in outcome.samplings] == [(2, 4, 16, 12), (2, 4, 32, 24), (2, 4, 40, 30)]
    for sampling in outcome.phases:
        assert sampling.noise.shape == sampling.x.shape
        expected = host.rng.ImageRNG(sampling.x.shape[1:], [5, 6]).next()
        assert np.array_equal(sampling.noise, expected)
        assert (sampling.c, sampling.uc) == (outcome.base.c, outcome.base.uc)
    assert not host.swallowed


@pytest.mark.parametrize("sdxl", [False, True])
def test_the_object_in_a_phase(host, sdxl):
    """Its size is the base image's, as in the webui's own second pass; its noise, steps and sampler are the phase's."""
    host.install(sdxl=sdxl)
    seen = []

    class Looks(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def process_before_every_sampling(self, p, *args, **kwargs):
            seen.append((p.width, p.height, p.steps, p.rng.shape, p.sampler))

    host.txt2img({"scale": 2, "steps": 6}, scripts=(Looks(),), width=96)
    (*base, base_sampler), (*phase, phase_sampler) = seen
    assert base == [96, 128, 4, (4, 16, 12)]
    assert phase == [96, 128, 6, (4, 32, 24)]
    assert phase_sampler is not base_sampler


@pytest.mark.parametrize(("sampler", "evaluations"), [("Euler", 4), ("Heun", 7), ("DDIM", 3), ("UniPC", 4)])
def test_callbacks_see_the_whole_latent_once_an_evaluation(host, sampler, evaluations):
    """The witness asserts that each of the three fires once."""
    outcome = host.txt2img({"scale": 3}, sampler_name=sampler, batch_size=2, prompt="cat AND sea")
    for n, sampling in enumerate(outcome.samplings, start=1):
        assert len(sampling.evaluations) == evaluations
        for evaluation in sampling.evaluations:
            assert evaluation.x.shape == (6, 4, 16 * n, 16 * n)
            assert evaluation.denoised.shape == (6, 4, 16 * n, 16 * n)
            assert evaluation.guided.shape == (2, 4, 16 * n, 16 * n)
        assert sampling.evaluations[0].step == 0
    assert not host.swallowed


def test_what_a_callback_changes_counts(host):
    """A latent that another extension writes into the guided prediction goes on to the sampler."""
    plain = host.txt2img({"scale": 2}).latents[-1]

    def shift(params):
        if params.x.shape[-1] == 32:
            params.x = params.x.roll(1, dims=1)

    host.script_callbacks.on_cfg_after_cfg(shift)
    assert float((host.txt2img({"scale": 2}).latents[-1] - plain).abs().max()) > 0.1


@pytest.mark.parametrize("sampler", ["Euler", "DDIM"])
def test_a_replaced_create_sampler_is_honoured(host, sampler):
    """Another extension's samplers do all the sampling; it is asked once for each of them."""
    created, ran = [], []
    original = host.sd_samplers.create_sampler

    def create_sampler(name, model):
        sampler = original(name, model)
        launch = sampler.launch_sampling
        sampler.launch_sampling = lambda steps, func: ran.append(sampler) or launch(steps, func)
        created.append(sampler)
        return sampler

    host.sd_samplers.create_sampler = create_sampler
    outcome = host.txt2img({"scale": 3}, sampler_name=sampler)
    assert outcome.sizes == [(384, 384)]
    assert len(created) == 3
    assert ran == created
    assert host.sd_samplers.create_sampler is create_sampler


def test_a_replaced_sample_is_honoured(host):
    """An extension that set its own `sample` on the object draws the base image, and finds it there afterwards."""
    drawn = []

    class Replaces(host.scripts.Script):
        def show(self, is_img2img):
            return host.scripts.AlwaysVisible

        def setup(self, p, *args):
            original = p.sample

            def sample(*args, **kwargs):
                drawn.append("base")
                return original(*args, **kwargs)

            p.sample = sample

    outcome = host.txt2img({"scale": 2}, scripts=(Replaces(),), n_iter=2)
    assert outcome.sizes == [(256, 256)] * 2
    assert drawn == ["base", "base"]
    assert "sample" in vars(outcome.p)


class TestNested:
    """An extension that draws with a copy of the object from within its own hook, as detailers do."""

    def nesting(self, host, hook, size, with_scripts):
        class Nests(host.scripts.Script):
            busy = False
            sizes = []  # noqa: RUF012

            def show(self, is_img2img):
                return host.scripts.AlwaysVisible

        def draw(self, p, *args, **kwargs):
            if self.busy:
                return
            self.busy = True
            inner = copy.copy(p)
            inner.width = inner.height = size
            inner.n_iter = inner.batch_size = 1
            inner.extra_generation_params = dict(p.extra_generation_params)
            inner.comments = {}
            if not with_scripts:
                inner.scripts = None
            processed = host.processing.process_images(inner)
            self.sizes.append(processed.images[0].size)
            self.busy = False

        setattr(Nests, hook, draw)
        return Nests()

    @pytest.mark.parametrize("with_scripts", [True, False])
    @pytest.mark.parametrize("hook", ["postprocess_image", "process_before_every_sampling", "process", "postprocess"])
    def test_neither_confuses_the_other(self, host, hook, with_scripts):
        settings = {"scale": 2, "keep_phases": True}
        alone = host.txt2img(settings, n_iter=2)
        script = self.nesting(host, hook, 64, with_scripts)
        outcome = host.txt2img(settings, n_iter=2, scripts=(script,))
        assert outcome.sizes == alone.sizes == [(256, 256)] * 2 + [(128, 128)] * 2
        assert all(np.array_equal(*pair) for pair in zip(outcome.images, alone.images))
        assert outcome.processed.infotexts == alone.processed.infotexts
        assert script.sizes
        assert set(script.sizes) <= {(64, 64), (128, 128)}  # its own, with phases or without
        assert type(outcome.p) is host.processing.StableDiffusionProcessingTxt2Img
        assert not host.swallowed

    def test_another_object_is_not_ours(self, host):
        """A generation of its own making, without scripts, is the host's alone."""
        sizes = []

        class Draws(host.scripts.Script):
            def show(self, is_img2img):
                return host.scripts.AlwaysVisible

            def postprocess_image(self, p, pp, *args):
                other = host.processing.StableDiffusionProcessingTxt2Img(
                    prompt="sea", sampler_name="Euler", steps=2, width=64, height=64, seed=1
                )
                sizes.append(host.processing.process_images(other).images[0].size)

        outcome = host.txt2img({"scale": 2}, scripts=(Draws(),))
        assert (outcome.sizes, sizes) == ([(256, 256)], [(64, 64)])


def test_one_setting_after_another(host):
    """As the X/Y/Z plot goes about it: copies of one object, each with its own settings, one of them without us."""
    p = host.generation({"scale": 2})
    expected = {scale: host.txt2img({"scale": scale}, seed=7).images[0] for scale in (1, 2, 3)}
    for scale in (3, 1, 2, 3):
        cell = copy.copy(p)
        cell.seed = 7
        cell.script_args = (p.script_args[0], {**p.script_args[1], "scale": scale}, *p.script_args[2:])
        assert np.array_equal(host.run(cell).images[0], expected[scale])
    assert type(p) is host.processing.StableDiffusionProcessingTxt2Img


def test_a_batch_count_is_so_many_single_runs(host):
    several = host.txt2img({"scale": 2}, n_iter=3)
    for image, seed in zip(several.images, (5, 6, 7), strict=True):
        assert np.array_equal(image, host.txt2img({"scale": 2}, seed=seed).images[0])


class TestKeptPhases:
    def test_each_is_decoded_once(self, host):
        outcome = host.txt2img({"scale": 3, "keep_phases": True})
        assert [tuple(latent.shape[-2:]) for latent in outcome.latents] == [(16, 16), (32, 32), (48, 48)]

    def test_otherwise_only_the_last_is(self, host):
        outcome = host.txt2img({"scale": 3})
        assert [tuple(latent.shape[-2:]) for latent in outcome.latents] == [(48, 48)]
        assert outcome.sizes == [(384, 384)]

    def test_they_follow_the_results(self, host):
        outcome = host.txt2img(
            {"scale": 3, "keep_phases": True}, batch_size=2, n_iter=2, prompt=["cat", "sea", "sun", "fog"]
        )
        assert outcome.sizes[:4] == [(384, 384)] * 4
        assert sorted(outcome.sizes[4:]) == [(128, 128)] * 4 + [(256, 256)] * 4
        texts = outcome.processed.infotexts
        assert len(texts) == len(outcome.sizes)
        found = [host.infotext_utils.parse_generation_parameters(text) for text in texts]
        for words, seed in (("cat", "5"), ("sea", "6"), ("sun", "7"), ("fog", "8")):
            assert [f["Seed"] for f, text in zip(found, texts) if text.startswith(words)] == [seed] * 3
        assert [image.info["parameters"] for image in outcome.processed.images] == texts

    def test_the_base_image_is_the_hosts(self, host):
        kept = host.txt2img({"scale": 2, "keep_phases": True}).images[1]
        assert np.array_equal(kept, host.txt2img(None).images[0])

    def test_they_are_saved(self, host):
        host.txt2img({"scale": 3, "keep_phases": True})
        saved = {entry.image.size: entry for entry in host.images._saved}
        assert sorted(saved) == [(128, 128), (256, 256), (384, 384)]
        assert len({entry.suffix for entry in saved.values()}) == 3
        assert saved[384, 384].suffix == ""

    @pytest.mark.parametrize("how", ["samples_save", "do_not_save_samples"])
    def test_they_are_not_saved_where_nothing_is(self, host, how):
        fields = {}
        if how == "samples_save":
            host.opts.samples_save = False
        else:
            fields["do_not_save_samples"] = True
        host.txt2img({"scale": 2, "keep_phases": True}, **fields)
        assert host.images._saved == []
