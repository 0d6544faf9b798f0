"""An emitted stage is one graph for torch.compile."""

from pathlib import Path

import pytest
import torch

from autopart import api
from autopart.runtime.comm import Comm
from autopart.runtime.load import fill_stage, load_stage, write_sources
from tests.equality.parallel import plan_of, prepared
from tests.models import build
from tests.models import case as case_of


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_nothing_breaks_the_graph(name: str, tmp_path: Path) -> None:
    """`fullgraph` refuses breaks; the loss is the same as without."""
    ready = prepared(name, torch.float64)
    program = api.make_program(plan_of(name, torch.float64, 1, "local-cpu"), ready)
    write_sources(program, tmp_path)
    (stage,) = program.stages
    comm, batch = Comm(), case_of(name).batch(torch.float64)
    module = load_stage(stage, tmp_path, comm, torch.device("cpu"))
    fill_stage(module, stage, build(name, torch.float64), ready.captured.constants, 0, 1)
    named = batch if isinstance(batch, dict) else {str(place): item for place, item in enumerate(batch)}
    comm.totals = module.counts(*(named[path] for path in stage.count_inputs))  # type: ignore[operator]
    inputs = [named[path] for path in stage.inputs]
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), module(*inputs))
