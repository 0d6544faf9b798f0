"""The emitted source stays under review: one file as a snapshot, and what every file must be."""

import ast
from collections.abc import Callable

import pytest
import torch

from autopart import api
from autopart.ir.program import Program
from tests.equality.parallel import prepared, recomputing
from tests.models import CASES, SAMPLES


def _program(name: str, **pins: object) -> Program:
    ready = prepared(name, torch.float32)
    world = 1
    for degree in ("tp", "pp", "dp"):
        world *= int(pins.get(degree, 1))  # type: ignore[call-overload]
    plan = api.make_plan(ready, world, "local-cpu", SAMPLES, api.Pins(**{"micro_batch": 2, **pins}))  # type: ignore[arg-type]
    return api.make_program(plan, ready)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_snapshot(name: str, check_snapshot: Callable[[str, str], None]) -> None:
    program = _program(name, tp=2, pp=2, dp=1, schedule="1f1b")
    assert [stem for stem, _ in program.sources] == ["stage_0", "stage_1"]
    check_snapshot(f"{name}_stage_0.py.txt", program.sources[0][1])
    check_snapshot(f"{name}_stage_1.py.txt", program.sources[1][1])


def test_recomputed_layers(check_snapshot: Callable[[str, str], None]) -> None:
    """Those that are recomputed alike are called in one loop; attention has a method where it alone is recomputed."""
    ready = prepared("gpt", torch.float32)
    plan = api.make_plan(ready, 1, "local-cpu", SAMPLES, api.Pins(micro_batch=2, recompute="none"))
    mixed = recomputing(plan, (("full", 1), ("selective", 2), ("none", 1)))
    ((_, text),) = api.make_program(mixed, ready).sources
    check_snapshot("gpt_recomputed.py.txt", text)


def test_equal_stages_share_a_file() -> None:
    program = _program("gpt", tp=1, pp=4, dp=1, cuts=("blocks.1", "blocks.2", "blocks.3"))
    modules = [stage.module for stage in program.stages]
    assert modules[1] == modules[2] and len(program.sources) == 3


@pytest.mark.parametrize("name", CASES)
def test_sources_need_only_torch_and_the_runtime(name: str) -> None:
    for _, text in _program(name, tp=2, pp=2, dp=1).sources:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert node.module in ("autopart.runtime", "torch.utils.checkpoint")
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] == "torch" for alias in node.names)
        assert max(map(len, text.splitlines())) <= 140


def test_one_rank_needs_no_collective() -> None:
    for _, text in _program("gpt", tp=1, pp=1, dp=1).sources:
        assert "all_reduce" not in text and "gather" not in text and "self.comm.copy" not in text
