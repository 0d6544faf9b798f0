"""CastRegions: sees regions in which autocast is turned off, where it is off anyway and nothing else tells of them.

Export's own region operators are of no use for these: they lose what `torch.no_grad` does inside.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.fx.traceback import annotate, preserve_node_meta

from autopart.capture.node_source import FULL


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

        with _replaced(entered, left):
            yield


@contextmanager
def marked_regions() -> Iterator[None]:
    """While it lasts, nodes that are traced in such regions are marked, as `is_full` tells; nothing else happens."""
    enter: Any = torch.autocast.__enter__
    leave: Any = torch.autocast.__exit__
    marks: dict[int, list[ExitStack]] = {}  # of each region, which may be entered again

    def entered(region: torch.autocast) -> Any:
        if region._enabled or torch.is_autocast_enabled(region.device):
            return enter(region)
        stack = ExitStack()
        stack.enter_context(preserve_node_meta())
        stack.enter_context(annotate({FULL: True}))
        marks.setdefault(id(region), []).append(stack)
        return region

    def left(region: torch.autocast, *error: Any) -> Any:
        if not marks.get(id(region)):
            return leave(region, *error)
        marks[id(region)].pop().close()
        return False

    with _replaced(entered, left):
        yield


@contextmanager
def _replaced(enter: Any, leave: Any) -> Iterator[None]:
    before = torch.autocast.__enter__, torch.autocast.__exit__
    torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__, torch.autocast.__exit__ = before  # type: ignore[method-assign]
