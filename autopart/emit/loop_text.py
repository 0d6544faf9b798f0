"""loop_text: the `for` over the layers of a stage, each called as it is recomputed."""

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise

MOST_LOOPS = 4  # with more groups of layers that are recomputed alike, one loop tells them apart


def loops(kinds: Sequence[str]) -> list[tuple[int, int, tuple[str, ...]]]:
    """The loops in which layers of these kinds are called: (first layer, the one after the last, their kinds)."""
    groups = [(kind, len(list(own))) for kind, own in groupby(kinds)]
    if len(groups) > MOST_LOOPS and len(set(kinds)) == 2:
        return [(0, len(kinds), tuple(kinds))]
    bounds = accumulate((count for _, count in groups), initial=0)
    return [(first, stop, tuple(kinds[first:stop])) for first, stop in pairwise(bounds)]


def loop_text(stack: str, kinds: Sequence[str], flag: bool, carried: int, arguments: Sequence[str]) -> str:
    """A loop over the layers of `stack`, an expression.

    Args:
        stack: the layers.
        kinds: how each of them is recomputed.
        flag: whether the layers are told to recompute selectively; otherwise they do so by themselves.
        carried: how many of the arguments are what the layer before returned.
        arguments: of a layer.
    """
    left = ", ".join(arguments[:carried])
    calls = {kind: _call_text(kind, flag, arguments) for kind in dict.fromkeys(kinds)}
    if len(calls) == 1:
        return f"for block in {stack}:\n    {left} = {calls[kinds[0]]}"
    again = next(kind for kind in calls if kind != "none")
    other = next(kind for kind in calls if kind != again)
    numbers = ", ".join(str(number) for number, kind in enumerate(kinds) if kind == again)
    chosen = f"{left} = {calls[again]} if number in ({numbers},) else {calls[other]}"
    return f"for number, block in enumerate({stack}):\n    {chosen}"


def _call_text(kind: str, flag: bool, arguments: Sequence[str]) -> str:
    names = ", ".join(arguments)
    if kind == "full":
        return f"checkpoint(block, {names}, use_reentrant=False)"
    return f"block({names}{', selective=True' if kind == 'selective' and flag else ''})"
