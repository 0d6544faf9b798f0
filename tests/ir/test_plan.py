"""Plans as JSON, and layouts as text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopart.errors import PlanFileError
from autopart.ir.placement import Layout, Partial, Replicate, Shard
from autopart.ir.plan import FORMAT, PlanData, from_json, parse_layout, to_json
from tests.example_plans import image_plan, token_plan

PLACEMENTS = st.one_of(
    st.just(Replicate()),
    st.just(Partial()),
    st.builds(Shard, st.integers(0, 9), st.lists(st.integers(1, 300), min_size=1, max_size=4).map(tuple)),
    st.builds(Shard, st.integers(0, 9), by=st.sampled_from(["cumsum", "to_1", "_1"])),
)
REMOVED = object()


@given(PLACEMENTS, PLACEMENTS)
def test_layouts_print_and_parse(value: Replicate | Partial | Shard, gradient: Replicate | Partial | Shard) -> None:
    layout = Layout(value, gradient)
    assert parse_layout(str(layout)) == layout


@given(st.text("RPS(),:|0123 -_\u0663", max_size=12))
def test_what_parses_prints_the_same_layout_or_is_refused(text: str) -> None:
    try:
        layout = parse_layout(text)
    except ValueError:
        return
    assert parse_layout(str(layout)) == layout


@pytest.mark.parametrize(
    "text",
    [
        "",
        "R",
        "X|R",
        "R|",
        "R|P|R",
        "S(-1)|R",
        "S(0,0)|R",
        "S(0,)|R",
        "S(0,1:)|R",
        "S(1_0)|R",
        "S( 1)|R",
        "S(1@)|R",
        "S(@a)|R",
        "S(1@a b)|R",
    ],
)
def test_no_layout(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no (layout|placement)"):
        parse_layout(text)


@pytest.mark.parametrize("plan", [token_plan(), image_plan()])
def test_round_trip_through_text(plan: PlanData) -> None:
    data = json.loads(json.dumps(to_json(plan)))
    assert type(plan)(**from_json(data, "here")) == plan
    assert data["autopart_plan"] == FORMAT


def test_whole_numbers_may_stand_for_seconds() -> None:
    data = to_json(token_plan())
    data["predicted"]["step_time_s"] = 3
    step = from_json(data, "here")["predicted"].step_time_s
    assert (step, type(step)) == (3.0, float)


def test_save_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        PlanFileError, match=r"cannot be saved as .*none.plan.json: No such file or directory. Save it in a folder"
    ):
        token_plan().save(tmp_path / "none" / "plan.json")


def test_another_format() -> None:
    data = to_json(token_plan()) | {"autopart_plan": 1}
    with pytest.raises(PlanFileError, match=r"here has plan format 1, and this autopart reads format 5. Plan again"):
        from_json(data, "here")


@pytest.mark.parametrize("data", [None, 3, [], "plan", {}])
def test_no_plan(data: object) -> None:
    with pytest.raises(PlanFileError, match="here is not an autopart plan"):
        from_json(data, "here")


DAMAGES: list[tuple[tuple[str | int, ...], object, str]] = [
    (("model",), REMOVED, "entry 'model' is missing"),
    (("model",), 3, "entry 'model' is 3, not a text"),
    (("model",), None, "entry 'model' is None, not a text"),
    (("extra",), 3, "entry 'extra' is unknown"),
    (("world",), "64", "entry 'world' is '64', not a whole number"),
    (("world",), 64.0, "entry 'world' is 64.0, not a whole number"),
    (("world",), True, "entry 'world' is True, not a whole number"),
    (("predicted",), [], "entry 'predicted' is [], not an object"),
    (("predicted", "mfu"), REMOVED, "entry 'predicted.mfu' is missing"),
    (("predicted", "mfu"), "high", "entry 'predicted.mfu' is 'high', not a number"),
    (("predicted", "mfu"), float("nan"), "entry 'predicted.mfu' is nan, not a number"),
    (("predicted", "mfu"), float("inf"), "entry 'predicted.mfu' is inf, not a number"),
    (("predicted", "mfu"), 10**400, "is damaged"),
    (("stages",), {}, "entry 'stages' is {}, not a list"),
    (("stages",), [], "entry 'stages' has 0 items where pp 4 needs 4"),
    (("cuts",), [20], "entry 'cuts' has 1 items where pp 4 needs 3"),
    (("predicted", "peak_memory_bytes"), [1], "entry 'predicted.peak_memory_bytes' has 1 items where pp 4 needs 4"),
    (("stages", 2, "memory", "reserve_bytes"), REMOVED, "entry 'stages[2].memory.reserve_bytes' is missing"),
    (("stages", 2, "memory", "more"), 1, "entry 'stages[2].memory.more' is unknown"),
    (("stages", 2, "first"), None, "entry 'stages[2].first' is None, not a text"),
    (("axes", 1), ["heads"], "entry 'axes[1]' has 1 items, not 2"),
    (("axes", 1), "heads", "entry 'axes[1]' is 'heads', not a list"),
    (("nodes", 0, "inputs", 1), "S(x)|R", "entry 'nodes[0].inputs[1]': 'S(x)' is no placement"),
    (("nodes", 0, "inputs", 1), 5, "entry 'nodes[0].inputs[1]' is 5, not a layout"),
    (("nodes", 0, "call"), 5, "entry 'nodes[0].call' is 5, not a text"),
    (("tp",), 0, "entry 'tp' is 0, below 1"),
    (("micro_batch",), -1, "entry 'micro_batch' is -1, below 1"),
    (("dp",), 3, "tp 8 x pp 4 x dp 3 is 96, and 'world' is 64"),
    (("global_batch",), 513, "'global_batch' is 513, not a multiple of dp x micro_batch = 2"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), DAMAGES, ids=[f"{'.'.join(map(str, d[0]))}={str(d[1])[:12]}" for d in DAMAGES]
)
def test_damage_names_the_entry(path: tuple[str | int, ...], value: object, message: str) -> None:
    data: Any = json.loads(json.dumps(to_json(token_plan())))
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(PlanFileError) as caught:
        from_json(data, "here")
    text = str(caught.value)
    assert text.startswith("here is damaged: ")
    assert message in text
    assert text.endswith("Plan again and save it")


def test_memory_and_micro_batches_add_up() -> None:
    plan = image_plan()
    assert plan.predicted.peak_memory_bytes == tuple(stage.memory.total_bytes for stage in plan.stages)
    assert plan.micro_batches == 1
    assert token_plan().micro_batches == 256
