"""Candidates: what is in flight, and times that agree with the schedule played out."""

import pytest

from autopart.schedules.find import find_schedule
from autopart.search.candidate import peak_in_flight
from tests.search.test_degrees import gpt


def peaks(schedule: str, stages: int, micro_batches: int) -> list[int]:
    """Counted over the whole schedule."""
    found = []
    for actions in find_schedule(schedule)(stages, micro_batches):
        flying = [0]
        for action in actions:
            flying.append(flying[-1] + (1 if str(action)[0] == "F" else -1))
        found.append(max(flying))
    return found


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe"])
@pytest.mark.parametrize("stages", [1, 2, 3, 4, 7])
def test_in_flight(schedule: str, stages: int) -> None:
    for micro_batches in (1, 2, stages, 3 * stages, 5 * stages + 1, 9 * stages + 2, 200):
        assert list(peak_in_flight(schedule, stages, micro_batches)) == peaks(schedule, stages, micro_batches)


def test_a_long_schedule_is_not_written_out() -> None:
    assert peak_in_flight("1f1b", 4, 10**12) == (4, 3, 2, 1)
    assert peak_in_flight("gpipe", 3, 10**12) == (10**12,) * 3


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
    alone, two = (gpt().search(dp, 8 * dp, tp=1, pp=1, dp=dp, micro_batch=8).run().best for dp in (1, 2))
    assert two.forward_s == alone.forward_s
    assert two.tail_s > alone.tail_s


def test_more_than_memory_is_never_used() -> None:
    for candidate in (gpt().search(8, 64).run().best, *gpt().search(8, 64).run().others):
        assert candidate.peak_bytes <= candidate.cluster.device.memory_bytes
        assert len(candidate.memory) == candidate.pp
