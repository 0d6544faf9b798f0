"""Candidates: what is in flight, and times that agree with the schedule played out."""

import pytest

from autopart.errors import PlanningError
from autopart.schedules.find import find_schedule, schedule_names
from autopart.schedules.rank_peaks import rank_peaks
from tests.search.test_degrees import gpt


def peaks(schedule: str, ranks: int, micro_batches: int, virtual: int) -> list[int]:
    """Counted over the whole schedule."""
    definition = find_schedule(schedule)
    found = []
    for actions in definition(ranks, micro_batches, virtual):
        own = [0]
        for action in actions:
            own.append(own[-1] + (action.kind is definition.kinds[0]))
            own.append(own[-1] - (action.kind is definition.kinds[-1]))
        found.append(max(own))
    return found


@pytest.mark.parametrize("schedule", schedule_names())
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_in_flight(schedule: str, ranks: int) -> None:
    definition = find_schedule(schedule)
    for micro_batches in (1, 2, ranks, 3 * ranks, 5 * ranks + 1, 9 * ranks, 9 * ranks + 2, 200):
        for virtual in (1, 2, 3):
            if definition.takes(virtual) and not (definition.whole_rounds and micro_batches % ranks):
                expected = peaks(schedule, ranks, micro_batches, virtual)
                assert list(rank_peaks(schedule, ranks, micro_batches, virtual)) == expected


def test_a_long_schedule_is_not_written_out() -> None:
    assert rank_peaks("1f1b", 4, 10**12) == (4, 3, 2, 1)
    assert rank_peaks("gpipe", 3, 10**12) == (10**12,) * 3
    assert rank_peaks("zb-h2", 4, 10**12) == (7, 7, 7, 7)
    assert rank_peaks("zb-v", 4, 10**12, 2) == (8, 8, 8, 8)


def test_counts_that_a_schedule_cannot_take_are_named_as_they_are() -> None:
    with pytest.raises(PlanningError, match="not 1001: change global_batch or micro_batch so that there are 1000 or"):
        rank_peaks("interleaved-1f1b", 4, 1001, 2)


def test_a_split_backward_takes_what_the_whole_one_takes() -> None:
    pins = {"tp": 1, "dp": 1, "pp": 4, "micro_batch": 4, "recompute": "none"}
    whole, split = (gpt().search(4, 64, schedule=name, **pins).run().best for name in ("1f1b", "zb-h1"))
    assert (split.schedule, split.cuts) == ("zb-h1", whole.cuts)
    busy_s = [
        sum(span.end_s - span.start_s for spans in best.timeline.ranks for span in spans) for best in (whole, split)
    ]
    assert busy_s[1] == pytest.approx(busy_s[0])
    assert split.timeline.step_s < whole.timeline.step_s
    assert split.in_flight == (4, 4, 4, 4)


@pytest.mark.parametrize(("pp", "micro_batch"), [(1, 4), (2, 2), (4, 1)])
def test_the_estimate_is_near_the_schedule(pp: int, micro_batch: int) -> None:
    """The formula ranks candidates, the schedule decides: they must not be far apart."""
    best = gpt().search(pp, 64, tp=1, dp=1, pp=pp, micro_batch=micro_batch).run().best
    assert best.estimated_s == pytest.approx(best.step_s, rel=0.15)
    both = [f + b for f, b in zip(best.forward_s, best.backward_s, strict=True)]
    assert best.step_s >= best.micro_batches * max(both)
    if pp == 1:
        assert best.step_s == pytest.approx(best.micro_batches * both[0] + best.tail_s, rel=1e-9)


def test_replicas_reduce_gradients() -> None:
    alone, two = (gpt().search(dp, 8 * dp, tp=1, pp=1, dp=dp, micro_batch=8, zero=0).run().best for dp in (1, 2))
    # The slower of two devices sets the pace.
    assert two.forward_s[0] == pytest.approx(alone.forward_s[0] * two.cluster.device.pace(2), rel=1e-12)
    assert two.tail_s > alone.tail_s


def test_more_than_memory_is_never_used() -> None:
    for candidate in (gpt().search(8, 64).run().best, *gpt().search(8, 64).run().others):
        assert candidate.peak_bytes <= candidate.cluster.device.memory_bytes
        assert len(candidate.memory) == candidate.pp
