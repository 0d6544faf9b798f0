"""simulate keeps every dependency and never runs two actions at once on a rank; grid draws what it says."""

import math
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopart.errors import PlanningError
from autopart.ir.action import Action, Kind, Schedule
from autopart.schedules.find import find_schedule, schedule_names
from autopart.schedules.grid import grid
from autopart.schedules.makespan import makespan_s
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline
from tests.schedules.sizes import sizes

SECONDS = st.floats(0.0, 10.0, allow_subnormal=False)


@pytest.mark.parametrize("name", schedule_names())
@given(data=st.data())
def test_actions_wait_for_their_inputs_and_for_their_rank_and_for_nothing_else(name: str, data: st.DataObject) -> None:
    ranks, micro_batches, virtual = data.draw(st.sampled_from(list(sizes(find_schedule(name), 5, 9))))
    stages = ranks * virtual
    times_s = {kind: data.draw(st.lists(SECONDS, min_size=stages, max_size=stages)) for kind in Kind}
    send_s = data.draw(st.lists(SECONDS, min_size=stages - 1, max_size=stages - 1))
    exposed = data.draw(st.booleans())
    schedule = find_schedule(name)(ranks, micro_batches, virtual)

    forward_s, backward_s, weight_s = times_s.values()
    timeline = simulate(schedule, forward_s, backward_s, send_s, exposed, weight_s)

    assert tuple(tuple(span.action for span in spans) for spans in timeline.ranks) == schedule
    end_s = {span.action: span.end_s for spans in timeline.ranks for span in spans}
    steps = {Kind.FORWARD: 1, Kind.BACKWARD: -1, Kind.WEIGHT: 0}  # to the stage that takes what comes out
    for spans in timeline.ranks:
        free_s = 0.0
        for span in spans:
            kind, stage, micro_batch = span.action.kind, span.action.stage, span.action.micro_batch
            source, target = stage - steps[kind], stage + steps[kind]
            arrived_s = 0.0
            if source != stage and 0 <= source < stages:
                arrived_s = end_s[Action(kind, source, micro_batch)] + send_s[min(stage, source)]
            assert span.start_s == max(free_s, arrived_s)
            assert span.end_s == span.start_s + times_s[kind][stage]
            sends = exposed and target != stage and 0 <= target < stages
            free_s = span.end_s + (send_s[min(stage, target)] if sends else 0.0)
    assert timeline.step_s == max(end_s.values())
    assert makespan_s(schedule, forward_s, backward_s, send_s, exposed, weight_s) == timeline.step_s
    assert 0.0 <= timeline.bubble_fraction <= 1.0  # all is bubble where nobody computes, or next to nothing


@pytest.mark.parametrize("micro_batches", [1, 2, 5])
def test_a_send_adds_its_latency_once_each_way(micro_batches: int) -> None:
    timeline = simulate(find_schedule("gpipe")(2, micro_batches), [1.0, 1.0], [2.0, 2.0], [0.5])
    assert timeline.step_s == (micro_batches + 1) * 3.0 + 2 * 0.5


def test_exposed_sends_occupy_their_sender() -> None:
    schedule = find_schedule("gpipe")(2, 3)
    #   rank 0 | F0 > F1 > F2 >              B2 B1 B0      > is a send, as long as an action
    #   rank 1 |      F0   F1   F2 B2 > B1 > B0 >
    timeline = simulate(schedule, [1.0, 1.0], [1.0, 1.0], [1.0], exposed=True)
    assert [span.start_s for span in timeline.ranks[0]] == [0.0, 2.0, 4.0, 9.0, 11.0, 13.0]
    assert [span.start_s for span in timeline.ranks[1]] == [2.0, 4.0, 6.0, 7.0, 9.0, 11.0]
    assert timeline.bubble_fraction == pytest.approx(1 - 12 / 28)


def test_a_slow_stage_sets_the_pace() -> None:
    # Stage 1 never stands still from its first forward to its last backward; stage 0 adds an F before and a B after.
    timeline = simulate(find_schedule("1f1b")(3, 50), [1.0, 5.0, 1.0], [1.0, 5.0, 1.0], [0.0, 0.0])
    assert timeline.step_s == 50 * 10.0 + 2.0


