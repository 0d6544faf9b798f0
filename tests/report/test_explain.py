"""What is said of why a plan is as it is."""

from collections.abc import Callable
from dataclasses import astuple, replace

from autopart.report.explain import WIDTH, explain
from tests.example_plans import GIB, TOKEN_PARTS, image_plan, token_plan


def test_snapshot(check_snapshot: Callable[[str, str], None]) -> None:
    check_snapshot("explain.txt", explain(token_plan()) + "\n")


def test_the_parts_are_the_step() -> None:
    for plan in (token_plan(), image_plan()):
        assert abs(sum(astuple(plan.predicted.parts)) - plan.predicted.step_time_s) < 1e-6 * plan.predicted.step_time_s


def test_what_takes_longest_binds() -> None:
    plan = token_plan()
    slow = replace(plan, predicted=replace(plan.predicted, parts=replace(TOKEN_PARTS, communication_s=40.0)))
    assert "What binds is compute" in explain(plan)
    assert "What binds is the links between tp ranks for 40.0 s" in explain(slow)


def test_what_rounding_leaves_is_no_part() -> None:
    plan = token_plan()
    assert "waiting in the pipeline  " in explain(plan)
    left = replace(plan, predicted=replace(plan.predicted, parts=replace(TOKEN_PARTS, waiting_s=1e-14)))
    assert "waiting in the pipeline  " not in explain(left)


def test_memory_binds_where_a_rank_is_full() -> None:
    plan = token_plan()
    assert "Memory does not bind: rank 0 of the pipeline needs 28.1 of 79.2 GiB" in explain(plan)
    assert "Memory is full" in explain(replace(plan, memory_limit_bytes=30 * GIB))


def test_no_room_is_told_with_the_rank_and_its_bytes() -> None:
    text = explain(token_plan())
    told = " ".join(text.split())
    assert "none and all else the same: " in told
    assert "but rank 0 of the pipeline needs 98.0 of 79.2 GiB" in told
    assert "the best with 4 has pp 8 too: " in told and "(+2.1 %); waiting in the pipeline +1.30 s" in told


def test_a_plan_without_decisions() -> None:
    text = explain(image_plan())
    assert "each decision" not in text and "a device needs" in text
    assert max(map(len, text.splitlines())) <= WIDTH
