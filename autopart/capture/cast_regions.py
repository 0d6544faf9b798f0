"""CastRegions: sees regions in which autocast is turned off, where it is off anyway and nothing else tells of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class CastRegions:
    """Counts the regions without autocast around what runs.

    Attributes:
        off: how many there are now.
    """

    def __init__(self) -> None:
        self.off = 0

    @contextmanager
    def seen(self) -> Iterator[None]:
        """For the time that they are to be counted."""
        enter: Any = torch.autocast.__enter__
        leave: Any = torch.autocast.__exit__

        def entered(region: torch.autocast) -> Any:
            self.off += not region._enabled
            return enter(region)

        def left(region: torch.autocast, *error: Any) -> Any:
            self.off -= not region._enabled
            return leave(region, *error)

        torch.autocast.__enter__, torch.autocast.__exit__ = entered, left  # type: ignore[method-assign]
        try:
            yield
        finally:
            torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign]
