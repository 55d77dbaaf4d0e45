"""CLIP's tokenizer, for training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from clip.simple_tokenizer import SimpleTokenizer  # type: ignore[import-untyped]

from .text import END, START, TOKENS


def tokenize(prompts: Sequence[str]) -> torch.Tensor:
    """`(batch, 77)`: padded with the end token, as SD1 is."""
    coder = SimpleTokenizer()
    rows = [[START, *coder.encode(prompt)[: TOKENS - 2], END] for prompt in prompts]
    return torch.tensor([row + [END] * (TOKENS - len(row)) for row in rows])
