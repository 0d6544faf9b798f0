"""slowest_within_s: how fast the slowest of some stages can be, if nothing but the time of whole units matters."""

from bisect import bisect_right
from collections.abc import Sequence
from operator import sub

HALVINGS = 10


def slowest_within_s(times_s: Sequence[float], stages: int) -> tuple[float, float]:
    """Seconds between which the slowest stage takes when stages are as even as they can be.

    Args:
        times_s: of no unit, the first one, the first two and so on; of all of them at the end.
        stages: how many stages the units are cut into.

    Returns:
        What it takes at the least and at the most. The latter can be done: stages take units up to it in turn.
    """
    count = len(times_s) - 1
    largest = max(map(sub, times_s[1:], times_s))
    least = max(times_s[-1] / stages, largest)
    most = least + largest  # stages that take units until they have an even share do not take more
    for _ in range(HALVINGS):
        middle, start = (least + most) / 2, 0
        for _ in range(stages):
            start = bisect_right(times_s, times_s[start] + middle) - 1
        least, most = (least, middle) if start == count else (middle, most)
    return least, most
