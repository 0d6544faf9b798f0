"""The stages of a plan as a table: what each holds, how long it takes, and what its memory is made of."""

from collections.abc import Sequence
from itertools import groupby

from autopart.ir.plan import PlanData, StagePlan
from autopart.report.grid import grid
from autopart.report.quantity import GIB, column, count, digits

_HEADERS = ("stage", "layers", "params", "forward\nms", "backward\nms", "comm.\nms", "peak GiB")
_MEMORY = ("weights", "grads", "optim.", "activ.", "temp.", "reserve")
_CAPTION = "stages: times of one micro-batch; memory in GiB, of the fullest device at its peak"
_PEAK = 4  # its place in the numbers of a stage
_MOST_NAME, _LEAST_NAME = 60, 12


def stage_table(plan: PlanData, width: int) -> list[str]:
    """The lines of a table with a row a stage; equal ones in a row share one. Times are of one micro-batch."""
    if not plan.stages:
        return []
    numbers = _numbers(plan.stages)
    mixed, limits = len(set(plan.layers_recomputed)) > 1, {own.device: own.memory_limit_bytes for own in plan.groups}
    groups = [
        list(group)
        for _, group in groupby(
            range(len(plan.stages)), key=lambda index: _alike_in(plan.stages[index], numbers[index])
        )
    ]
    for room in range(_MOST_NAME, _LEAST_NAME - 1, -1):
        rows = []
        for group in groups:
            names = _names([plan.stages[index] for index in group], room, mixed)
            cells, device = list(numbers[group[0]]), plan.stages[group[0]].device
            if limits:
                names += f"\n({device})"
                cells[_PEAK] += f"\nof {digits(limits[device] / GIB)}"
            rows.append((_label(group), names, *cells))
        lines = _printed(rows, "" if limits else f"\nof {digits(plan.memory_limit_bytes / GIB)}")
        if max(map(len, lines)) <= width:
            break
    return [_CAPTION, *lines]


def recomputed_text(stage: StagePlan) -> list[str]:
    """How many of the layers of a stage are recomputed: "2 of 9 recomputed", "all selective"; nothing for none."""
    counts = [(name, stage.recomputed(kind)) for kind, name in (("full", "recomputed"), ("selective", "selective"))]
    return [
        f"all {name}" if count == stage.layers else f"{count} of {stage.layers} {name}"
        for name, count in counts
        if count
    ]


def _alike_in(stage: StagePlan, numbers: tuple[str, ...]) -> tuple[object, ...]:
    """What stages of one row have in common."""
    return numbers, stage.layers, recomputed_text(stage), stage.device


def _printed(rows: Sequence[Sequence[str]], limit: str) -> list[str]:
    headers = (*_HEADERS[:-1], _HEADERS[-1] + limit, *_MEMORY)
    return grid(rows, headers, "rl" + "r" * (len(headers) - 2))


def _numbers(stages: Sequence[StagePlan]) -> list[tuple[str, ...]]:
    """The cells of every stage behind its name."""
    times = [[1e3 * stage.forward_s, 1e3 * stage.backward_s, 1e3 * stage.communication_s] for stage in stages]
    memories = [
        [
            stage.memory.total_bytes,
            stage.memory.parameters_bytes,
            stage.memory.gradients_bytes,
            stage.memory.optimizer_bytes,
            stage.memory.activations_bytes,
            stage.memory.temporary_bytes,
            stage.memory.reserve_bytes,
        ]
        for stage in stages
    ]
    columns = [
        [count(stage.parameters) for stage in stages],
        *(column(values) for values in zip(*times, strict=True)),
        *_alike([[value / GIB for value in values] for values in memories]),
    ]
    return list(zip(*columns, strict=True))


def _alike(rows: Sequence[Sequence[float]]) -> list[list[str]]:
    """Columns with the same decimals in all, so that the parts of a row add up to its sum."""
    cells = column([value for row in rows for value in row])
    length = len(rows[0])
    return [cells[index::length] for index in range(length)]


def _label(group: Sequence[int]) -> str:
    return str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}"


def _names(stages: Sequence[StagePlan], room: int, mixed: bool) -> str:
    """What the stages hold, from the first layer to the last, in lines of at most `room` characters.

    `mixed`: layers differ in how they are recomputed, which is then said of each stage.
    """
    first, last = stages[0].first, stages[-1].last
    texts = [first] if first == last else [f"{first} .. {_without_shared(first, last)}"]
    if len(texts[0]) > room and first != last:
        texts = [first, f".. {_without_shared(first, last)}"]
    if len(stages) > 1 and stages[0].layers:
        texts.append(f"({stages[0].layers} a stage)")
    texts += [f"({text})" for text in recomputed_text(stages[0]) if mixed]
    return "\n".join(text if len(text) <= room else f"…{text[1 - room :]}" for text in texts)


def _without_shared(first: str, last: str) -> str:
    """`last` without the path that it shares with `first`: "39" of "model.layers.39" after "model.layers.20"."""
    left, right = first.split("."), last.split(".")
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
        shared += 1
    return ".".join(right[shared:])
