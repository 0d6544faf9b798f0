"""validate finds what is wrong with a schedule, and names the rank and the action."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopart.errors import PlanningError
from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.find import find_schedule, schedule_names
from autopart.schedules.validate import validate
from tests.schedules.sizes import sizes


def schedule_of(*ranks: str) -> Schedule:
    """`"F0 B0"` a rank, stage = rank; `F0.s2` puts an action on another stage."""
    return tuple(tuple(_action(word, rank) for word in words.split()) for rank, words in enumerate(ranks))


def _action(word: str, rank: int) -> Action:
    name, _, stage = word.partition(".s")
    return Action(Kind(name[0]), int(stage or rank), int(name[1:]))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (("F0 F1 B0", "F0 B0 F1 B1"), "rank 0, B1 of stage 0: missing"),
        (("F0 F1 B0 B1", "F0 B0"), "rank 1, F1 of stage 1: missing"),
        (("F0 F1 B0 B1",), "F0 of stage 1 is missing: no rank has the stage"),
        (("F0 F1 B0 B1 B1", "F0 B0 F1 B1"), "rank 0, B1 of stage 0: done twice"),
        (("F0 B1 F1 B0", "F0 B0 F1 B1"), "rank 0, B1 of stage 0: its F1 does not come before it"),
        (("F0 F1 B0 B1", "F0 B0 F1 B1 F2"), "rank 1, F2 of stage 1: there is no such micro-batch, only 0 to 1"),
        (("F0 F1 B0 B1", "F0 B0 F1 B1", "F0"), "rank 2, F0 of stage 2: there is no such stage, only 0 to 1"),
        (("F0 F1 B0 B1", "F0 B0 F1 B1 F0.s0"), "rank 1, F0 of stage 0: the stage is already on rank 0"),
        (
            ("F0 B0 F1 B1", "F0 F1 B0 B1"),
            "the schedule deadlocks: "
            "rank 0 stops before B0 of stage 0, needs B0 of stage 1, which comes later on rank 1; "
            "rank 1 stops before F1 of stage 1, needs F1 of stage 0, which comes later on rank 0",
        ),
    ],
)
def test_a_broken_schedule_is_refused(ranks: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlanningError) as error:
        validate(schedule_of(*ranks), 2, 2)
    assert str(error.value) == message


def test_only_the_ranks_of_the_cycle_are_reported() -> None:
    schedule = schedule_of("F0 F1 B0 B1", "F0 B0 F1 B1", "F0 F1 B0 B1")
    with pytest.raises(PlanningError) as error:
        validate(schedule, 3, 2)
    assert "rank 1 stops" in str(error.value)
    assert "rank 2 stops" in str(error.value)
    assert "rank 0 stops" not in str(error.value)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (("F0 B0 F1 B1 W1",), "rank 0, W0 of stage 0: missing"),
        (("F0 W0 B0 F1 B1 W1",), "rank 0, W0 of stage 0: its B0 does not come before it"),
        (("F0 B0 W0 F1 B1 W0 W1",), "rank 0, W0 of stage 0: done twice"),
    ],
)
def test_a_broken_split_schedule_is_refused(ranks: tuple[str, ...], message: str) -> None:
    with pytest.raises(PlanningError) as error:
        validate(schedule_of(*ranks), 1, 2, kinds=tuple(Kind))
    assert str(error.value) == message


def test_only_what_the_schedule_is_for_is_done() -> None:
    validate(schedule_of("F0 F1"), 1, 2, kinds=(Kind.FORWARD,))
    with pytest.raises(PlanningError, match="rank 0, B0 of stage 0: the schedule is to have F alone"):
        validate(schedule_of("F0 B0"), 1, 1, kinds=(Kind.FORWARD,))
    with pytest.raises(PlanningError, match="rank 0, W0 of stage 0: the schedule is to have F and B alone"):
        validate(schedule_of("F0 B0 W0"), 1, 1)


@pytest.mark.parametrize("counts", [(0, 1), (1, 0)])
def test_an_empty_pipeline_is_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(PlanningError, match=f"{counts[0]} stages and {counts[1]} micro-batches"):
        validate((), *counts)


@pytest.mark.parametrize("name", schedule_names())
@given(data=st.data())
def test_a_schedule_that_lost_an_action_is_refused(name: str, data: st.DataObject) -> None:
    schedule = find_schedule(name)
    count, micro_batches, virtual = data.draw(st.sampled_from(list(sizes(schedule, 5, 6))))
    ranks = [list(actions) for actions in schedule(count, micro_batches, virtual)]
    rank = data.draw(st.integers(0, count - 1))
    lost = ranks[rank].pop(data.draw(st.integers(0, len(ranks[rank]) - 1)))
    with pytest.raises(PlanningError, match=rf"{lost}\b"):
        validate(tuple(map(tuple, ranks)), count * virtual, micro_batches, kinds=schedule.kinds)


def test_several_stages_a_rank() -> None:
    validate(schedule_of("F0.s0 F0.s2 B0.s2 B0.s0", "F0 B0"), 3, 1)
    with pytest.raises(PlanningError, match=r"rank 0 stops before F0 of stage 2.*rank 0$"):
        validate(schedule_of("F0.s2 F0.s0 B0.s2 B0.s0", "F0 B0"), 3, 1)


def test_producers_replace_the_chain() -> None:
    # Two encoders side by side feed stage 2. Rank 1 may run before rank 0, but nothing may run before its producers.
    branches = ((), (), (0, 1))
    validate(schedule_of("F0 F1 B0 B1", "F0 F1 B0 B1", "F0 B0 F1 B1"), 3, 2, branches)
    # Stage 1 runs F1 first: fine alone, a deadlock where stage 0 waits for the end of micro-batch 0 before F1.
    eager = schedule_of("F0 B0 F1 B1", "F0 F1 B0 B1", "F0 B0 F1 B1")
    validate(eager, 3, 2, branches)
    with pytest.raises(PlanningError, match="deadlocks"):
        validate(eager, 3, 2)


def test_a_skip_connection_brings_its_gradient_back() -> None:
    # Stage 0 feeds 1 and 2, so B of stage 0 needs B of both, although stage 1 needs nothing from stage 2.
    skip = ((), (0,), (0,))
    validate(schedule_of("F0 F1 B0 B1", "F0 B0 F1 B1", "F0 F1 B0 B1"), 3, 2, skip)
    with pytest.raises(PlanningError, match=r"rank 0 stops before B0 of stage 0, needs B0 of stage 2"):
        validate(schedule_of("F0 B0 F1 B1", "F0 B0 F1 B1", "F0 F1 B0 B1"), 3, 2, skip)


@pytest.mark.parametrize("producers", [((),), ((), (7,))])
def test_producers_must_fit_the_stages(producers: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(PlanningError, match="producers must give, for each of the 2 stages"):
        validate(schedule_of("F0 B0", "F0 B0"), 2, 1, producers)


def test_cyclic_producers_are_a_deadlock() -> None:
    with pytest.raises(PlanningError, match="rank 0 stops before F0 of stage 0, needs F0 of stage 1"):
        validate(schedule_of("F0 B0", "F0 B0"), 2, 1, ((1,), (0,)))
