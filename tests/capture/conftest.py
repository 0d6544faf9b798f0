"""Fixtures for tests of capture."""

from typing import Any

import pytest

from autopart.capture import hidden_layers, translate


@pytest.fixture(autouse=True)
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers of small models are hidden too."""
    monkeypatch.setattr(hidden_layers, "LEAST", 0)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the layers that were written out from another."""
    paths: list[str] = []
    original = translate.expand

    def expand(layer: Any, outside: Any, path: str, *rest: Any) -> Any:
        paths.append(path)
        return original(layer, outside, path, *rest)

    monkeypatch.setattr(translate, "expand", expand)
    return paths
