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
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline

SECONDS = st.floats(0.0, 10.0, allow_subnormal=False)


@pytest.mark.parametrize("name", schedule_names())
@given(data=st.data())
def test_actions_wait_for_their_inputs_and_for_their_rank_and_for_nothing_else(name: str, data: st.DataObject) -> None:
    stages, micro_batches = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    forward_s = data.draw(st.lists(SECONDS, min_size=stages, max_size=stages))
    backward_s = data.draw(st.lists(SECONDS, min_size=stages, max_size=stages))
    send_s = data.draw(st.lists(SECONDS, min_size=stages - 1, max_size=stages - 1))
    exposed = data.draw(st.booleans())
    schedule = find_schedule(name)(stages, micro_batches)

    timeline = simulate(schedule, forward_s, backward_s, send_s, exposed)

    assert tuple(tuple(span.action for span in spans) for spans in timeline.ranks) == schedule
    end_s = {span.action: span.end_s for spans in timeline.ranks for span in spans}
    for spans in timeline.ranks:
        free_s = 0.0
        for span in spans:
            stage, micro_batch, forward = span.action.stage, span.action.micro_batch, span.action.kind is Kind.FORWARD
            source, hop = (stage - 1, stage - 1) if forward else (stage + 1, stage)
            arrived_s = 0.0
            if 0 <= source < stages:
                arrived_s = end_s[Action(span.action.kind, source, micro_batch)] + send_s[hop]
            assert span.start_s == max(free_s, arrived_s)
            assert span.end_s == span.start_s + (forward_s if forward else backward_s)[stage]
            outgoing = stage if forward else stage - 1
            sends = exposed and 0 <= outgoing < stages - 1
            free_s = span.end_s + (send_s[outgoing] if sends else 0.0)
    assert timeline.step_s == max(end_s.values())
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
def test_64_stages_and_1024_micro_batches_take_well_under_a_second(name: str) -> None:
    schedule = find_schedule(name)(64, 1024)
    best_s = math.inf
    for _ in range(3):
        start_s = time.process_time()
        simulate(schedule, [1.0] * 64, [2.0] * 64, [0.1] * 63)
        best_s = min(best_s, time.process_time() - start_s)
    assert best_s < 0.9


def test_no_torch() -> None:
    code = (
        "import sys, autopart.schedules.find as find, autopart.schedules.grid, autopart.schedules.validate\n"
        "find.schedule_names()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
