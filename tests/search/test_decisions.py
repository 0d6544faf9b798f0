"""What each decision of a plan is worth, against looking at every point."""

import pytest

from autopart.search.decisions import decisions
from tests.search.test_degrees import gpt

WORTH = ("tp", "pp", "dp", "micro_batch")


@pytest.mark.parametrize(("world", "batch"), [(4, 32), (8, 64)])
def test_the_next_best_is_that_of_all_points(world: int, batch: int) -> None:
    search = gpt().search(world, batch)
    best = search.run().best
    found = {item.name: item for item in decisions(search, best) if item.fits}
    limit = float(search.request.cluster.device.memory_bytes)
    looked_at = [point for number, point in enumerate(search.points) if search.may_gain(number)]
    every = [search.pricing.candidate(point, limit) for point in looked_at]
    fitting = [own for own in every if own is not None and own.peak_bytes <= limit]
    assert found
    for name in WORTH:
        others = [own.estimated_s for own in fitting if getattr(own, name) != getattr(best, name)]
        told = [item for item in found.values() if name in (item.name, *(also for also, _ in item.besides))]
        assert bool(others) == bool(told)
        if name in found:
            fastest = [own for own in fitting if own.estimated_s == min(others)]
            assert found[name].step_time_s in [pytest.approx(own.step_s) for own in fastest]
            assert found[name].chosen == str(getattr(best, name))
            assert found[name].other in [str(getattr(own, name)) for own in fastest]


def test_nothing_is_told_of_what_was_pinned() -> None:
    search = gpt().search(4, 32, tp=2, pp=2, dp=1, recompute="none", schedule="1f1b", micro_batch=4)
    assert decisions(search, search.run().best) == ()


def test_what_has_no_room_is_told_with_its_bytes() -> None:
    free = gpt().search(1, 32, recompute="none", micro_batch=16).run().best
    limit = 0.9 * free.peak_bytes
    search = gpt().search(1, 32, memory_limit_bytes=limit, micro_batch=16)
    best = search.run().best
    assert best.recompute == "2 of 4 full"
    item, other = (item for item in decisions(search, best) if item.name == "recompute")
    assert (item.chosen, item.other, item.besides, item.fits) == ("2 of 4 full", "none", (), False)
    assert (other.chosen, other.other, other.fits) == ("2 of 4 full", "full", True)
    assert other.step_time_s > best.step_s
    assert item.peak_memory_bytes == free.peak_bytes > limit
    assert item.step_time_s == pytest.approx(free.step_s) and item.step_time_s < best.step_s
