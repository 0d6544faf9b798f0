"""Listed: the first few of many things, for a message."""

from collections.abc import Sequence

SHOWN = 4


def listed(what: str, things: Sequence[str]) -> str:
    """`what a, b, c, d and 7 more`; empty for no things."""
    if not things:
        return ""
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return f"{what} {', '.join(things[:SHOWN])}{more}"
