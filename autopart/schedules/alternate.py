"""alternate: one forward and one backward in turn, after some forwards; what 1F1B does and many schedules build on."""

from collections.abc import Sequence

from autopart.ir.action import Action


def alternate(forwards: Sequence[Action], backwards: Sequence[Action], warm_up: int) -> tuple[Action, ...]:
    """`warm_up` of the forwards, then one forward and one backward in turn, then the backwards that are left.

    There are as many forwards as backwards; if they are fewer than `warm_up`, all forwards come first.
    """
    warm_up = min(warm_up, len(forwards))
    steady = len(forwards) - warm_up
    turns = [action for pair in zip(forwards[warm_up:], backwards[:steady], strict=True) for action in pair]
    return (*forwards[:warm_up], *turns, *backwards[steady:])
