"""Plan: what users hold: the decisions, which print as a table."""

from dataclasses import dataclass
from pathlib import Path

from autopart.ir.plan import PlanData
from autopart.ir.plan_json import write_plan
from autopart.report.explain import explain
from autopart.report.predicted_timeline import predicted_timeline
from autopart.report.save_timeline import save_timeline
from autopart.report.table import table
from autopart.schedules.timeline import Timeline


@dataclass(frozen=True)
class Plan(PlanData):
    """A plan of how to split a model; `print(plan)` shows it, `plan.save(path)` keeps it."""

    def explain(self) -> str:
        """Why the plan is as it is: where the step's seconds and the memory go, and what each decision is worth."""
        return explain(self)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON.

        Raises:
            PlanFileError: the file cannot be written.
        """
        write_plan(self, path)

    def save_timeline(
        self, path: str | Path, micro_batches: int | None = None, recorded: Timeline | None = None
    ) -> None:
        """Draw the predicted timeline of a step: .svg or .png for a picture, .json for Perfetto or Chrome.

        Args:
            path: the file.
            micro_batches: draw a step of so many; left out: of as many as the plan has.
            recorded: what `par.recorded` has, to be laid below it; .json alone has room for both.

        Raises:
            UnsupportedError: another ending, no matplotlib for a .png, or the file cannot be written.
            PlanningError: a number of micro-batches that the schedule cannot take.
        """
        count = micro_batches or self.micro_batches
        title = f"{self.model}, {self.schedule}, pp {self.pp}, {count} micro-batches"
        predicted = predicted_timeline(self, count)
        both = {f"predicted: {title}": predicted, "recorded": recorded} if recorded is not None else {title: predicted}
        save_timeline(both, path)

    def __str__(self) -> str:
        return table(self)

    def __repr__(self) -> str:
        return f"<Plan of {self.model} for {self.world} devices: tp={self.tp} pp={self.pp} dp={self.dp}>"
