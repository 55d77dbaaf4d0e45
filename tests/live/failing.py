"""Run inside the webui by its script "Custom code", behind `reckoning.py`: a UNet that fails once, in a phase."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from modules import shared  # noqa: TID251
from modules.processing import process_images  # noqa: TID251
from reckoning import parts


@contextlib.contextmanager
def failing(phase: int, call: int) -> Iterator[None]:
    """At its `call`-th call in a phase."""
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += (shared.state.textinfo or "").startswith(f"DemoFusion phase {phase} of")
        if calls == call:
            calls += 1
            raise RuntimeError("broken on purpose")

    hook = parts()[0].register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def left() -> list[str]:
    """What should not be there between two pictures."""
    model, found = shared.sd_model, []
    unet = parts()[0]
    if "forward" in vars(unet) or unet._forward_pre_hooks or unet._forward_hooks:
        found.append("something around the UNet")
    for name in ("forge_objects", "forge_objects_original", "forge_objects_after_applying_lora"):
        objects = getattr(model, name, None)
        if objects is None:
            continue
        if "model_function_wrapper" in objects.unet.model_options:
            found.append(f"a wrapper in {name}")
        if "memory_required" in vars(objects.unet.model):
            found.append("memory reckoned by windows")
    return found


def fail(p: Any, phase: int, call: int) -> dict[str, Any]:
    """The pictures' sizes, what the user is told, and what is left."""
    with failing(phase, call):
        processed = process_images(p)
    return {"sizes": [image.size for image in processed.images], "told": processed.comments, "left": left()}
