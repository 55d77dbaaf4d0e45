"""`[from:to:when]` with times behind the base image: they come in the phases, as in the host's second pass."""

import numpy as np
import pytest

SIZE = {"width": 64, "height": 64, "steps": 4}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("[a:b:1.5]", "[a:b:0.500000]"),
        ("[a:b:1.0]", "[a:b:0.000000]"),
        ("[a:b: 1.25 ]", "[a:b: 0.250000 ]"),
        ("[b:1.5]", "[b:0.500000]"),
        ("[a::1.75] c", "[a::0.750000] c"),
        ("[a:b:25]", "[a:b:5]"),
        ("[a:b:20]", "[a:b:0]"),
        ("[a:[b:c:1.75]:1.25]", "[a:[b:c:0.750000]:0.250000]"),
        ("x [a:b:1.5] AND [c:d:1.5] :1.5", "x [a:b:0.500000] AND [c:d:0.500000] :1.5"),
        *((same, same) for same in ("[a:b:0.5]", "[a:b:.99]", "[a:b:10]", "(a:1.5)", "[a]", "[a|b]", "[(a:1.5)]")),
    ],
)  # fmt: skip
def test_times(host, prompt, expected):
    from demofusion_lib.webui.prompts import in_phases

    assert in_phases(prompt, 20) == expected


def prompts_of(host, prompt):
    """For each sampling, the first letter of the word that holds in each evaluation."""
    outcome = host.txt2img({"scale": 2}, **SIZE, prompt=prompt)
    words = {word: host.model.encode(word)[0] for word in ("cat", "sea")}
    texts = [[evaluation.patches[0][1] for evaluation in sampling.evaluations] for sampling in outcome.samplings]
    assert outcome.p.prompts == [prompt]
    assert f"{prompt}\n" in outcome.infotext
    return ["".join(next(w[0] for w, cond in words.items() if cond.equal(text)) for text in row) for row in texts]


@pytest.mark.parametrize(
    ("prompt", "base", "phase"),
    [
        ("[cat:sea:0.5]", "cccs", "cccs"),  # the host counts from 0 here: step 2 is the third
        ("[cat:sea:1.5]", "cccc", "cccs"),
        ("[cat:sea:1.0]", "cccc", "ssss"),
        ("[cat:sea:6]", "cccc", "cccs"),
        ("[cat:sea:1]", "ccss", "ccss"),
    ],
)
def test_which_prompt_holds_in_each_step(host, prompt, base, phase):
    assert prompts_of(host, prompt) == [base, phase]


def test_the_negative_prompt_as_well(host):
    late = host.txt2img({"scale": 2}, **SIZE, negative_prompt="[dog:sea:1.0]")
    never = host.txt2img({"scale": 2}, **SIZE, negative_prompt="dog")
    assert np.abs(late.images[0].astype(int) - never.images[0]).max() > 2
    assert late.p.negative_prompts == ["[dog:sea:1.0]"]


def test_the_old_way_of_counting_is_left_alone(host):
    """There 1.5 is a step."""
    host.opts.use_old_scheduling = True
    late = host.txt2img({"scale": 2}, **SIZE, prompt="[cat:sea:9.0]")
    assert np.array_equal(late.images[0], host.txt2img({"scale": 2}, **SIZE, prompt="cat").images[0])
