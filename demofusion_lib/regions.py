"""Regions of the picture with prompts of their own, as text: JSON, or one of two other extensions' ways of writing them.

Regional Prompter (hako-mikan) parts a picture by words in its prompt, ADDROW and ADDCOL, and by numbers, `1,2;1,1`.
Tiled Diffusion (pkuliyi2015) keeps boxes in a file, as `x, y, w, h` in shares of the picture. Both were read for what they
mean; no code is theirs.
"""

from __future__ import annotations

import base64
import binascii
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch takes seconds to load: texts are read without it
    from .core import Region

FORM = "a JSON list of regions, prompts parted by ADDCOL and ADDROW, or nothing"
MOST = 32
MASK_SIDE_PX = 4096
CONTROLS = "bbox_controls"
"""Of Tiled Diffusion's file: its list of boxes."""
KEYS = ("prompt", "box", "x", "y", "w", "h", "mask", "weight", "feather")
THEIRS = ("enable", "neg_prompt", "blend_mode", "feather_ratio", "seed")
"""Tiled Diffusion's, beside `prompt` and its box."""
RATIOS = re.compile(r"[\d\s.,;]+")
WORDS = re.compile(r"\b(ADDROW|ADDCOL|ADDCOMM|ADDBASE|BREAK)\b")


@dataclass(frozen=True)
class Entry:
    """What a text says of a region, as `core.Region` has it. mask: `(height, width)`, and a byte for each pixel."""

    prompt: str
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    mask: tuple[int, int, bytes] | None = None
    weight: float = 1.0
    feather: float = 0.0


@lru_cache(maxsize=8)
def regions_of(text: str) -> tuple[Region, ...]:
    """Raises ValueError as `read_regions`."""
    import torch

    from .core import Region

    made = []
    for entry in read_regions(text):
        mask = None
        if entry.mask is not None:
            height, width, values = entry.mask
            mask = torch.frombuffer(bytearray(values), dtype=torch.uint8).view(height, width).float() / 255
        made.append(Region(entry.prompt, entry.box, mask, entry.weight, entry.feather))
    return tuple(made)


@lru_cache(maxsize=8)
def read_regions(text: str) -> tuple[Entry, ...]:
    """None for an empty text. Raises ValueError for what can't be read."""
    text = text.strip()
    if not text:
        return ()
    found = tuple(_from_json(text) if text[0] in "[{" else _from_words(text))
    if not 1 <= len(found) <= MOST:
        raise ValueError(f"{len(found)} regions, allowed: 1 to {MOST}")
    return found


def as_text(value: Any) -> Any:
    """A list or an object, as an API is given it, as text; all else as it is."""
    if not isinstance(value, (list, dict)):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return value


# JSON


def _from_json(text: str) -> Iterator[Entry]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"no JSON{where}") from None
    if isinstance(entries, Mapping):
        if list(entries) != [CONTROLS] or not isinstance(entries[CONTROLS], list):
            raise ValueError("an object, allowed: a list of them")
        entries = entries[CONTROLS]
    for number, entry in enumerate(entries, start=1):
        try:
            yield from _region(entry)
        except ValueError as error:
            raise ValueError(f"region {number}: {error}") from None


def _region(entry: Any) -> Iterator[Entry]:
    """None of one that is switched off."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{_shown(entry)}, allowed: an object with a prompt and a box or mask")
    unknown = [key for key in entry if key not in (*KEYS, *THEIRS)]
    if unknown:
        raise ValueError(f"unknown key {_shown(unknown[0])}; the keys are {', '.join(KEYS)}")
    if entry.get("enable", True) is False:
        return
    if entry.get("neg_prompt"):
        raise ValueError(
            f"neg_prompt is {_shown(entry['neg_prompt'])}, allowed: nothing, as the negative prompt is one for all"
        )
    prompt = entry.get("prompt")
    if not isinstance(prompt, str):
        raise ValueError(f"prompt is {_shown(prompt)}, allowed: text")
    feather = _share(entry, "feather", 0.0, 0.0)
    if entry.get("blend_mode") == "Foreground" and "feather" not in entry:
        feather = _share(entry, "feather_ratio", 0.0, 0.0)
    given = [key for key in ("box", "x", "mask") if key in entry]
    if len(given) != 1:
        raise ValueError(f"{' and '.join(given) or 'neither'}, allowed: one of box, x y w h, mask")
    weight = _share(entry, "weight", 1.0, 1e-3)
    if given == ["mask"]:
        yield Entry(prompt.strip(), mask=_mask(entry["mask"]), weight=weight, feather=feather)
    else:
        yield Entry(prompt.strip(), _box(entry), None, weight, feather)


def _share(entry: Mapping[str, Any], name: str, default: float, low: float) -> float:
    value = entry.get(name, default)
    if not _is_number(value) or not low <= value <= 1:
        raise ValueError(f"{name} is {_shown(value)}, allowed: {low:g} to 1")
    return float(value)


def _box(entry: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Of Tiled Diffusion's, the part that lies in the picture, as there."""
    if "box" in entry:
        box = entry["box"]
        numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))
        if not numbers or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise ValueError(f"box is {_shown(box)}, allowed: left, top, right, bottom from 0 to 1, each pair rising")
        left, top, right, bottom = map(float, box)
        return left, top, right, bottom
    sides = [entry.get(name) for name in ("x", "y", "w", "h")]
    if all(map(_is_number, sides)):
        x, y, w, h = map(float, sides)  # type: ignore[arg-type]
        left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, 1.0), min(y + h, 1.0)
        if left < right and top < bottom:
            return left, top, right, bottom
    raise ValueError(f"x, y, w, h are {_shown(sides)}, allowed: a box in the picture, in shares of it")


