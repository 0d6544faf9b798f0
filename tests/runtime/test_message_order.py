"""Ranks send messages in the order in which they are expected, or the schedule is refused on NCCL."""

from itertools import pairwise

import pytest

from autopart.errors import UnsupportedError
from autopart.ir.action import Kind
from autopart.ir.program import Program, StageProgram, Transfer
from autopart.runtime.message_order import check_message_order
from autopart.schedules.find import find_schedule, schedule_names
from tests.schedules.sizes import sizes


def program(stages: int, *skips: tuple[int, int]) -> Program:
    """A chain of stages, each giving a value to the next, with more values from stage to stage."""
    transfers = [
        Transfer(f"value{number}", (2,), "float32", True, source, (target,))
        for number, (source, target) in enumerate([*pairwise(range(stages)), *skips])
    ]
    return Program("Chain", 1, (), tuple(_stage(stage, transfers) for stage in range(stages)), True)


def _stage(stage: int, transfers: list[Transfer]) -> StageProgram:
    receives = tuple(transfer for transfer in transfers if stage in transfer.targets)
    sends = tuple(transfer for transfer in transfers if transfer.source == stage)
    return StageProgram("stage", (), (), (), (), (), receives, sends, outputs=0, kept=(), counts=0, count_inputs=())


@pytest.mark.parametrize("name", [name for name in schedule_names() if Kind.BACKWARD in find_schedule(name).kinds])
def test_a_chain_keeps_the_order(name: str) -> None:
    schedule = find_schedule(name)
    for ranks, micro_batches, virtual in sizes(schedule, 5, 10):
        check_message_order(program(ranks * virtual), schedule(ranks, micro_batches, virtual))


@pytest.mark.parametrize("name", ["1f1b", "zb-h1"])
def test_skips_keep_the_order_with_one_stage_a_rank(name: str) -> None:
    check_message_order(program(4, (0, 2), (0, 3), (1, 3)), find_schedule(name)(4, 6))


def test_skips_between_several_stages_may_not() -> None:
    """Rank 0 sends both values of a micro-batch together; rank 1 wants one of them two micro-batches later."""
    with pytest.raises(
        UnsupportedError, match=r"rank 0 sends 'value3' of micro-batch 0 to rank 1, which expects 'value0'"
    ):
        check_message_order(program(4, (0, 3)), find_schedule("interleaved-1f1b")(2, 4, 2))
