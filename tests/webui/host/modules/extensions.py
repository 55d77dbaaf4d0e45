"""The installed extensions."""

from __future__ import annotations

extensions: list = []
