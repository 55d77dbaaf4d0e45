"""A stand-in for Apple's GPUs: tensors that compute on the CPU and are not on it, with what those GPUs refuse.

They refuse float64, and as every GPU they refuse to work on a tensor of the CPU's beside their own, numbers and indices
aside, and to be read by numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

APPLE, CPU = torch.device("meta"), torch.device("cpu")  # torch has no other device everywhere; nothing of it is used
MIXED = ("aten::index.", "aten::copy_", "aten::_index_put_impl_", "aten::index_put_")
"""Operations that take a tensor of the CPU's beside their own."""


class Far(torch.Tensor):
    """`near` holds the values."""

    near: torch.Tensor

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> Far:
        if near.dtype in (torch.float64, torch.complex128):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        made = torch.Tensor._make_wrapper_subclass(
            cls, near.shape, strides=near.stride(), dtype=near.dtype, device=APPLE, requires_grad=False
        )
        made.near = near
        return made

    def __repr__(self) -> str:
        return f"Far({self.near!r})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        return compute(function, given, named or {})


def compute(function: Any, given: Any, named: dict[str, Any]) -> Any:
    tensors = [value for value in tree_flatten((given, named))[0] if isinstance(value, torch.Tensor)]
    far = any(isinstance(tensor, Far) for tensor in tensors)
    assert not any(tensor.is_meta and not isinstance(tensor, Far) for tensor in tensors), function  # holds no values
    name = function.name()
    if far and not name.startswith(MIXED):
        beside = [tensor for tensor in tensors if not isinstance(tensor, Far) and tensor.dim()]
        if beside:
            raise RuntimeError(f"{name}: Expected all tensors to be on the same device, found two")
    wanted = named.get("device")
    if wanted is not None:
        far = torch.device(wanted).type == APPLE.type
        named = {**named, "device": CPU}
    if far and (named.get("dtype") or torch.float32) == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
    result = function(*near(given), **near(named))
    if name.startswith("aten::copy_") or name.split(".")[0].endswith("_"):
        return given[0]
    return tree_map(lambda value: Far(value) if isinstance(value, torch.Tensor) else value, result) if far else result


def near(given: Any) -> Any:
    return tree_map(lambda value: value.near if isinstance(value, Far) else value, given)


class Operations(TorchDispatchMode):
    """So that `torch.full(..., device=x.device)` makes a far tensor too."""

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        return compute(function, given, named or {})


class Values(TorchFunctionMode):
    """`torch.tensor` puts its values on the device in no operation."""

    def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = dict(named or {})
        if function in (torch.tensor, torch.as_tensor) and named.get("device") is not None:
            device = named.pop("device")
            return function(*given, **named).to(device)
        if function is torch.Tensor.new_tensor and isinstance(given[0], Far):
            return torch.tensor(*given[1:], **{"dtype": given[0].dtype, **named}).to(given[0].device)
        if function is torch.Tensor.__getitem__ and isinstance(given[1], tuple):
            index = tuple(torch.tensor(value) if isinstance(value, list) else value for value in given[1])
            return function(given[0], index)
        if function is torch.Tensor.__getitem__ and isinstance(given[1], list):
            return function(given[0], torch.tensor(given[1]))
        return function(*given, **named)


@contextmanager
def apple() -> Iterator[None]:
    with Values(), Operations():
        yield


class OnApple(torch.nn.Module):
    """A network that lies there: it takes nothing but far tensors."""

    def __init__(self, network: Any, answer: Callable[..., Any] | None = None):
        super().__init__()
        self.__dict__["network"], self.config, self.dtype, self.device = network, network.config, torch.float32, APPLE
        self.__dict__["answer"] = answer or network.forward

    def forward(self, *given: Any, **named: Any) -> Any:
        tensors = [value for value in tree_flatten((given, named))[0] if isinstance(value, torch.Tensor)]
        assert all(isinstance(tensor, Far) for tensor in tensors)
        with elsewhere():
            answer = self.answer(*near(given), **near(named))
        return tree_map(lambda value: Far(value) if isinstance(value, torch.Tensor) else value, answer)

    def decode(self, latent: torch.Tensor, **named: Any) -> Any:
        return OnApple(self.network, self.network.decode)(latent, **named)


@contextmanager
def elsewhere() -> Iterator[None]:
    """Without the mode: a network's own operations are its library's affair."""
    with torch.utils._python_dispatch._disable_current_modes():
        yield
