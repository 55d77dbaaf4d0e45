"""Regions as text: what is read, and what is refused in a line."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
import torch
from PIL import Image

from demofusion_lib.params import Params
from demofusion_lib.regions import FORM, regions_of
from demofusion_lib.setting import SettingsError, quoted


def boxes(text: str) -> list[tuple[str, tuple[float, ...]]]:
    return [(region.prompt, tuple(round(side, 6) for side in region.box)) for region in regions_of(text)]


def png(values: list[list[int]], mode: str = "L") -> str:
    picture = Image.new(mode, (len(values[0]), len(values)))
    picture.putdata([value if mode == "L" else (value,) * 3 for row in values for value in row])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_a_list_of_boxes() -> None:
    entries = [
        {"prompt": " a cat ", "box": [0, 0, 0.5, 1]},
        {"prompt": "", "box": [0.5, 0.25, 1, 1], "weight": 0.5, "feather": 1},
    ]
    one, two = regions_of(json.dumps(entries))
    assert (one.prompt, one.box, one.weight, one.feather) == ("a cat", (0, 0, 0.5, 1), 1, 0)
    assert (two.prompt, two.box, two.weight, two.feather) == ("", (0.5, 0.25, 1, 1), 0.5, 1)
    assert Params.from_names({"regions": entries}) == Params.from_names({"regions": json.dumps(entries)})
    assert regions_of("") == () == Params.from_names({}).placed_prompts


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_a_mask_is_a_picture(mode: str, before: str) -> None:
    (region,) = regions_of(json.dumps([{"prompt": "a", "mask": before + png([[0, 255, 51]], mode), "weight": 0.5}]))
    assert region.mask is not None and torch.allclose(region.mask, torch.tensor([[0, 1, 0.2]]))
    assert torch.allclose(region.plane(2, 3), torch.tensor([[0, 0.5, 0.1]] * 2).double())


def test_what_tiled_diffusion_has_saved() -> None:
    """Its defaults, one of them on the picture's edge; those that are switched off are left out."""
    entry = {"enable": True, "x": 0.4, "y": 0.4, "w": 0.2, "h": 0.2, "prompt": "a", "neg_prompt": "", "blend_mode": "Background",
             "feather_ratio": 0.2, "seed": -1}  # fmt: skip
    front = {**entry, "x": -0.1, "w": 0.5, "blend_mode": "Foreground"}
    text = json.dumps({"bbox_controls": [entry, {**entry, "enable": False}, front]}, indent=2)
    assert boxes(text) == [("a", (0.4, 0.4, 0.6, 0.6)), ("a", (0, 0.4, 0.4, 0.6))]
    assert [region.feather for region in regions_of(text)] == [0, 0.2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a ADDCOL b", [("a", (0, 0, 0.5, 1)), ("b", (0.5, 0, 1, 1))]),
        ("a ADDROW\n b", [("a", (0, 0, 1, 0.5)), ("b", (0, 0.5, 1, 1))]),
        ("3,1\na ADDCOL b", [("a", (0, 0, 0.75, 1)), ("b", (0.75, 0, 1, 1))]),
        ("3, 1 \na ADDROW b", [("a", (0, 0, 1, 0.75)), ("b", (0, 0.75, 1, 1))]),
        ("good ADDCOMM a ADDCOL b", [("good, a", (0, 0, 0.5, 1)), ("good, b", (0.5, 0, 1, 1))]),
        # its own example: rows of heights 1 and 2, parted 2:1:1 and 4:6
        (
            "1,2,1,1;2,4,6\n(blue sky:1.2) ADDCOL\ngreen hair ADDCOL\n(aquarium:1.3) ADDROW\n(messy desk:1.2) ADDCOL\norange dress",
            [
                ("(blue sky:1.2)", (0, 0, 0.5, 0.333333)), ("green hair", (0.5, 0, 0.75, 0.333333)),
                ("(aquarium:1.3)", (0.75, 0, 1, 0.333333)), ("(messy desk:1.2)", (0, 0.333333, 0.4, 1)),
                ("orange dress", (0.4, 0.333333, 1, 1)),
            ],
        ),
        ("1;1,1,2\nsky ADDROW a ADDCOL b", [("sky", (0, 0, 1, 0.5)), ("a", (0, 0.5, 0.333333, 1)), ("b", (0.333333, 0.5, 1, 1))]),
    ],
)  # fmt: skip
def test_what_regional_prompter_parts(text: str, expected: list[Any]) -> None:
    assert boxes(text) == expected


