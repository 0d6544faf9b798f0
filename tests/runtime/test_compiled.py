"""An emitted stage is one graph for torch.compile."""

import inspect

import pytest
import torch

import autopart
from autopart import api
from autopart.runtime.comm import Comm
from autopart.runtime.load import fill_stage, load_stage
from tests.equality.parallel import plan_of, prepared
from tests.models import build
from tests.models import case as case_of
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_nothing_breaks_the_graph(name: str) -> None:
    """`fullgraph` refuses breaks; the loss is the same as without."""
    ready = prepared(name, torch.float64)
    program = api.make_program(plan_of(name, torch.float64, 1, "local-cpu"), ready)
    (stage,) = program.stages
    comm, batch = Comm(), case_of(name).batch(torch.float64)
    module = load_stage(program, 0, comm, torch.device("cpu"))
    assert "def forward(self, " in inspect.getsource(module.forward)  # which no file has
    fill_stage(module, stage, build(name, torch.float64), ready.captured.constants, 0, 1)
    named = batch if isinstance(batch, dict) else {str(place): item for place, item in enumerate(batch)}
    comm.totals = module.counts(*(named[path] for path in stage.count_inputs))  # type: ignore[operator]
    inputs = [named[path] for path in stage.inputs]
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), module(*inputs))


def _compiled_losses() -> tuple[float, float]:
    batch = case_of("gpt").batch(torch.float64)
    par = autopart.parallelize(build("gpt", torch.float64), 2, inputs=batch, global_batch=8, micro_batch=8, tp=2)
    (stage,), module = par.program.stages, par.module
    assert module is not None and "comm.all_reduce" in par.program.sources[0][1]
    named = batch if isinstance(batch, dict) else {str(place): item for place, item in enumerate(batch)}
    module.comm.totals = module.counts(*(named[path] for path in stage.count_inputs))  # type: ignore[operator, union-attr]
    inputs = [named[path] for path in stage.inputs]
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    return float(compiled(*inputs)), float(module(*inputs))


def test_collectives_do_not_break_it(worker_pool: WorkerPool) -> None:
    for compiled, plain in worker_pool.run(one_capture, 2, _compiled_losses):
        assert compiled == pytest.approx(plain, rel=1e-12)
