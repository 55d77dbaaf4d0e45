"""Prompts encoded as each model family was trained with, in chunks of 75 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

from .models import Model

CHUNK = 75


@dataclass(frozen=True)
class Encoded:
    """One row a prompt: `context (rows, tokens, width)`, and SDXL's `pooled (rows, width)`.

    lengths: how many of its tokens each row has; behind them it is filled up to the longest.
    images: of each IP-Adapter its pictures' embeddings `(rows, ...)`.
    """

    context: torch.Tensor
    pooled: torch.Tensor | None
    lengths: tuple[int, ...]
    images: tuple[torch.Tensor, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        longest = max(part.context.shape[1] for part in parts)
        context = torch.cat([pad(part.context, (0, 0, 0, longest - part.context.shape[1])) for part in parts])
        pooled = [part.pooled for part in parts if part.pooled is not None]
        lengths = tuple(length for part in parts for length in part.lengths)
        images = tuple(torch.cat(same) for same in zip(*(part.images for part in parts)))
        return cls(context, torch.cat(pooled) if pooled else None, lengths, images)

    def rows(self, chosen: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """These rows' context, and which of its tokens the network may look at `(rows, tokens)`; None for all.

        So each prompt is read as if it were alone, which is what the webui does with a prompt and a negative of
        different lengths: it evaluates them apart.
        """
        lengths = [self.lengths[row] for row in chosen]
        context = self.context[list(chosen), : max(lengths)]
        if min(lengths) == max(lengths):
            return context, None
        places = torch.arange(max(lengths), device=context.device)
        return context, places < torch.tensor(lengths, device=context.device)[:, None]


def encode(model: Model, prompts: Sequence[str]) -> Encoded:
    """Each prompt in as many chunks as it needs, whatever the others need."""
    encoded = {prompt: _encode(model, prompt) for prompt in dict.fromkeys(prompts)}
    return Encoded.joined([encoded[prompt] for prompt in prompts])


def encode_negative(model: Model, prompts: Sequence[str]) -> Encoded:
    """SDXL was trained with zeros in the place of a text that was left out, not with the encoding of an empty one."""
    encoded = encode(model, prompts)
    if model.zero_empty and encoded.pooled is not None:
        for row in (row for row, prompt in enumerate(prompts) if not prompt):
            encoded.context[row], encoded.pooled[row] = 0, 0
    return encoded


def _encode(model: Model, prompt: str) -> Encoded:
    tokens = [tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids for tokenizer, _ in model.text]
    chunks = max(1, *(-(-len(ids) // CHUNK) for ids in tokens))
    contexts, pooled = [], torch.empty(0)
    for (tokenizer, encoder), ids in zip(model.text, tokens):
        output = encoder(
            torch.tensor(_chunked(tokenizer, ids, chunks), device=encoder.device), output_hidden_states=True
        )
        # SDXL reads the layer before the last, SD the last; SDXL's second encoder also gives the first chunk's pooled text
        contexts.append((output.hidden_states[-2] if model.is_sdxl else output[0]).flatten(0, 1)[None])
        pooled = output[0][:1]
    context = torch.cat(contexts, -1).to(model.dtype)
    return Encoded(context, pooled.to(model.dtype) if model.is_sdxl else None, (context.shape[1],))


def _chunked(tokenizer: Any, ids: list[int], chunks: int) -> list[list[int]]:
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    fill = end if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    parts = [ids[i * CHUNK : (i + 1) * CHUNK] for i in range(chunks)]
    return [[start, *part, end, *[fill] * (CHUNK - len(part))] for part in parts]
