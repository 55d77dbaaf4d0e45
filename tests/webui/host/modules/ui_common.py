"""Parts of the page that both tabs have."""

from __future__ import annotations

import html


def plaintext_to_html(text, classname=None):
    return f"<p class='{classname}'>{html.escape(text)}</p>" if classname else f"<p>{html.escape(text)}</p>"
