"""Where peers fail: each test is named after a failure of theirs, and trains that case here as one process does.

The failures were measured with torch 2.13: those of `torch.distributed.pipelining` at 2 to 4 stages, those of DTensor's
`parallelize_module` at 2 ranks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import autopart
from autopart.errors import BatchError
from autopart.ir.program import Program
from tests.equality.single import STEPS, Trace, assert_equal, optimizer, own_loss, tolerance
from tests.models import case as case_of
from tests.models import llama
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

WIDTH, SAMPLES, TOKENS, VOCABULARY = 16, 8, 6, 24

Build = Callable[[], nn.Module]


def _floats(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _tokens() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    tokens, labels = (torch.randint(0, VOCABULARY, (SAMPLES, TOKENS), generator=generator) for _ in range(2))
    labels[0, 1:] = labels[3, :4] = -100
    return {"tokens": tokens, "labels": labels}


@dataclass(frozen=True)
class Problem:
    """A model that returns its loss, and a batch of `SAMPLES`."""

    build: Build
    batch: Callable[[], Mapping[str, Tensor]]

    def made(self) -> nn.Module:
        """In float64, with the same weights every time."""
        torch.manual_seed(0)
        return self.build().double().train()


def _alone(problem: Problem) -> Trace:
    model, batch = problem.made(), problem.batch()
    stepper = optimizer(model.parameters())
    losses, gradients = [], []
    for _ in range(STEPS):
        stepper.zero_grad()
        loss = own_loss(model(**batch))
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        stepper.step()
    return Trace(tuple(losses), tuple(gradients), dict(model.state_dict()))


def _train(problem: Problem, world: int, pins: dict[str, Any]) -> tuple[Trace, Program]:
    """On every rank; the trace of rank 0 is whole."""
    batch = problem.batch()
    par = autopart.parallelize(problem.made(), world, inputs=batch, global_batch=SAMPLES, **pins)
    stepper = optimizer(par.parameters())
    losses, gradients = [], []
    for _ in range(STEPS):
        stepper.zero_grad()
        losses.append(float(par.train_step(par.shard_batch(batch))))
        gradients.append(par.full_gradients())
        stepper.step()
    return Trace(tuple(losses), tuple(gradients), par.full_state_dict()), par.program


def trained_alike(pool: WorkerPool, problem: Problem, allowed: float = 1e-9, **pins: Any) -> Program:
    """Train on ranks and alone, and compare losses, all gradients and final weights; the program that ran."""
    world = pins.get("tp", 1) * pins.get("pp", 1) * pins.get("dp", 1)
    found, program = pool.run(one_capture, world, _train, problem, world, {"micro_batch": 2, **pins})[0]
    assert_equal(found, _alone(problem), allowed)
    assert len(program.stages) >= pins.get("pp", 1)
    return program


class LongSkip(nn.Module):
    """What the first layer gives is added before each of the two last layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x, target: (batch, WIDTH) -> mean loss."""
        first = x = torch.tanh(self.layers[0](x))
        for index, layer in enumerate(self.layers[1:], start=1):
            x = torch.tanh(layer(x + first if index in (3, 5) else x))
        return F.mse_loss(x, target)


def _vectors() -> dict[str, Tensor]:
    return {"x": _floats(SAMPLES, WIDTH), "target": _floats(SAMPLES, 2 * WIDTH)[:, WIDTH:].contiguous()}


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
def test_a_float_skip_connection_reaches_two_later_stages(worker_pool: WorkerPool, schedule: str) -> None:
    """Pipelining: "Backward of skip connections not supported yet" (pytorch issue 127964)."""
    program = trained_alike(
        worker_pool, Problem(LongSkip, _vectors), pp=3, cuts=("layers.2", "layers.4"), schedule=schedule
    )
    assert any(len(transfer.targets) == 2 for transfer in program.stages[0].sends), "nothing skips a stage"


class LateInputs(nn.Module):
    """A mask and a scale that only later layers take, and labels for the last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, *, mask: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
        """x: (batch, WIDTH), mask: bool like x, scale: (batch, 1), labels: (batch,) -> mean loss."""
        for index, layer in enumerate(self.layers):
            x = torch.relu(layer(x))
            if index == 1:
                x = x.masked_fill(mask, 0.0)
            if index >= 2:
                x = x * scale
        return F.cross_entropy(x, labels)


def _late() -> dict[str, Tensor]:
    x = _floats(SAMPLES, WIDTH)
    labels = torch.arange(SAMPLES) % WIDTH
    labels[1] = labels[2] = -100
    return {"x": x, "mask": x > 1, "scale": _floats(SAMPLES, 1) + 2, "labels": labels}


@pytest.mark.parametrize("pp", [2, 4])
def test_a_model_input_is_used_after_the_first_stage(worker_pool: WorkerPool, pp: int) -> None:
    """Pipelining: an error for a mask, labels or any keyword that a later stage takes."""
    program = trained_alike(worker_pool, Problem(LateInputs, _late), pp=pp)
    later = {name for stage in program.stages[1:] for name in stage.inputs}
    assert {"scale", "labels"} <= later


