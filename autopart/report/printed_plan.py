"""Plan: what users hold: the decisions, which print as a table."""

from dataclasses import dataclass

from autopart.ir.plan import PlanData
from autopart.report.table import table


@dataclass(frozen=True)
class Plan(PlanData):
    """A plan of how to split a model; `print(plan)` shows it, `plan.save(path)` keeps it."""

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"<Plan of {self.model} for {self.world} devices: tp={self.tp} pp={self.pp} dp={self.dp}>"
