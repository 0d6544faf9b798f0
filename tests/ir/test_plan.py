"""What a plan says of itself."""

from tests.example_plans import image_plan, token_plan


def test_memory_and_micro_batches_add_up() -> None:
    plan = image_plan()
    assert plan.predicted.peak_memory_bytes == tuple(stage.memory.total_bytes for stage in plan.stages)
    assert plan.micro_batches == 1
    assert token_plan().micro_batches == 256
