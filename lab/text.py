"""The prompt's encoder, a two-layer CLIP in the layout of SD1 checkpoints."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

TOKENS = 77
VOCABULARY = 49408
START, END = 49406, 49407


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.fc1(x)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))  # CLIP's own approximation of GELU


class Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.self_attn, self.mlp = SelfAttention(width, heads), MLP(width)
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class TextEncoder(nn.Module):
    """Tokens `(batch, 77)` to `(batch, 77, width)`."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 2):
        super().__init__()
        self.embeddings = nn.ModuleDict({
            "token_embedding": nn.Embedding(VOCABULARY, width), "position_embedding": nn.Embedding(TOKENS, width),
        })  # fmt: skip
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(width, heads) for _ in range(layers))})
        self.final_layer_norm = nn.LayerNorm(width)
        for table in self.embeddings.values():
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embeddings["token_embedding"](tokens) + self.embeddings["position_embedding"](places)
        for layer in self.encoder["layers"]:
            x = layer(x)
        return self.final_layer_norm(x)
