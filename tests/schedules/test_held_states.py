"""What a rank holds at its peak, from its states: the same as following the whole schedule."""

import pytest
from numpy.random import default_rng

from autopart.schedules.find import find_schedule, schedule_names
from autopart.schedules.held_states import held_states
from autopart.schedules.homes import rank_stages
from autopart.schedules.in_flight import peak_in_flight


@pytest.mark.parametrize("name", [name for name in schedule_names() if name != "forward-only"])
def test_peaks_are_those_of_the_schedule(name: str) -> None:
    rng, definition = default_rng(0), find_schedule(name)
    for ranks, rounds in ((1, 3), (2, 1), (3, 4), (4, 2)):
        for virtual in (1, 2, 3):
            if not definition.takes(virtual):
                continue
            count = ranks * rounds
            sizes = rng.integers(1, 20, ranks * virtual).astype(float)
            states = held_states(name, ranks, count, virtual)
            own = [sizes[list(places)] for places in rank_stages(name, ranks, virtual)]
            peaks = tuple(float((held @ size).max()) for held, size in zip(states, own, strict=True))
            assert peaks == peak_in_flight(definition(ranks, count, virtual), list(sizes))