def _mask(text: Any) -> tuple[int, int, bytes]:
    """White where the region is."""
    from PIL import Image

    allowed = f"allowed: a PNG in base64 of up to {MASK_SIDE_PX} px a side, white where the region is"
    if not isinstance(text, str):
        raise ValueError(f"mask is {_shown(text)}, {allowed}")
    try:
        data = base64.b64decode(text.removeprefix("data:image/png;base64,"), validate=True)
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            width, height = picture.size
            if max(width, height) > MASK_SIDE_PX:
                raise ValueError
            values = picture.convert("L").tobytes()
    except (ValueError, OSError, SyntaxError, binascii.Error):
        raise ValueError(f"mask is {_shown(text)}, {allowed}") from None
    if not any(values):
        raise ValueError(f"mask is black everywhere, {allowed}")
    return height, width, values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


# Words


def _from_words(text: str) -> Iterator[Entry]:
    """Rows one below the other, their prompts side by side: as wide and high as the numbers before them say, or alike."""
    first, _, rest = text.partition("\n")
    ratios, text = (first, rest) if rest and RATIOS.fullmatch(first.strip()) else ("", text)
    common, found, behind = text.partition("ADDCOMM")
    common, text = (common.strip(), behind) if found else ("", text)
    others = [word for word in WORDS.findall(text) if word not in ("ADDROW", "ADDCOL")]
    if others:
        raise ValueError(f"{others[0]} has no meaning here, where the main prompt draws what no region covers")
    rows = [[part.strip() for part in row.split("ADDCOL")] for row in text.split("ADDROW")]
    if len(rows) == len(rows[0]) == 1:
        raise ValueError("no JSON, and no ADDCOL or ADDROW in it")
    heights, widths = _parts(ratios, [len(row) for row in rows])
    for row, (top, bottom), parts in zip(rows, _edges(heights), widths):
        for prompt, (left, right) in zip(row, _edges(parts)):
            yield Entry(", ".join(filter(None, (common, prompt))), (left, top, right, bottom))


def _parts(ratios: str, counts: Sequence[int]) -> tuple[list[float], list[list[float]]]:
    """The rows' heights, and the widths in each, of `counts` prompts. A row's numbers are its height, then its widths; of
    one row alone its widths, and of rows of one prompt each their heights."""
    if not ratios:
        return [1.0] * len(counts), [[1.0] * count for count in counts]
    try:
        numbers = [[float(part) for part in row.split(",")] for row in ratios.split(";")]
        good = all(0 < number < 1e6 for row in numbers for number in row)
    except ValueError:
        numbers, good = [], False
    if good and len(numbers) == 1 and len(counts) == 1 and len(numbers[0]) == counts[0]:
        return [1.0], numbers
    if good and len(numbers) == 1 and max(counts) == 1 and len(numbers[0]) == len(counts):
        return numbers[0], [[1.0]] * len(counts)
    if good and [max(len(row) - 1, 1) for row in numbers] == list(counts):
        return [row[0] for row in numbers], [row[1:] or [1.0] for row in numbers]
    several = len(counts) > 1
    wanted = (";" if max(counts) > 1 else ",").join(
        ",".join("1" * (count + (several and count > 1))) for count in counts
    )
    raise ValueError(f"{_shown(ratios.strip())} before the prompts, allowed: as many numbers as in {_shown(wanted)}")


def _edges(parts: Sequence[float]) -> list[tuple[float, float]]:
    total = sum(parts)
    ends = [end / total for end in itertools.accumulate(parts)]
    return list(zip([0.0, *ends[:-1]], [*ends[:-1], 1.0]))
