"""What a step is spent on: all of it, and by what it is for."""

from dataclasses import astuple

import pytest

from autopart.schedules.find import schedule_names
from autopart.search.parts import parts
from tests.search.test_degrees import gpt

PINS = {"tp": 1, "dp": 1, "micro_batch": 1}


@pytest.mark.parametrize("schedule", schedule_names())
def test_the_parts_are_the_step(schedule: str) -> None:
    virtual = 2 if schedule in ("interleaved-1f1b", "zb-v") else 1
    best = gpt().search(2, 16, schedule=schedule, virtual_stages=virtual, pp=2, recompute="full", **PINS).run().best
    own = parts(best)
    assert sum(astuple(own)) == pytest.approx(best.step_s, rel=1e-9)
    assert min(astuple(own)) >= -1e-12 * best.step_s
    assert own.waiting_s > 0 and own.products_s > 0
    assert (own.recompute_s > 0) == (schedule != "forward-only")


def test_each_part_is_what_it_is_named_for() -> None:
    plain, again, divided, shared = (
        parts(gpt().search(world, 16, **pins).run().best)
        for world, pins in (
            (1, {"recompute": "none"}),
            (1, {"recompute": "full"}),
            (2, {"tp": 2, "recompute": "none"}),
            (2, {"dp": 2, "zero": 3, "micro_batch": 1, "recompute": "none"}),
        )
    )
    assert plain.recompute_s == plain.communication_s == plain.gathers_s == plain.waiting_s == plain.gradients_s == 0
    assert again.recompute_s > 0 and again.products_s == pytest.approx(plain.products_s)
    assert divided.communication_s > 0 and divided.products_s < plain.products_s
    assert shared.gathers_s > 0
