"""What may go wrong, by names that a host can tell apart."""

from __future__ import annotations


class Unreadable(ValueError):
    """A module that isn't one of the two layouts, or one that others have changed. Raised before any work."""


class NotFinite(ArithmeticError):
    """A layer's output, or the picture, holds infinities or NaN. `layer` is the layer's name in the module."""

    def __init__(self, layer: str):
        super().__init__(f"the VAE's layer {layer} gave values that are not finite")
        self.layer = layer


class NoRoom(MemoryError):
    """Neither the device nor host memory nor the file's folder has room for the layers. Raised before any work."""
