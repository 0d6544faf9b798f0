"""Timelines of plans, as pictures and as traces."""

import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autopart.errors import PlanningError, UnsupportedError
from autopart.ir.action import Kind
from autopart.report.chrome_trace import chrome_trace
from autopart.report.predicted_timeline import predicted_timeline
from autopart.report.printed_plan import Plan
from autopart.report.save_timeline import save_timeline
from autopart.report.timeline_svg import timeline_svg
from autopart.schedules.find import find_schedule, schedule_names
from tests.example_plans import token_plan


def of_schedule(name: str) -> Plan:
    """The example with another schedule, and as many stages a rank as that needs."""
    plan, virtual = token_plan(), find_schedule(name).virtual_stages[0]
    stages = tuple(stage for stage in plan.stages for _ in range(virtual))
    return replace(plan, schedule=name, virtual_stages=virtual, stages=stages)


@pytest.mark.parametrize("name", schedule_names())
def test_every_action_is_there_once(name: str) -> None:
    plan = of_schedule(name)
    timeline = predicted_timeline(plan, 8)
    done = [span.action for spans in timeline.ranks for span in spans]
    kinds = find_schedule(name).kinds
    assert len(done) == len(set(done)) == 8 * len(plan.stages) * len(kinds)


@pytest.mark.parametrize("name", schedule_names())
def test_a_pass_takes_what_the_plan_says(name: str) -> None:
    plan = of_schedule(name)
    seconds: dict[tuple[int, Kind], float] = {}
    for spans in predicted_timeline(plan, 4).ranks:
        for span in spans:
            seconds[(span.action.stage, span.action.kind)] = span.end_s - span.start_s
    for index, stage in enumerate(plan.stages):
        assert seconds[(index, Kind.FORWARD)] == pytest.approx(stage.forward_s)
        backward_s = [taken for (own, kind), taken in seconds.items() if own == index and kind is not Kind.FORWARD]
        assert not backward_s or sum(backward_s) == pytest.approx(stage.backward_s)


def test_of_all_micro_batches() -> None:
    plan = token_plan()
    assert len(predicted_timeline(plan).ranks[0]) == 2 * plan.micro_batches
    with pytest.raises(PlanningError, match="takes a multiple of 4 micro-batches on 4 ranks, not 5"):
        predicted_timeline(of_schedule("interleaved-1f1b"), 5)


def test_blocking_sends_take_longer() -> None:
    plan = token_plan()
    overlapped, blocking = (predicted_timeline(replace(plan, blocking_sends=own), 8).step_s for own in (False, True))
    assert blocking > overlapped


def test_snapshot(check_snapshot: Callable[[str, str], None]) -> None:
    check_snapshot("timeline.svg", timeline_svg(predicted_timeline(token_plan(), 4), "Llama & others"))


@pytest.mark.parametrize("name", schedule_names())
def test_the_picture_has_a_box_for_every_pass(name: str) -> None:
    timeline = predicted_timeline(of_schedule(name), 4)
    root = ET.fromstring(timeline_svg(timeline, "a < b"))
    titles = [item for item in root.iter() if item.tag.endswith("title")]
    assert len(titles) == sum(map(len, timeline.ranks))


def test_a_trace_has_the_same_times_in_microseconds() -> None:
    timeline = predicted_timeline(token_plan(), 4)
    trace = chrome_trace({"predicted": timeline, "recorded": timeline})
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    spans = [span for spans in timeline.ranks for span in spans]
    assert len(events) == 2 * len(spans)
    for event, span in zip(events, spans, strict=False):
        assert event["ts"] == pytest.approx(1e6 * span.start_s)
        assert event["dur"] == pytest.approx(1e6 * (span.end_s - span.start_s))
        assert event["args"] == {"stage": span.action.stage, "micro_batch": span.action.micro_batch}
    assert {event["pid"] for event in events} == {0, 1}


@pytest.mark.parametrize("kind", ["svg", "png", "json"])
def test_saved(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"timeline.{kind}"
    token_plan().save_timeline(path, 6)
    starts = {"svg": b"<svg", "png": b"\x89PNG", "json": b'{"tr'}
    assert path.read_bytes()[:4] == starts[kind]
    if kind == "json":
        assert len(json.loads(path.read_text())["traceEvents"]) == 4 * 12 + 4 + 1


def test_what_cannot_be_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r"end its name in \.svg, \.png, \.json"):
        token_plan().save_timeline(tmp_path / "timeline.txt")
    with pytest.raises(UnsupportedError, match="cannot be saved as"):
        token_plan().save_timeline(tmp_path / "nowhere" / "timeline.svg")
    timeline = predicted_timeline(token_plan(), 4)
    with pytest.raises(UnsupportedError, match="a picture is of one timeline, not of 2"):
        save_timeline({"a": timeline, "b": timeline}, tmp_path / "timeline.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'autopart\[plot\]', or write an \.svg"):
        token_plan().save_timeline(tmp_path / "timeline.png")
