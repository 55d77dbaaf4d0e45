"""What the second toy reads of a prompt: the word for its texture, if it is there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from .exact import KINDS, RIGHT


class Words:
    """A tokenizer of two words; all others are one and the same."""

    bos_token_id = eos_token_id = 0
    pad_token_id = None

    def __call__(self, prompt: str, **other: Any) -> SimpleNamespace:
        words = re.findall(r"\w+", prompt.lower())
        return SimpleNamespace(input_ids=[KINDS.index(word) + 2 if word in KINDS else 1 for word in words])


class Shares:
    """The encoder: at every token the share of woven cells, `(chunks, tokens, 1)`."""

    device = torch.device("cpu")

    def __call__(self, tokens: torch.Tensor, **other: Any) -> Sequence[torch.Tensor]:
        woven, brushed = ((tokens == number + 2).any(1).float() for number in range(len(KINDS)))
        share = 0.5 + (woven - brushed) * (RIGHT - 0.5)
        return (share[:, None, None].expand(-1, tokens.shape[1], 1),)
