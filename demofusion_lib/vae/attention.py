"""The middle block's attention over all cells, in tiles of queries and of keys: memory grows with neither."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .layers import convolved
from .program import Attend, Conv


def key_value(step: Attend) -> Conv:
    """Keys and values in one."""
    bias = None if step.k.bias is None or step.v.bias is None else torch.cat([step.k.bias, step.v.bias])
    return Conv(torch.cat([step.k.weight, step.v.weight]), bias)


@dataclass
class Softmax:
    """A softmax-weighted mean, as the keys come: for each query the greatest score, the weights' sum and the weighted sum.

    Milakov and Gimelshein 2018, Rabe and Staats 2021. All in float32: `(heads, queries, 1)`, and with a head's values.
    """

    queries: torch.Tensor
    greatest: torch.Tensor
    weight: torch.Tensor
    total: torch.Tensor

    @classmethod
    def begun(cls, step: Attend, normed: torch.Tensor) -> Softmax:
        """normed: the queries' cells `(height, width, channels)`."""
        queries = split_heads(convolved(normed, step.q), step.heads).mul_(step.scale)
        greatest = queries.new_full((*queries.shape[:2], 1), -torch.inf)
        width = step.v.outputs // step.heads
        return cls(queries, greatest, torch.zeros_like(greatest), queries.new_zeros(*queries.shape[:2], width))

    def add(self, step: Attend, both: torch.Tensor) -> None:
        """both: keys and values of some cells `(height, width, 2 * channels)`."""
        keys, values = (
            split_heads(part, step.heads) for part in torch.split(both, [step.k.outputs, step.v.outputs], -1)
        )
        scores = torch.bmm(self.queries, keys.transpose(1, 2))
        del keys
        greatest = torch.maximum(self.greatest, scores.amax(-1, keepdim=True))
        scores.sub_(greatest).exp_()
        shrink = self.greatest.sub_(greatest).exp_()
        self.weight.mul_(shrink).add_(scores.sum(-1, keepdim=True))
        self.total.mul_(shrink).baddbmm_(scores, values)
        self.greatest = greatest

    def mean(self) -> torch.Tensor:
        """`(queries, channels)`."""
        return self.total.div_(self.weight).transpose(0, 1).flatten(1)


def split_heads(values: torch.Tensor, heads: int) -> torch.Tensor:
    """`(height, width, channels)` as `(heads, cells, channels / heads)` in float32."""
    return values.float().reshape(-1, heads, values.shape[-1] // heads).transpose(0, 1)


def attended(step: Attend, softmax: Softmax, x: torch.Tensor) -> torch.Tensor:
    """What is written in place of the queries' cells `x`."""
    mean = softmax.mean().to(step.out.weight.dtype).view(*x.shape[:2], -1)
    made = convolved(mean, step.out)
    if step.adds:
        made.add_(x.to(made.dtype))
    return made if step.divide == 1 else made.div_(step.divide)
