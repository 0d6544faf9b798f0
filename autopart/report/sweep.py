"""A sweep: plans of one model for several clusters and numbers of devices, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from autopart.ir.plan import PlanData
from autopart.report.grid import grid
from autopart.report.quantity import GIB, count, digits, percent, scaled, seconds

_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """`plan` for `world` devices of `cluster`, or None and `why` there is none."""

    cluster: str
    world: int
    plan: PlanData | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Budget:
    """`tokens` to train on, and the `price` of one device for an hour; None where there is no such figure."""

    tokens: float | None = None
    price: float | None = None

    def device_hours(self, plan: PlanData) -> float | None:
        """Hours of all devices together until the tokens are trained on."""
        if self.tokens is None or not plan.predicted.tokens_per_s:
            return None
        return self.tokens / plan.predicted.tokens_per_s / _HOUR_S * plan.world


def sweep_table(points: Sequence[SweepPoint], budget: Budget) -> str:
    """A row for each point that has a plan, in the order given; then, for each of the others, a line that says why.

    Memory is of the fullest device. With tokens, the hours of all devices together; with a price too, their cost.
    """
    planned = [(point, point.plan) for point in points if point.plan is not None]
    headers = ["cluster", "devices", "tp × pp × dp", "micro-batch", "step", "a second", "MFU", "peak GiB"]
    if budget.tokens is not None:
        headers += ["GPU-hours", "days"]
        headers += ["cost"] if budget.price is not None else []
    rows = [_row(point, plan, budget) for point, plan in planned]
    lines = grid(rows, headers, "l" + "r" * (len(headers) - 1)) if rows else ["no plan fits"]
    failed = [f"{point.cluster}, {point.world} devices: {_one_line(point.why)}" for point in points if not point.plan]
    return "\n".join([*lines, *([""] if failed else []), *failed])


def _row(point: SweepPoint, plan: PlanData, budget: Budget) -> list[str]:
    told = plan.predicted
    rate = f"{count(told.tokens_per_s)} tokens" if told.tokens_per_s else f"{scaled(told.samples_per_s)} samples"
    cells = [
        point.cluster,
        str(point.world),
        f"{plan.tp} × {plan.pp} × {plan.dp}",
        str(plan.micro_batch),
        seconds(told.step_time_s),
        rate,
        percent(told.mfu),
        digits(max(told.peak_memory_bytes, default=0) / GIB),
    ]
    if budget.tokens is None:
        return cells
    hours = budget.device_hours(plan)
    cells += ["", ""] if hours is None else [scaled(hours), digits(hours / plan.world / 24)]
    if budget.price is not None:
        cells.append("" if hours is None else scaled(hours * budget.price))
    return cells


def _one_line(text: str) -> str:
    """The message of an error, on one line."""
    return " ".join(text.split())