class Tied(nn.Module):
    """An embedding whose weight is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        """tokens, labels: (batch, TOKENS) -> mean loss over the labels that are not masked."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("pp", [2, 3])
def test_a_tied_embedding_and_head_train_with_right_gradients(worker_pool: WorkerPool, pp: int) -> None:
    """Pipelining: runs, with silently wrong gradients."""
    program = trained_alike(worker_pool, Problem(Tied, _tokens), pp=pp, schedule="1f1b")
    holders = [i for i, stage in enumerate(program.stages) if any("embedding" in p.name for p in stage.parameters)]
    assert holders == [0, pp - 1]


class InDicts(nn.Module):
    """Layers that take and give dicts, as the model does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, target: Tensor) -> dict[str, Any]:
        """x, target: (batch, WIDTH) -> the loss among other things."""
        state = {"hidden": x, "sum": x}
        for layer in self.layers:
            hidden = torch.tanh(layer(state["hidden"]))
            state = {"hidden": hidden, "sum": state["sum"] + hidden}
        return {"loss": F.mse_loss(state["sum"], target), "states": state}


@pytest.mark.parametrize("pp", [2, 4])
def test_outputs_are_dicts(worker_pool: WorkerPool, pp: int) -> None:
    """Pipelining: an error, between stages and at the end."""
    trained_alike(worker_pool, Problem(InDicts, _vectors), pp=pp)


def _llama_batch() -> dict[str, Tensor]:
    return dict(case_of("llama").batch(torch.float64))


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("pp", [2, 4])
def test_a_hugging_face_llama_at_two_and_four_stages(worker_pool: WorkerPool, pp: int, schedule: str) -> None:
    """Pipelining: fails at both."""
    allowed = tolerance("llama", torch.float64)  # the model computes its loss in float32
    trained_alike(worker_pool, Problem(llama, _llama_batch), allowed, pp=pp, schedule=schedule)


def _train_on_another_length() -> tuple[str, float, float]:
    problem = Problem(Tied, _tokens)
    batch = problem.batch()
    par = autopart.parallelize(problem.made(), 2, inputs=batch, global_batch=SAMPLES, micro_batch=2, pp=2)
    first = float(par.train_step(batch))
    message = ""
    try:
        par.train_step({name: item[:, :4] for name, item in batch.items()})
    except BatchError as error:
        message = str(error)
    return message, first, float(par.train_step(batch))


def test_a_changed_shape_is_told_on_every_rank_and_training_goes_on(worker_pool: WorkerPool) -> None:
    """Pipelining: one rank crashes inside gloo, without a word of shapes."""
    for message, first, after in worker_pool.run(one_capture, 2, _train_on_another_length):
        assert f"of shape ({SAMPLES}, 4)" in message and "inputs=" in message
        assert first == after


class Unlisted(nn.Module):
    """Weights that are in no Linear or Embedding: bare matrices, a convolution, a transposed weight, norms."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Parameter(0.3 * torch.randn(WIDTH, 4, WIDTH // 2))
        self.scale = nn.Parameter(torch.rand(4))
        self.mix = nn.Conv1d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)
        self.leave = nn.Parameter(0.3 * torch.randn(8 * (WIDTH // 2), WIDTH))

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x, target: (batch, WIDTH) -> mean loss."""
        heads = torch.einsum("bi,iho->bho", x, self.enter) * self.scale[:, None]
        mixed = F.gelu(self.norm(self.mix(heads)))
        return F.mse_loss(mixed.flatten(1) @ self.leave, target)


def test_tensor_parallelism_of_more_than_linear_and_embedding(worker_pool: WorkerPool) -> None:
    """DTensor's parallelize_module: takes only these two."""
    program = trained_alike(worker_pool, Problem(Unlisted, _vectors), tp=2)
    held = {p.name: p.layout.shard for p in program.stages[0].parameters}
    assert sum(shard is not None for shard in held.values()) >= 3, f"tp shares nearly no weight: {held}"


class Uneven(nn.Module):
    """Inner sizes of which no rank of two can have half, and one of which it can."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, inner), nn.GELU(), nn.Linear(inner, WIDTH)) for inner in (7, 12, 9)
        )

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x, target: (batch, WIDTH) -> mean loss."""
        for layer in self.layers:
            x = x + layer(x)
        return F.mse_loss(x, target)


def test_tensor_parallelism_of_sizes_that_do_not_divide(worker_pool: WorkerPool) -> None:
    """DTensor's parallelize_module: fails on uneven sizes."""
    program = trained_alike(worker_pool, Problem(Uneven, _vectors), tp=2)
    assert any(p.layout.shard is not None for p in program.stages[0].parameters), "tp shares no weight"
