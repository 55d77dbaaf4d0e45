"""What a user has to be told of a run: on the page as comments, in the infotext, which is all that the API answers with."""

from __future__ import annotations

from typing import Any

NOTE_KEY = "DemoFusion note"
STOPPED_KEY = "DemoFusion stopped"


def tell(p: Any, notes: list[str], text: str) -> None:
    """Adds one note to those of a run or of one of its images, and writes them all to what follows."""
    p.comment(f"DemoFusion: {text}.")
    if text not in notes:
        notes.append(text)
    write(p, notes)


def untell(p: Any, notes: list[str], text: str) -> None:
    """Takes one note back that another is about to take the place of."""
    p.comments.pop(f"DemoFusion: {text}.", None)
    if text in notes:
        notes.remove(text)


def write(p: Any, notes: list[str]) -> None:
    """Makes `notes` what the infotexts that are written from now on say."""
    p.extra_generation_params.pop(NOTE_KEY, None)
    if notes:
        p.extra_generation_params[NOTE_KEY] = "; ".join(notes)
