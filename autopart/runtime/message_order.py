"""check_message_order: whether two ranks send and expect their messages in the same order, as NCCL needs it."""

from collections.abc import Iterator

from autopart.errors import UnsupportedError
from autopart.ir.action import Action, Kind, Schedule
from autopart.ir.program import Program
from autopart.schedules.homes import homes

Message = tuple[str, str, int, int]  # what is sent, the value's name, the stage that takes or took it, the micro-batch


def check_message_order(program: Program, schedule: Schedule) -> None:
    """Return if every two ranks exchange messages of one kind in the order in which they are expected.

    NCCL knows no tags: it matches the messages from one rank to another in a group by their order alone. With one
    stage a rank they always agree; with several, values that skip stages may not.

    Raises:
        UnsupportedError: they do not; the message names the values.
    """
    home = homes(schedule)
    sent: dict[tuple[str, int, int], list[Message]] = {}
    expected: dict[tuple[str, int, int], list[Message]] = {}
    for rank, actions in enumerate(schedule):
        for action in actions:
            for stage, message in _sends(program, action):
                sent.setdefault((message[0], rank, home[stage]), []).append(message)
            for stage, message in _receives(program, action):
                expected.setdefault((message[0], home[stage], rank), []).append(message)
    for way, messages in sent.items():
        _, source, target = way
        if source == target:
            continue
        for own, other in zip(messages, expected[way], strict=True):
            if own != other:
                raise UnsupportedError(
                    f"pipeline rank {source} sends {own[1]!r} of micro-batch {own[3]} to rank {target}, which expects "
                    f"{other[1]!r} of micro-batch {other[3]}, and NCCL would mix them up: choose a schedule with one "
                    "stage a rank, or other cuts"
                )


def _sends(program: Program, action: Action) -> Iterator[tuple[int, Message]]:
    """(stage, message) for all that an action sends."""
    stage = program.stages[action.stage]
    if action.kind is Kind.FORWARD:
        for transfer in stage.sends:
            for target in transfer.targets:
                yield target, ("forward", transfer.name, target, action.micro_batch)
    if action.kind is Kind.BACKWARD:
        for transfer in stage.receives:
            if transfer.requires_grad:
                yield transfer.source, ("backward", transfer.name, action.stage, action.micro_batch)


def _receives(program: Program, action: Action) -> Iterator[tuple[int, Message]]:
    """(stage, message) for all that an action waits for."""
    stage = program.stages[action.stage]
    if action.kind is Kind.FORWARD:
        for transfer in stage.receives:
            yield transfer.source, ("forward", transfer.name, action.stage, action.micro_batch)
    if action.kind is Kind.BACKWARD:
        for transfer in stage.sends:
            if transfer.requires_grad:
                for target in transfer.targets:
                    yield target, ("backward", transfer.name, target, action.micro_batch)
