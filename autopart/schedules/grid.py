"""grid: a schedule as a text table, one row a rank, one column a unit of time."""

from autopart.ir.action import Kind, Schedule
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Span


def grid(schedule: Schedule) -> str:
    """The timetable of `schedule` when a forward takes 1 unit, a backward 2, and a send none; ends with a newline.

    Where the backward is split, each of its two parts takes 1.
    A backward fills its second unit with `--`, an idle unit shows `.`; with several stages on a rank, an action names
    its stage: `F2.s1`. Raises PlanningError if the schedule deadlocks.

        rank 0 | F0 F1 .  .  B0 -- .  B1 --
        rank 1 | .  F0 B0 -- F1 B1 -- .  .
    """
    stages = 1 + max((action.stage for actions in schedule for action in actions), default=-1)
    split = any(action.kind is Kind.WEIGHT for actions in schedule for action in actions)
    backward_s = 1.0 if split else 2.0
    sends_s = [0.0] * max(stages - 1, 0)
    timeline = simulate(schedule, [1.0] * stages, [backward_s] * stages, sends_s, weight_s=[1.0] * stages)
    units = round(timeline.step_s)
    rows = [_cells(spans, units) for spans in timeline.ranks]
    width = max((len(cell) for row in rows for cell in row), default=1)
    digits = len(str(max(len(rows) - 1, 0)))
    lines = []
    for rank, row in enumerate(rows):
        cells = " ".join(_pad(cell, width) for cell in row)
        lines.append(f"rank {rank:>{digits}} | {cells}".rstrip())
    return "\n".join(lines) + "\n"


def _cells(spans: tuple[Span, ...], units: int) -> list[str]:
    several = len({span.action.stage for span in spans}) > 1
    cells = ["."] * units
    for span in spans:
        start, end = round(span.start_s), round(span.end_s)
        cells[start:end] = ["-"] * (end - start)
        cells[start] = f"{span.action}.s{span.action.stage}" if several else str(span.action)
    return cells


def _pad(cell: str, width: int) -> str:
    return cell.ljust(width, "-" if cell == "-" else " ")
