"""The fixture `as_forge`: makes of the webui of doubles (`host`) one of Forge's family."""

from __future__ import annotations

import pytest

from tests.webui.conftest import bytecode, host  # noqa: F401: fixtures

from .doubles import Family, dress


@pytest.fixture
def as_forge(host, monkeypatch):  # noqa: F811
    """`as_forge(kind)`: what was drawn before it, the first host has drawn."""

    def become(kind):
        family = Family(kind)
        family.install(host, monkeypatch)
        dress(host.model, kind)
        install = host.install
        monkeypatch.setattr(host, "install", lambda *args, **kwargs: dress(install(*args, **kwargs), kind))
        return family

    return become


@pytest.fixture
def reforge(as_forge):
    return as_forge("reForge")
