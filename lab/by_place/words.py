"""The words of a prompt, which of them a window is asked with, and how the base image's attention to them is gathered."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from demofusion_lib.core import Phase, PhaseEngine, PlacedPrompts, Region, View, WindowGrid
from demofusion_lib.standalone.drawing import Drawing, Finished, Order
from demofusion_lib.standalone.models import Model
from demofusion_lib.standalone.prompts import CHUNK, encode

from .places import SHARE, Gathered, kept, places

WORD = re.compile(r"\w+")
Span = tuple[int, int]


@contextlib.contextmanager
def gathering(unet: Any, images: int, gathered: Gathered) -> Iterator[None]:
    """While it is on, every cross-attention of the UNet is added to `gathered`: that of the first `images` rows of a call,
    the prompts'. The hooks are taken off again, whatever happens."""

    def watch(module: Any, args: Any, kwargs: Any) -> None:
        gathered.add(probabilities(module, args[0][:images], kwargs["encoder_hidden_states"][:images]))

    modules = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    hooks = [module.register_forward_pre_hook(watch, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def probabilities(module: Any, hidden: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """How each cell's attention is divided among the tokens, `(rows, cells, tokens)`, the mean of the heads."""
    query, key = (
        part.unflatten(-1, (module.heads, -1)).transpose(1, 2).float()
        for part in (module.to_q(hidden), module.to_k(context))
    )
    return (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1).mean(1)


def words_of(tokenizer: Any, prompt: str) -> list[tuple[Span, list[int]]]:
    """Each word's place in the text, and its tokens' places in the encoded prompt."""

    def count(end: int) -> int:
        return len(tokenizer(prompt[:end], add_special_tokens=False, verbose=False).input_ids)

    spans = [match.span() for match in WORD.finditer(prompt)]
    numbers = [range(count(start), count(end)) for start, end in spans]
    return [(span, [n // CHUNK * (CHUNK + 2) + 1 + n % CHUNK for n in own]) for span, own in zip(spans, numbers)]


def without(prompt: str, spans: Sequence[Span]) -> str:
    """The prompt less some of its words."""
    for start, end in sorted(spans, reverse=True):
        prompt = prompt[:start] + prompt[end:]
    return re.sub(r"\s+", " ", re.sub(r"\s+([,.])", r"\1", prompt)).strip()


class OnePrompt(PlacedPrompts):
    """Each window has one prompt, whichever it is: there is nothing to share."""

    def __init__(self, size_lat: tuple[int, int]):
        super().__init__([Region("")], size_lat)
        self.shares = torch.ones(1, *size_lat)  # a cached property of the class

    def of_windows(self, grid: WindowGrid) -> list[tuple[int, ...]]:
        return [(0,)] * len(grid)

    def of_sub_images(self, dilation: int, *, wrap: bool = False) -> list[tuple[int, ...]]:
        return [(0,)] * dilation**2

    def share(self, *_: Any) -> None:
        return None


class ByPlace(Drawing):
    """A drawing whose windows are asked with the words that have a place in them; dilated sub-images with all.

    Its prompts have as many words, one as the other. share: as in `places.kept`. where: of each image, the places of its
    words, `(words, height, width)`, known when the base image is finished; `look` may put others there.
    """

    def __init__(self, model: Model, order: Order, share: float = SHARE):
        super().__init__(model, order)
        self.share = share
        self.words = [words_of(model.text[0][0], prompt) for prompt in order.prompts]
        self.choices = list(itertools.product((True, False), repeat=len(self.words[0])))
        self.where: list[torch.Tensor] = []
        self.texts: set[str] = set()
        self.look: Callable[[Finished], list[torch.Tensor] | None] = lambda base: None

    def _text(self, image: int, keeps: Sequence[bool]) -> str:
        spans = [span for (span, _), keep in zip(self.words[image], keeps) if not keep]
        return without(self.order.prompts[image], spans)

    def _encode(self) -> None:
        super()._encode()
        images = range(len(self.order.prompts))
        self.regions = encode(self.model, [self._text(image, keeps) for keeps in self.choices for image in images])

    def _base(self) -> Finished:
        gathered = Gathered(self.order.base_lat)
        with gathering(self.model.unet, len(self.order.prompts), gathered):
            base = super()._base()
        maps = gathered.maps()
        found = [places(maps[image], [tokens for _, tokens in words]) for image, words in enumerate(self.words)]
        self.where = self.look(base) or found
        return base

    def _engine(self, phase: Phase, previous: torch.Tensor, before: torch.Tensor) -> PhaseEngine:
        engine = super()._engine(phase, previous, before)
        fusion, size_lat = engine.fusion, (phase.height_lat, phase.width_lat)
        fusion.prompts, begin = OnePrompt(size_lat), fusion.begin_step

        def begin_step(generators: Sequence[torch.Generator]) -> None:
            begin(generators)
            assert fusion.local is not None
            images = len(generators)
            plain, own = fusion.local.views[:images], fusion.local.views[images:]
            named = [[self._named(image, view, size_lat) for view in views] for image, views in enumerate(own)]
            fusion.local = replace(fusion.local, views=[*plain, *named])

        fusion.begin_step = begin_step  # type: ignore[method-assign]
        return engine

    def _named(self, image: int, view: View, size_lat: tuple[int, int]) -> View:
        """The window with the number of its prompt. Borders are inside."""
        (height, width), rows, cols = size_lat, view.rows, view.cols
        box = rows.start / height, cols.start / width, rows.stop / height, cols.stop / width
        keeps = kept(self.where[image], box, self.share)
        self.texts.add(self._text(image, keeps))
        return replace(view, prompt=1 + self.choices.index(keeps))
