"""The stages of a plan as a table: what each holds, how long it takes, and what its memory is made of."""

from collections.abc import Sequence
from itertools import groupby

from autopart.ir.plan import PlanData, StagePlan
from autopart.report.grid import grid
from autopart.report.quantity import GIB, column, count, digits
from autopart.schedules.homes import rank_stages

_HEADERS = ("layers", "params", "forward\nms", "backward\nms", "comm.\nms", "peak GiB")
_MEMORY = ("weights", "grads", "optim.", "activ.", "temp.", "reserve")
_CAPTION = "stages: times of one micro-batch; memory in GiB, of the fullest device at its peak"
_RANKS_CAPTION = (
    "ranks of the pipeline: times of a micro-batch in all their stages; memory in GiB, of the fullest device"
)
_PEAK = 4  # its place in the numbers of a stage
_MOST_NAME, _LEAST_NAME = 60, 12


def stage_table(plan: PlanData, width: int) -> list[str]:
    """The lines of a table with a row a rank of the pipeline, which is a stage where each has one; equal ones in a row
    share a line. Times are of one micro-batch.
    """
    if not plan.stages:
        return []
    homes = rank_stages(plan.schedule, plan.pp, plan.virtual_stages)
    ranks = [tuple(plan.stages[index] for index in own) for own in homes]
    numbers = _numbers(ranks)
    mixed, limits = len(set(plan.layers_recomputed)) > 1, {own.device: own.memory_limit_bytes for own in plan.groups}
    groups = [
        list(group) for _, group in groupby(range(len(ranks)), key=lambda rank: _alike_in(ranks[rank], numbers[rank]))
    ]
    for room in range(_MOST_NAME, _LEAST_NAME - 1, -1):
        rows = []
        for group in groups:
            names = _names([ranks[rank] for rank in group], room, mixed)
            cells, device = list(numbers[group[0]]), ranks[group[0]][0].device
            if limits:
                names += f"\n({device})"
                cells[_PEAK] += f"\nof {digits(limits[device] / GIB)}"
            rows.append((_label(group), names, *cells))
        limit = "" if limits else f"\nof {digits(plan.memory_limit_bytes / GIB)}"
        lines = _printed(rows, "stage" if plan.virtual_stages == 1 else "rank", limit)
        if max(map(len, lines)) <= width:
            break
    return [_CAPTION if plan.virtual_stages == 1 else _RANKS_CAPTION, *lines]


def recomputed_text(stages: Sequence[StagePlan]) -> list[str]:
    """How many layers of stages are recomputed: "2 of 9 recomputed", "all selective"; nothing for none."""
    layers = sum(stage.layers for stage in stages)
    counts = [
        (name, sum(stage.recomputed(kind) for stage in stages))
        for kind, name in (("full", "recomputed"), ("selective", "selective"))
    ]
    return [f"all {name}" if count == layers else f"{count} of {layers} {name}" for name, count in counts if count]


def _alike_in(rank: Sequence[StagePlan], numbers: tuple[str, ...]) -> tuple[object, ...]:
    """What ranks of one row have in common."""
    return numbers, [stage.layers for stage in rank], recomputed_text(rank), rank[0].device


def _printed(rows: Sequence[Sequence[str]], row: str, limit: str) -> list[str]:
    headers = (row, *_HEADERS[:-1], _HEADERS[-1] + limit, *_MEMORY)
    return grid(rows, headers, "rl" + "r" * (len(headers) - 2))


def _numbers(ranks: Sequence[Sequence[StagePlan]]) -> list[tuple[str, ...]]:
    """The cells of every rank behind its name; each of its stages has the memory of the whole rank."""
    times = [
        [
            1e3 * sum(stage.forward_s for stage in rank),
            1e3 * sum(stage.backward_s for stage in rank),
            1e3 * sum(stage.communication_s for stage in rank),
        ]
        for rank in ranks
    ]
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
        for stage, *_ in ranks
    ]
    columns = [
        [count(sum(stage.parameters for stage in rank)) for rank in ranks],
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


def _names(ranks: Sequence[Sequence[StagePlan]], room: int, mixed: bool) -> str:
    """What ranks hold, from the first layer to the last, in lines of at most `room` characters.

    Of ranks with several stages it is what those of the first have, of which the first and the last are named.
    `mixed`: layers differ in how they are recomputed, which is then said of each rank.
    """
    several = len(ranks[0]) > 1
    texts = _span(ranks[0][0].first, ranks[0][0].last if several else ranks[-1][0].last, room)
    if several:
        last = ranks[0][-1]
        texts += [f"and {len(ranks[0]) - 1} more, to", *_span(last.first, last.last, room)]
    if len(ranks) > 1 and ranks[0][0].layers:
        each = sum(stage.layers for stage in ranks[0])
        texts.append(f"({each} a rank, {ranks[0][0].layers} on)" if several else f"({each} a stage)")
    texts += [f"({text})" for text in recomputed_text(ranks[0]) if mixed]
    return "\n".join(text if len(text) <= room else f"…{text[1 - room :]}" for text in texts)


def _span(first: str, last: str, room: int) -> list[str]:
    """From one layer to another, in a line if there is room."""
    if first == last:
        return [first]
    line = f"{first} .. {_without_shared(first, last)}"
    return [line] if len(line) <= room else [first, f".. {_without_shared(first, last)}"]


def _without_shared(first: str, last: str) -> str:
    """`last` without the path that it shares with `first`: "39" of "model.layers.39" after "model.layers.20"."""
    left, right = first.split("."), last.split(".")
    shared = 0
    while shared < min(len(left), len(right)) - 1 and left[shared] == right[shared]:
        shared += 1
    return ".".join(right[shared:])