@pytest.mark.parametrize(
    ("forward_s", "backward_s", "send_s", "message"),
    [
        ([1.0], [1.0, 1.0], [0.0], "forward_s has 1 entries; this schedule needs 2"),
        ([1.0, 1.0], [1.0, 1.0], [0.0, 0.0], "send_s has 2 entries; this schedule needs 1"),
        ([1.0, 1.0], [1.0, -1.0], [0.0], r"backward_s\[1\] is -1.0"),
        ([math.nan, 1.0], [1.0, 1.0], [0.0], r"forward_s\[0\] is nan"),
        ([1.0, 1.0], [1.0, 1.0], [math.inf], r"send_s\[0\] is inf"),
    ],
)
def test_times_that_do_not_fit_are_refused(
    forward_s: list[float], backward_s: list[float], send_s: list[float], message: str
) -> None:
    with pytest.raises(PlanningError, match=message):
        simulate(find_schedule("1f1b")(2, 2), forward_s, backward_s, send_s)


def test_a_split_backward_needs_the_time_of_its_second_part() -> None:
    schedule = find_schedule("zb-h1")(2, 2)
    with pytest.raises(PlanningError, match="give weight_s"):
        simulate(schedule, [1.0, 1.0], [1.0, 1.0], [0.0])
    with pytest.raises(PlanningError, match="weight_s has 1 entries; this schedule needs 2"):
        simulate(schedule, [1.0, 1.0], [1.0, 1.0], [0.0], weight_s=[1.0])


def test_weight_gradients_delay_nobody_but_their_rank() -> None:
    #   rank 0 | F0    .  .  B0 W0          the B of rank 0 waits for that of rank 1, not for its W
    #   rank 1 |    F0 B0 W0
    schedule = find_schedule("zb-h1")(2, 1)
    timeline = simulate(schedule, [1.0, 1.0], [1.0, 1.0], [0.0], weight_s=[1.0, 9.0])
    assert [span.start_s for span in timeline.ranks[0]] == [0.0, 3.0, 4.0]
    assert timeline.idle_s(0) == 2.0
    assert timeline.step_s == 12.0


def test_activations_are_held_until_the_last_pass() -> None:
    def held(name: str, virtual: int = 1) -> list[int]:
        timeline = simulate(
            find_schedule(name)(3, 6, virtual), *([1.0] * n for n in (3 * virtual, 3 * virtual, 3 * virtual - 1)),
            weight_s=[1.0] * 3 * virtual,
        )  # fmt: skip
        return [timeline.in_flight(stage) for stage in range(3 * virtual)]

    assert held("1f1b") == [3, 2, 1]
    assert held("zb-h1") == [3, 3, 3]
    assert held("forward-only") == [1, 1, 1]
    assert held("interleaved-1f1b", 2) == [6, 6, 4, 3, 3, 1]
    assert held("zb-v", 2) == [6, 5, 4, 3, 2, 1]


def test_a_deadlock_is_refused() -> None:
    schedule: Schedule = ((Action(Kind.FORWARD, 1, 0), Action(Kind.FORWARD, 0, 0)),)
    with pytest.raises(PlanningError, match="deadlocks"):
        simulate(schedule, [1.0, 1.0], [1.0, 1.0], [0.0])


def test_nothing_to_do_takes_no_time() -> None:
    assert simulate((), [], [], []).step_s == 0.0
    assert Timeline(((), ())).bubble_fraction == 0.0
    with pytest.raises(PlanningError, match="stage 0"):
        Timeline(()).in_flight(0)


def test_grid_names_stages_where_a_rank_has_several() -> None:
    forwards = tuple(Action(Kind.FORWARD, stage, 0) for stage in (0, 1))
    backwards = tuple(Action(Kind.BACKWARD, stage, 0) for stage in (1, 0))
    assert grid((forwards + backwards,)) == "rank 0 | F0.s0 F0.s1 B0.s1 ----- B0.s0 -----\n"


@pytest.mark.parametrize("name", schedule_names())
def test_a_hundred_thousand_actions_take_well_under_a_second(name: str) -> None:
    definition = find_schedule(name)
    virtual = definition.virtual_stages[0]
    ranks, actions = 64 // virtual, 2**17
    schedule = definition(ranks, actions // (64 * len(definition.kinds)) // ranks * ranks, virtual)
    assert 0.9 * actions < sum(map(len, schedule)) <= actions
    best_s = math.inf
    for _ in range(3):
        start_s = time.process_time()
        simulate(schedule, [1.0] * 64, [2.0] * 64, [0.1] * 63, weight_s=[1.0] * 64)
        best_s = min(best_s, time.process_time() - start_s)
    assert best_s < 0.9


def test_no_torch() -> None:
    code = (
        "import sys, autopart.schedules.find as find, autopart.schedules.grid, autopart.schedules.validate\n"
        "find.schedule_names()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
