"""What differs between two plans, and what it costs, as text."""

import textwrap
from collections.abc import Sequence

from autopart.ir.plan import PlanData, StagePlan
from autopart.report.grid import grid
from autopart.report.quantity import GIB, digits, percent, seconds
from autopart.report.stage_table import recomputed_text

WIDTH = 120
_FACTS = (
    ("model", "model"),
    ("fingerprint", "graph"),
    ("dtype", "dtype"),
    ("cluster", "cluster"),
    ("world", "devices"),
    ("stack", "software"),
    ("precision", "precision"),
    ("optimizer", "optimizer"),
    ("global_batch", "global batch"),
    ("tokens_per_sample", "tokens a sample"),
    ("tp", "tp"),
    ("pp", "pp"),
    ("dp", "dp"),
    ("cp", "cp"),
    ("micro_batch", "micro-batch"),
    ("micro_batches", "micro-batches"),
    ("schedule", "schedule"),
    ("virtual_stages", "stages a rank"),
    ("recompute", "recomputation"),
    ("zero", "ZeRO"),
)
_MOST_LAYOUTS = 12


def diff(one: PlanData, other: PlanData) -> str:
    """The decisions in which `one` and `other` differ, then what each is predicted to take, `other` against `one`.

    Decisions that are the same are left out. Seconds are of a step, memory is of the fullest device.
    """
    decisions = [*_facts(one, other), *_cuts(one, other), *_recomputed(one, other)]
    sections = [
        grid(decisions, ("decision", "first", "second"), "lll") if decisions else ["the same decisions"],
        _layouts(one, other),
        ["second against first", *grid(_costs(one, other), ("predicted", "first", "second", "change"), "lrrr")],
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections if lines)


def _facts(one: PlanData, other: PlanData) -> list[tuple[str, str, str]]:
    rows = ((label, str(getattr(one, name)), str(getattr(other, name))) for name, label in _FACTS)
    return [row for row in rows if row[1] != row[2]]


def _cuts(one: PlanData, other: PlanData) -> list[tuple[str, str, str]]:
    """The modules at which the later stages begin."""
    first, second = (_shown([stage.first for stage in plan.stages[1:]]) for plan in (one, other))
    return [] if one.cuts == other.cuts and first == second else [("stages begin at", first, second)]


def _recomputed(one: PlanData, other: PlanData) -> list[tuple[str, str, str]]:
    """How many layers of each stage are recomputed, where it is not the same share in all of them."""
    if one.layers_recomputed == other.layers_recomputed and one.cuts == other.cuts:
        return []
    if all(len(set(plan.layers_recomputed)) < 2 for plan in (one, other)):
        return []
    first, second = (
        _shown([" + ".join(recomputed_text((stage,))) or "none" for stage in plan.stages]) for plan in (one, other)
    )
    return [("recomputed by stage", first, second)]


def _shown(names: Sequence[str]) -> str:
    return "\n".join(textwrap.wrap(", ".join(names), (WIDTH - 20) // 2)) or "one stage"


def _layouts(one: PlanData, other: PlanData) -> list[str]:
    """How the tp ranks hold parameters, where both plans have the parameter and hold it differently."""
    held = [{choice.name: str(choice.layout) for choice in plan.parameters} for plan in (one, other)]
    whole = "R|R"
    names = [
        name for name in dict.fromkeys((*held[0], *held[1])) if held[0].get(name, whole) != held[1].get(name, whole)
    ]
    rows = [(name, held[0].get(name, whole), held[1].get(name, whole)) for name in names[:_MOST_LAYOUTS]]
    lines = grid(rows, ("parameter, held as value|gradient", "first", "second"), "lll") if rows else []
    return [*lines, f"and {len(names) - len(rows)} more"] if len(names) > len(rows) else lines


def _costs(one: PlanData, other: PlanData) -> list[tuple[str, str, str, str]]:
    told, again = one.predicted, other.predicted
    rows = [
        ("step", seconds(told.step_time_s), seconds(again.step_time_s), _change(told.step_time_s, again.step_time_s)),
        (
            "samples/s",
            digits(told.samples_per_s),
            digits(again.samples_per_s),
            _change(told.samples_per_s, again.samples_per_s),
        ),
        ("MFU", percent(told.mfu), percent(again.mfu), _points(told.mfu, again.mfu)),
        (
            "bubble",
            percent(told.bubble_fraction),
            percent(again.bubble_fraction),
            _points(told.bubble_fraction, again.bubble_fraction),
        ),
    ]
    slowest = [max(map(_pass_s, plan.stages), default=0.0) for plan in (one, other)]
    sent = [_communication_s(plan) for plan in (one, other)]
    rows += [
        (label, seconds(first), seconds(second), _change(first, second))
        for label, (first, second) in (("slowest stage", slowest), ("communication in it", sent))
    ]
    peaks = [max(plan.predicted.peak_memory_bytes, default=0) / GIB for plan in (one, other)]
    rows.append(("peak GiB", digits(peaks[0]), digits(peaks[1]), f"{peaks[1] - peaks[0]:+.1f}"))
    return rows


def _pass_s(stage: StagePlan) -> float:
    """Both passes of a stage over a micro-batch."""
    return stage.forward_s + stage.backward_s


def _communication_s(plan: PlanData) -> float:
    """What the slowest stage communicates for a micro-batch."""
    return max(plan.stages, key=_pass_s).communication_s if plan.stages else 0.0


def _change(first: float, second: float) -> str:
    return f"{100 * (second / first - 1):+.1f} %" if first else ""


def _points(first: float, second: float) -> str:
    return f"{100 * (second - first):+.1f} points"
