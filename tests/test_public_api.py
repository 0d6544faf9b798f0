"""The public names and signatures: a change here is a change for every user."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import autopart
from autopart.api import Parallel

ROOT = Path(__file__).parents[1]

NAMES = [
    "AutopartError", "BatchError", "CaptureError", "CheckpointError", "GraphFileError", "InfeasiblePlanError",
    "InputsError", "LaunchError", "MixingError", "Parallel", "PinError", "Plan", "PlanFileError", "PlanMismatchError",
    "PlanningError", "RuleError", "UnknownNameError", "UnsupportedError", "WorkerError", "load_graph", "load_plan",
    "parallelize", "plan", "prepare", "rules", "run",
]  # fmt: skip
PINS = ["tp", "pp", "dp", "micro_batch", "recompute", "schedule", "cuts", "placements", "zero", "sequence_parallel"]
PINS += ["cp", "virtual_stages", "precision", "stack", "memory_limit_bytes"]


def parameters(function: object) -> list[str]:
    """Names as they are declared: "world", "*" before what is keyword only, "loss=" where there is a default."""
    shown: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        shown.append(name if parameter.default is parameter.empty else f"{name}=")
    return shown


def test_names() -> None:
    assert autopart.__all__ == NAMES
    assert all(getattr(autopart, name) is not None for name in NAMES)
    assert dir(autopart) == NAMES, "also before any of them is used"


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'autopart' has no attribute 'partition'"):
        _ = autopart.partition


def test_plan() -> None:
    keywords = ["cluster=", "global_batch=", "inputs=", "loss=", "rules=", "front_end="]
    own = [*keywords, *(f"{pin}=" for pin in PINS), "keep_whole=", "search_seconds=", "strict="]
    assert parameters(autopart.plan) == ["model", "world", "*", *own]


def test_prepare() -> None:
    keywords = ["inputs=", "loss=", "rules=", "keep_whole=", "front_end=", "strict="]
    assert parameters(autopart.prepare) == ["model", *keywords]


def test_parallelize() -> None:
    keywords = ["plan=", "cluster=", "global_batch=", "inputs=", "loss=", "rules=", "front_end="]
    assert parameters(autopart.parallelize) == [
        "model",
        "world=",
        "*",
        *keywords,
        *(f"{pin}=" for pin in PINS),
        "keep_whole=",
        "strict=",
    ]


def test_rules() -> None:
    assert autopart.rules.__all__ == ["Discovery", "discover"]
    assert parameters(autopart.rules.discover) == ["op", "examples"]
    public = {name for name in dir(autopart.rules.Discovery) if not name.startswith("_")}
    assert public == {"op", "notation", "letters", "whole", "linear", "once", "notes", "source"}


def test_defaults_decide_nothing() -> None:
    for function in (autopart.plan, autopart.parallelize, autopart.prepare):
        defaults = {p.default for p in inspect.signature(function).parameters.values()} - {inspect.Parameter.empty}
        assert defaults == {None, False}  # strict alone has a default of its own


def test_load_plan_and_run() -> None:
    assert parameters(autopart.load_plan) == ["path"]
    assert parameters(autopart.run) == ["function", "world", "args=", "timeout_s="]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("train_step", ["self", "batch", "trace="]),
        ("evaluate", ["self", "batch"]),
        ("predict", ["self", "batch", "everywhere="]),
        ("clip_grad_norm_", ["self", "max_norm", "norm_type=", "error_if_nonfinite="]),
        ("shard_batch", ["self", "batch"]),
        ("parameters", ["self"]),
        ("named_parameters", ["self"]),
        ("full_state_dict", ["self"]),
        ("full_gradients", ["self"]),
        ("emit", ["self", "directory"]),
        ("save", ["self", "directory", "optimizer="]),
        ("load", ["self", "directory", "optimizer="]),
    ],
)
def test_methods_of_parallel(method: str, expected: list[str]) -> None:
    assert parameters(getattr(Parallel, method)) == expected


def test_no_other_method_is_public() -> None:
    public = {name for name in dir(Parallel) if not name.startswith("_")}
    assert public == {
        "train_step", "evaluate", "predict", "clip_grad_norm_", "shard_batch", "parameters", "named_parameters",
        "full_state_dict", "full_gradients", "emit", "module", "loss_scale", "recorded", "save", "load",
        "init_weights", "load_pretrained", "save_pretrained",
    }  # fmt: skip


def test_methods_of_a_plan() -> None:
    assert parameters(autopart.Plan.save) == ["self", "path"]
    assert isinstance(inspect.getattr_static(autopart.Plan, "micro_batches"), property)


def test_every_error_is_an_autopart_error() -> None:
    errors = [getattr(autopart, name) for name in NAMES if name.endswith("Error")]
    assert len(errors) == 17
    assert all(issubclass(error, autopart.AutopartError) for error in errors)
    assert issubclass(autopart.InputsError, autopart.CaptureError)
    assert issubclass(autopart.InfeasiblePlanError, autopart.PlanningError)
    assert issubclass(autopart.PinError, autopart.PlanningError)
    assert issubclass(autopart.WorkerError, autopart.LaunchError)


@pytest.mark.parametrize(
    "modules",
    [
        "autopart",
        "autopart.errors, autopart.ir.plan, autopart.ir.graph, autopart.ir.folded, autopart.ir.units",
        "autopart.search.solve, autopart.search.degrees, autopart.estimate.block, autopart.sharding.find_rule",
        "autopart.report.table, autopart.report.load, autopart.report.clusters",
        "autopart.schedules.simulate, autopart.schedules.find, autopart.schedules.validate",
        "cost_models.cluster, cost_models.collective, cost_models.compute, cost_models.device, cost_models.memory",
    ],
)
def test_torch_is_not_imported(modules: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "False\n"
