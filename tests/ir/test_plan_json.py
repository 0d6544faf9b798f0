"""Plans as JSON values, and back; and values that are none of a plan."""

import json
from typing import Any

import pytest

from autopart.errors import PlanFileError
from autopart.ir.plan import PlanData
from autopart.ir.plan_json import FORMAT, plan_from_json, plan_to_json
from tests.example_plans import image_plan, token_plan

REMOVED = object()


@pytest.mark.parametrize("plan", [token_plan(), image_plan()])
def test_round_trip_through_text(plan: PlanData) -> None:
    data = json.loads(json.dumps(plan_to_json(plan)))
    assert type(plan)(**plan_from_json(data, "here")) == plan
    assert data["autopart_plan"] == FORMAT


def test_whole_numbers_may_stand_for_seconds() -> None:
    data = plan_to_json(token_plan())
    data["predicted"]["step_time_s"] = 3
    step = plan_from_json(data, "here")["predicted"].step_time_s
    assert (step, type(step)) == (3.0, float)


def test_another_format() -> None:
    data = plan_to_json(token_plan()) | {"autopart_plan": 1}
    with pytest.raises(PlanFileError, match=r"here has plan format 1, and this autopart reads format 5. Plan again"):
        plan_from_json(data, "here")


@pytest.mark.parametrize("data", [None, 3, [], "plan", {}])
def test_no_plan(data: object) -> None:
    with pytest.raises(PlanFileError, match="here is not an autopart plan"):
        plan_from_json(data, "here")


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
    (("nodes", 0, "inputs", 1), "S(x)|R", "entry 'nodes[0].inputs[1]': 'S(x)' is not a placement"),
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
    data: Any = json.loads(json.dumps(plan_to_json(token_plan())))
    place = data
    for step in path[:-1]:
        place = place[step]
    if value is REMOVED:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(PlanFileError) as caught:
        plan_from_json(data, "here")
    text = str(caught.value)
    assert text.startswith("here is damaged: ")
    assert message in text
    assert text.endswith("Plan again and save it")
