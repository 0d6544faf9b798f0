"""autopart: an automatic model partitioner for PyTorch. The public names, nothing else."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from autopart.errors import (
    AutopartError,
    BatchError,
    CaptureError,
    CheckpointError,
    GraphFileError,
    InfeasiblePlanError,
    InputsError,
    LaunchError,
    MixingError,
    PinError,
    PlanFileError,
    PlanMismatchError,
    PlanningError,
    RuleError,
    UnknownNameError,
    UnsupportedError,
    WorkerError,
)

if TYPE_CHECKING:
    from autopart import rules
    from autopart.api import Parallel, Plan, load_graph, load_plan, parallelize, plan, prepare, run

__all__ = [
    "AutopartError",
    "BatchError",
    "CaptureError",
    "CheckpointError",
    "GraphFileError",
    "InfeasiblePlanError",
    "InputsError",
    "LaunchError",
    "MixingError",
    "Parallel",
    "PinError",
    "Plan",
    "PlanFileError",
    "PlanMismatchError",
    "PlanningError",
    "RuleError",
    "UnknownNameError",
    "UnsupportedError",
    "WorkerError",
    "load_graph",
    "load_plan",
    "parallelize",
    "plan",
    "prepare",
    "rules",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import torch only when something that needs it is used: the planning layers start without (PEP 562)."""
    if name == "rules":
        return import_module("autopart.rules")
    if name in __all__:
        from autopart import api

        return getattr(api, name)
    raise AttributeError(f"module 'autopart' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, imported already or not."""
    return __all__
