"""Kept on the disk by the webui, in its own folder; here for one test."""

caches: dict[str, dict] = {}


def cache(subsection):
    return caches.setdefault(subsection, {})
