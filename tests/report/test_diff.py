"""What is said of two plans that differ."""

from collections.abc import Callable
from dataclasses import replace

from autopart.ir.placement import sharded
from autopart.ir.plan import ParameterChoice
from autopart.report.diff import WIDTH, diff
from tests.example_plans import image_plan, token_plan


def test_snapshot(check_snapshot: Callable[[str, str], None]) -> None:
    plan = token_plan()
    other = replace(
        plan,
        tp=4,
        dp=4,
        recompute="none",
        stages=tuple(replace(stage, forward_s=1.1 * stage.forward_s) for stage in plan.stages),
        parameters=(ParameterChoice(plan.parameters[0].name, sharded(1)), *plan.parameters[1:]),
        predicted=replace(plan.predicted, step_time_s=60.0, samples_per_s=512 / 60, mfu=0.51, bubble_fraction=0.05),
    )
    check_snapshot("diff.txt", diff(plan, other) + "\n")


def test_equal_plans_have_the_same_decisions() -> None:
    text = diff(token_plan(), token_plan())
    assert text.startswith("the same decisions\n")
    assert "+0.0 %" in text and "held as" not in text


def test_only_what_differs_is_told() -> None:
    text = diff(token_plan(), replace(token_plan(), micro_batch=2))
    rows = [line.split()[0] for line in text.split("\n\n")[0].splitlines()[2:]]
    assert rows == ["micro-batch", "micro-batches"]


def test_plans_of_other_models_are_compared_too() -> None:
    text = diff(token_plan(), image_plan())
    assert "LlamaForCausalLM" in text and "one stage" in text
    assert max(map(len, text.splitlines())) <= WIDTH + 20


def test_every_change_goes_both_ways() -> None:
    plan = token_plan()
    slower = replace(plan, predicted=replace(plan.predicted, step_time_s=2 * plan.predicted.step_time_s))
    assert "+100.0 %" in diff(plan, slower)
    assert "-50.0 %" in diff(slower, plan)
