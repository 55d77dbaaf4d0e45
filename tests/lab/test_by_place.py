"""Words left out where they are not: the reckoning, and that windows are asked so."""

from __future__ import annotations

import pytest
import torch

from demofusion_lib.params import Params
from demofusion_lib.standalone.drawing import Order
from demofusion_lib.standalone.models import Model, load_model
from demofusion_lib.standalone.prompts import encode
from demofusion_lib.standalone.toy import TOY
from lab.by_place.places import Gathered, kept, places
from lab.by_place.words import ByPlace, gathering, probabilities, without, words_of


@pytest.fixture(scope="module")
def toy() -> Model:
    return load_model(TOY, torch.device("cpu"), torch.float32)


def test_maps_are_means_of_layers_whose_own_mean_is_1() -> None:
    gathered = Gathered((4, 6))
    fine = torch.zeros(1, 24, 2)
    fine[0, :6, 1] = 1  # the second token has the first row
    gathered.add(fine + 0.5)
    gathered.add(torch.full((1, 6, 2), 0.5))  # of half the size
    gathered.add(torch.full((1, 7, 2), 9.0))  # of another: no picture
    maps = gathered.maps()
    assert maps.shape == (1, 2, 4, 6) and torch.allclose(maps.mean((2, 3)), torch.ones(1, 2))
    assert torch.allclose(maps[0, 0], torch.ones(4, 6))
    assert torch.allclose(maps[0, 1, :, 0], (torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3]) + 1) / 2)
    with pytest.raises(ValueError, match="no attention"):
        Gathered((4, 4)).maps()


def test_a_window_keeps_a_word_that_has_its_place_in_it_and_those_that_have_none() -> None:
    maps = torch.ones(3, 16, 16)
    maps[1, :8, :8] = 9  # a quarter
    maps[2, 12:, 12:] = 20  # a sixteenth
    where = places(maps / maps.mean((1, 2), keepdim=True), [[0], [1], [2]])
    assert where[0].all() and where[1, 2, 2] and not where[1, 12, 12] and where[2, 14, 14] and not where[2, 2, 2]
    assert kept(where, (0, 0, 0.5, 0.5)) == (True, True, False)
    assert kept(where, (0.5, 0.5, 1, 1)) == (True, False, True)
    assert kept(where, (0, 0.5, 0.5, 1)) == (True, False, False)
    assert kept(where, (0, 0, 1, 1)) == (True, True, True)
    assert kept(where, (0, 0.25, 0.5, 0.75), share=0.6)[1] != kept(where, (0, 0.25, 0.5, 0.75), share=0.4)[1]


def test_words_and_what_is_left(toy: Model) -> None:
    words = words_of(toy.text[0][0], "a unpronounceablered disc")
    assert [tokens[0] for _, tokens in words][:2] == [1, 2] and len(words[1][1]) > 1
    assert words[2][1] == [2 + len(words[1][1])]
    assert without("a red disc, blue", [(2, 5), (6, 10)]) == "a, blue"


def test_hooks_are_taken_off_and_attention_sums_up_to_1(toy: Model) -> None:
    gathered = Gathered((8, 8))
    context = encode(toy, ["a red disc"]).context
    with pytest.raises(RuntimeError, match="enough"), torch.no_grad(), gathering(toy.unet, 1, gathered):
        toy.unet(torch.zeros(1, 4, 8, 8), 500, encoder_hidden_states=context)
        raise RuntimeError("enough")
    assert gathered.sums and all(torch.allclose(one.sum(2) % 1, torch.zeros(()), atol=1e-4) or
                                 torch.allclose(one.sum(2), one.sum(2).round(), atol=1e-4) for one in gathered.sums.values())  # fmt: skip
    assert not any(module._forward_pre_hooks for module in toy.unet.modules())
    attention = next(module for name, module in toy.unet.named_modules() if name.endswith("attn2"))
    with torch.no_grad():
        attention.to_q.weight.data, before = attention.to_q.weight.data * 0, attention.to_q.weight.data
        flat = probabilities(attention, torch.ones(1, 4, before.shape[1]), context)
        attention.to_q.weight.data = before
    assert torch.allclose(flat, torch.full_like(flat, 1 / context.shape[1]))


def test_each_window_is_asked_with_its_words(toy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"enabled": True, "preset": "none", "scale": 2, "jitter": False, "steps": 1, "skip_residual": False}
    order = Order(["a red disc", "a blue disc"], [1, 2], 64, 64, Params.from_names(settings), steps=2, guidance=3.0)
    drawing = ByPlace(toy, order)
    left = torch.zeros(8, 8, dtype=torch.bool)
    left[:, :4] = True
    everywhere = torch.ones_like(left)
    drawing.look = lambda base: [torch.stack([everywhere, left, left]), torch.stack([everywhere] * 3)]
    asked: list[torch.Tensor] = []
    plain = toy.unet.forward

    def forward(x: torch.Tensor, *args: object, encoder_hidden_states: torch.Tensor, **more: object) -> object:
        asked.extend(encoder_hidden_states)
        return plain(x, *args, encoder_hidden_states=encoder_hidden_states, **more)

    phases = drawing.phases()
    next(phases)
    monkeypatch.setitem(vars(toy.unet), "forward", forward)
    last = next(phases)
    with torch.no_grad():
        texts = {text: encode(toy, [text]).context[0] for text in ("a red disc", "a", "a blue disc", "")}
    counts = {text: sum(torch.equal(one, context) for one in asked) for text, context in texts.items()}
    # of nine windows those at the right don't show the object; each is asked with the negative prompt too, as dilated ones are
    assert counts == {"a red disc": 6 + 4, "a": 3, "a blue disc": 9 + 4, "": 2 * (9 + 4)}
    assert last.evaluations == drawing.plan.evaluations(drawing.plan.phases[0]) == len(asked)
