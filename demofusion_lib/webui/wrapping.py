"""What other extensions have put around the UNet, and whether it knows that the UNet is given windows."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

FOLLOWS = "follows_demofusion"
"""By this attribute, of a function or of the object that it belongs to, a wrapper says that it asks `core.looking()`."""
OF_HOST = ("modules", "ldm", "sgm", "torch", "lowvram", "hypertile", "ldm_patched", "backend")
"""Packages whose own hooks there may be: the host's, its models' and its built-in extensions'."""


def wrappers(unet: Any, known: Any = None) -> Iterator[Any]:
    """Functions around the UNet that take what it is given for the whole picture.

    known: ControlNet's object in it, whose own wrapper is looked through; not what an earlier run's object has left beneath it.
    """
    forward = vars(unet).get("forward")
    globals_known = getattr(getattr(type(known), "hook", None), "__globals__", None)
    if forward is not None and globals_known is not None and _function(forward).__globals__ is globals_known:
        forward = getattr(known, "original_forward", None)
    hooks = [*getattr(unet, "_forward_pre_hooks", {}).values(), *getattr(unet, "_forward_hooks", {}).values()]
    for function in (forward, *hooks):
        if function is not None and not _is_own(function, unet) and not _follows(function):
            yield function


def within(unet: Any) -> list[Any]:
    """Functions that others have put around parts of the UNet, its attention most often, one of each file."""
    found: dict[str, Any] = {}
    for part in unet.modules():
        own = vars(part)
        hooks = [*own.get("_forward_pre_hooks", {}).values(), *own.get("_forward_hooks", {}).values()]
        for function in (own.get("forward"), *hooks):
            if function is None or part is unet or _is_own(function, part) or _follows(function):
                continue
            file = getattr(getattr(_function(function), "__code__", None), "co_filename", "")
            found.setdefault(file, _function(function))
    return list(found.values())


def _function(wrapper: Any) -> Any:
    """Of a bound method, a partial one, or an object that is called, the function."""
    if isinstance(wrapper, functools.partial):
        return _function(wrapper.func)
    if isinstance(wrapper, types.MethodType):
        return wrapper.__func__
    return wrapper if isinstance(wrapper, types.FunctionType) else type(wrapper).__call__


def _is_own(function: Any, unet: Any) -> bool:
    inner = _function(function)
    if inner is getattr(type(unet), "forward", None):
        return True
    return str(getattr(inner, "__module__", "")).partition(".")[0] in OF_HOST


def _follows(function: Any) -> bool:
    owner = getattr(function, "__self__", None)
    return any(getattr(each, FOLLOWS, False) is True for each in (function, _function(function), owner))
