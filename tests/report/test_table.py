"""What a plan looks like when it is printed."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autopart.ir.plan import Note
from autopart.report.printed_plan import Plan
from autopart.report.table import WIDTH, table
from tests.example_plans import image_plan, token_plan


@pytest.mark.parametrize(("name", "plan"), [("token_plan.txt", token_plan()), ("image_plan.txt", image_plan())])
def test_snapshot(name: str, plan: Plan, check_snapshot: Callable[[str, str], None]) -> None:
    check_snapshot(name, f"{plan}\n")


@pytest.mark.parametrize("plan", [token_plan(), image_plan()])
def test_fits_a_terminal(plan: Plan) -> None:
    assert max(map(len, table(plan).splitlines())) <= WIDTH


def test_long_names_stay_within_the_width_and_keep_their_ends() -> None:
    plan = token_plan()
    stages = tuple(
        replace(stage, first=f"{'deep.' * 30}begin{n}", last=f"{'deep.' * 20}end{n}")
        for n, stage in enumerate(plan.stages)
    )
    names = tuple((f"{'long_name_' * 4}{n}", "64") for n in range(20))
    text = table(replace(plan, stages=stages, model="M" * 200, axes=names, notes=(Note("x", "y" * 300),)))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "begin3" in text
    assert "end3" in text


def test_equal_stages_share_a_row() -> None:
    plan = token_plan()
    middle = plan.stages[1]
    alike = tuple(
        replace(middle, start=n, first=f"layers.{10 * n}", last=f"layers.{10 * n + 9}", layers=10) for n in range(4)
    )
    lines = table(replace(plan, stages=alike)).splitlines()
    row = next(line for line in lines if line.strip().startswith("0-3"))
    assert "layers.0 .. 39" in row
    assert "(10 a stage)" in lines[lines.index(row) + 1]


def test_ranks_with_several_stages_have_a_row_each() -> None:
    plan = token_plan()
    stages = tuple(replace(plan.stages[n % 4], first=f"layers.{n}", last=f"layers.{n}", layers=1) for n in range(8))
    text = table(replace(plan, schedule="interleaved-1f1b", virtual_stages=2, stages=stages))
    lines = text.splitlines()
    row = next(line for line in lines if "layers.1 " in line)
    assert row.split()[0] == "1"
    after = lines[lines.index(row) + 1 : lines.index(row) + 3]
    assert [line.strip() for line in after] == ["and 1 more, to", "layers.5"]
    forward_ms = 1e3 * (stages[1].forward_s + stages[5].forward_s)
    assert float(row.split()[4]) == pytest.approx(forward_ms, rel=1e-2)


def test_stages_that_differ_in_memory_keep_their_rows() -> None:
    rows = [line.split()[0] for line in table(token_plan()).splitlines() if line[:5].strip().isdigit()]
    assert rows[:4] == ["0", "1", "2", "3"]


def test_notes_of_one_text_are_told_once() -> None:
    notes = tuple(Note(f"node_{n}", "no rule") for n in range(9))
    text = table(replace(token_plan(), replicated=notes))
    assert text.count("no rule") == 1
    assert "and 3 more: no rule" in text


def test_many_notes_are_cut_short_and_say_where_the_rest_is() -> None:
    notes = tuple(Note("", f"note {n}") for n in range(30))
    text = table(replace(token_plan(), notes=notes))
    assert "note 9" in text
    assert "note 10" not in text
    assert "and 20 more, in the saved plan under 'notes'" in text


@pytest.mark.parametrize(
    ("world", "where"),
    [
        (1, ": 1 h100"),
        (4, ": 4 h100-sxm-80gb in one node"),
        (12, ": 12 h100-sxm-80gb in 2 nodes of 8"),
        (16, ": 2 nodes × 8"),
    ],
)
def test_headline_tells_where(world: int, where: str) -> None:
    assert where in table(replace(token_plan(), world=world)).splitlines()[0]


def test_a_plan_with_nothing_to_tell_prints() -> None:
    plan = replace(token_plan(), axes=(), replicated=(), alternatives=(), notes=(), stages=())
    text = table(plan)
    assert "tp shards   nothing" in text
    assert "runners-up" not in text


def test_repr_is_one_line() -> None:
    assert repr(token_plan()) == "<Plan of LlamaForCausalLM for 64 devices: tp=8 pp=4 dp=2>"
