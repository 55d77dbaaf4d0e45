"""Prompts encoded as each model family was trained with, in chunks of 75 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .models import Model

CHUNK = 75


@dataclass(frozen=True)
class Encoded:
    """One row a prompt: `context (rows, tokens, width)`, and SDXL's `pooled (rows, width)`."""

    context: torch.Tensor
    pooled: torch.Tensor | None

    @classmethod
    def joined(cls, parts: Sequence[Encoded]) -> Encoded:
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(torch.cat([part.context for part in parts]), torch.cat(pooled) if pooled else None)


def encode(model: Model, prompts: Sequence[str]) -> Encoded:
    """All prompts get as many chunks as the longest needs."""
    tokens = [_tokens(tokenizer, prompts) for tokenizer, _ in model.text]
    chunks = max(max(1, -(-len(row) // CHUNK)) for rows in tokens for row in rows)
    contexts, pooled = [], torch.empty(0)
    for (tokenizer, encoder), rows in zip(model.text, tokens):
        outputs = [_encode_chunk(tokenizer, encoder, rows, i, model.is_sdxl) for i in range(chunks)]
        contexts.append(torch.cat([context for context, _ in outputs], 1))
        pooled = outputs[0][1]
    return Encoded(torch.cat(contexts, -1).to(model.dtype), pooled.to(model.dtype) if model.is_sdxl else None)


def _tokens(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    return [tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids for prompt in prompts]


def _encode_chunk(
    tokenizer: Any, encoder: Any, rows: list[list[int]], chunk: int, is_sdxl: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    parts = [row[chunk * CHUNK : (chunk + 1) * CHUNK] for row in rows]
    ids = [[start, *part, end, *[pad] * (CHUNK - len(part))] for part in parts]
    output = encoder(torch.tensor(ids, device=encoder.device), output_hidden_states=True)
    # SDXL reads the layer before the last, SD the last; SDXL's second encoder also gives the pooled text
    context = output.hidden_states[-2] if is_sdxl else output[0]
    return context, output[0]