BOX = {"prompt": "a", "box": [0, 0, 1, 1]}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (3, ""), (None, ""), (True, ""), ("a\0b", ""), ("\ud800", ""), ("x" * 100_001, ""), ([float("inf")], "region 1: inf, allowed: an object"),
        ("a cat", "no JSON, and no ADDCOL or ADDROW in it"),
        ("a BREAK b ADDCOL c", "BREAK has no meaning here"),
        ("ADDBASE a ADDCOL b", "ADDBASE has no meaning here"),
        ("1,2,3,4\na ADDCOL b", "'1,2,3,4' before the prompts, allowed: as many numbers as in '1,1'"),
        ("1,2,3\na ADDROW b", "allowed: as many numbers as in '1,1'"),
        ("1,2;1\na ADDCOL b ADDROW c", "'1,2;1' before the prompts, allowed: as many numbers as in '1,1,1;1'"),
        ("0,1\na ADDCOL b", "'0,1' before the prompts"),
        ("[{", "no JSON at line 1, column 3"),
        ("[" * 90_000, "no JSON"),
        ([], "0 regions, allowed: 1 to 32"), ([BOX] * 33, "33 regions, allowed: 1 to 32"), ([{**BOX, "enable": False}], "0 regions"),
        ({"regions": [BOX]}, "an object, allowed: a list of them"),
        (["a"], "region 1: 'a', allowed: an object with a prompt and a box or mask"),
        ([BOX, {"box": [0, 0, 1, 1]}], "region 2: prompt is None, allowed: text"),
        ([{"prompt": "a"}], "region 1: neither, allowed: one of box, x y w h, mask"),
        ([{**BOX, "x": 0}], "region 1: box and x, allowed: one of"),
        ([{**BOX, "size": 1}], "region 1: unknown key 'size'; the keys are prompt, box,"),
        ([{**BOX, "weight": 0}], "region 1: weight is 0, allowed: 0.001 to 1"),
        ([{**BOX, "weight": float("nan")}], "region 1: weight is nan"),
        ([{**BOX, "feather": "1"}], "region 1: feather is '1', allowed: 0 to 1"),
        ([{**BOX, "neg_prompt": "b"}], "region 1: neg_prompt is 'b', allowed: nothing"),
        *(([{**BOX, "box": box}], f"region 1: box is {box!r:.37}") for box in (
            [0, 0, 1], [0.5, 0, 0.5, 1], [0, 0, 1, 1.1], [-0.1, 0, 1, 1], [0, 0, True, 1], "0 0 1 1", None, [0, 0, 10**400, 1], [0, 1, 1, 0],
        )),
        ([{"prompt": "a", "x": 1, "y": 0, "w": 1, "h": 1}], "region 1: x, y, w, h are [1, 0, 1, 1], allowed: a box in the picture"),
        ([{"prompt": "a", "x": 0, "y": 0, "w": 1}], "region 1: x, y, w, h are [0, 0, 1, None]"),
        ([{"prompt": "a", "mask": "cat.png"}], "region 1: mask is 'cat.png', allowed: a PNG in base64"),
        ([{"prompt": "a", "mask": 3}], "region 1: mask is 3"),
        ([{"prompt": "a", "mask": png([[0, 0]])}], "region 1: mask is black everywhere"),
        ([{"prompt": "a", "mask": png([[9] * 4097])}], "region 1: mask is"),
    ],
)  # fmt: skip
def test_what_is_refused_in_one_line(value: Any, why: str) -> None:
    with pytest.raises(SettingsError) as error:
        Params.from_names({"regions": value})
    told = str(error.value)
    assert told.startswith(f"DemoFusion: regions is {quoted(value)}, allowed: {FORM}")
    assert why in told and "\n" not in told and len(told) < 400
    told.encode()
