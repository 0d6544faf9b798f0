"""Checkpoints: what was saved on one layout goes on, on the same one to the last bit, and on any other equally."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict

import autopart
from autopart.runtime.checkpoint_planner import PieceSaver
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

DTYPE = torch.float64
STEPS = 3
Pins = Mapping[str, Any]


def fused_qkv(dropout: float = 0.0) -> nn.Module:
    """Fused qkv of unequal parts, dropout, batch-norm statistics, a tied head, an unused, a frozen layer, a number."""
    torch.manual_seed(3)
    return Mixed(dropout).to(DTYPE)


class Mixed(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.embed = nn.Embedding(32, 16)
        self.norm = nn.BatchNorm1d(12)
        self.qkv = nn.Linear(16, 32)  # 16 for q, 8 for k and 8 for v
        self.out = nn.Linear(16, 16)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight
        self.gate = nn.Parameter(torch.tensor(0.75))  # of which only one replica has its piece
        self.register_buffer("scale", torch.tensor(0.5))
        self.register_buffer("shift", torch.tensor(0.25), persistent=False)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Both (batch, 12)."""
        batch, length = tokens.shape
        x = self.norm(self.embed(tokens))
        q, k, v = self.qkv(x).split((16, 8, 8), dim=-1)
        q, k, v = (t.view(batch, length, -1, 4).transpose(1, 2) for t in (q, k, v))
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, 16)
        x = x + F.dropout(self.out(y), self.dropout, self.training) * self.scale * self.gate + self.shift
        x = x + self.frozen(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


def _build(name: str) -> nn.Module:
    if name in CASES:
        return build(name, DTYPE)
    return fused_qkv(0.3 if name == "dropping" else 0.0)


def _parallel(name: str, world: int, pins: Pins) -> tuple[autopart.Parallel[autopart.Plan], Any, torch.optim.Optimizer]:
    batch = CASES["gpt"].batch(DTYPE)
    if name == "gpt2":
        batch = CASES["gpt2"].batch(DTYPE)
    par = autopart.parallelize(_build(name), world, inputs=batch, global_batch=8, micro_batch=2, **pins)
    trained = [(n, p) for n, p in par.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in trained if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for n, p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return par, batch, torch.optim.AdamW([group for group in groups if group["params"]], lr=0.01, betas=(0.8, 0.95))


def _steps(par: autopart.Parallel[autopart.Plan], batch: Any, optimizer: torch.optim.Optimizer) -> list[float]:
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses.append(float(par.train_step(par.shard_batch(batch))))
        optimizer.step()
    return losses


def _saved(name: str, world: int, pins: Pins, directory: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Trains, saves, and goes on: the losses after the save, and the weights at the save."""
    torch.manual_seed(7)
    par, batch, optimizer = _parallel(name, world, pins)
    _steps(par, batch, optimizer)
    for group in optimizer.param_groups:
        group["lr"] = 0.02
    par.save(directory, optimizer)
    state = par.full_state_dict()
    return _steps(par, batch, optimizer), state


def _resumed(name: str, world: int, pins: Pins, directory: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Goes on from a checkpoint with other weights and random numbers before it."""
    torch.manual_seed(world + 11)
    par, batch, optimizer = _parallel(name, world, pins)
    with torch.no_grad():
        for parameter in par.parameters():
            parameter.fill_(0.125)
    par.load(directory, optimizer)
    state = par.full_state_dict()
    return _steps(par, batch, optimizer), state


SAME = [
    ("dropping", {"tp": 2, "pp": 2}),
    ("dropping", {"dp": 2, "tp": 2, "zero": 3}),
    ("gpt2", {"pp": 2, "dp": 2, "zero": 1}),
]


@pytest.mark.parametrize(("name", "pins"), SAME, ids=str)
def test_the_same_layout_goes_on_to_the_last_bit(
    worker_pool: WorkerPool, tmp_path: Path, name: str, pins: Pins
) -> None:
    expected = worker_pool.run(one_capture, 4, _saved, name, 4, pins, tmp_path)[0]
    found = worker_pool.run(one_capture, 4, _resumed, name, 4, pins, tmp_path)[0]
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert all(torch.equal(found[1][key], tensor) for key, tensor in expected[1].items())


LAYOUTS: list[tuple[int, Pins]] = [
    (1, {}),
    (2, {"dp": 2}),
    (4, {"pp": 4}),
    (4, {"tp": 4}),
    (4, {"pp": 2, "virtual_stages": 2, "schedule": "interleaved-1f1b", "dp": 2}),
]


@pytest.mark.parametrize("name", ["gpt", "gpt2"])
def test_any_other_layout_goes_on_equally(worker_pool: WorkerPool, tmp_path: Path, name: str) -> None:
    expected = worker_pool.run(one_capture, 4, _saved, name, 4, {"tp": 2, "pp": 2}, tmp_path)[0]
    allowed = 1e-12 if name == "gpt" else 1e-6  # GPT-2 computes its loss in float32
    for world, pins in LAYOUTS:
        losses, state = worker_pool.run(one_capture, world, _resumed, name, world, pins, tmp_path)[0]
        assert losses == pytest.approx(expected[0], rel=allowed, abs=0), pins
        assert state.keys() == expected[1].keys()
        for key, tensor in expected[1].items():
            assert torch.equal(state[key], tensor), f"{key} on {pins}"


def test_all_kinds_of_tensors_move_between_layouts(worker_pool: WorkerPool, tmp_path: Path) -> None:
    pins: Pins = {"tp": 2, "pp": 2, "schedule": "1f1b"}
    expected = worker_pool.run(one_capture, 4, _saved, "mixed", 4, pins, tmp_path)[0]
    back = tmp_path / "back"
    for world, other in ((1, {}), (2, {"pp": 2}), (4, {"dp": 2, "tp": 2, "zero": 2}), (4, {"dp": 2, "tp": 2})):
        found = worker_pool.run(one_capture, world, _resumed, "mixed", world, other, tmp_path)[0]
        assert all(torch.equal(found[1][key], tensor) for key, tensor in expected[1].items())
        assert found[0] == pytest.approx(expected[0], rel=1e-12, abs=0)
    again = worker_pool.run(one_capture, 2, _saved_again, "mixed", 2, {"tp": 2}, tmp_path, back)[0]
    assert all(torch.equal(again[key], tensor) for key, tensor in expected[1].items())
    assert again["norm.num_batches_tracked"] == expected[1]["norm.num_batches_tracked"]


def _saved_again(name: str, world: int, pins: Pins, first: Path, second: Path) -> dict[str, torch.Tensor]:
    par, _, optimizer = _parallel(name, world, pins)
    par.load(first, optimizer)
    par.save(second, optimizer)
    other, _, optimizer = _parallel(name, world, pins)
    other.load(second, optimizer)
    return other.full_state_dict()


def test_plain_torch_reads_it(worker_pool: WorkerPool, tmp_path: Path) -> None:
    pins = {"tp": 2, "pp": 2}
    losses, state = worker_pool.run(one_capture, 4, _saved, "gpt", 4, pins, tmp_path)[0]
    model = build("gpt", DTYPE)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim < 2]},
    ]
    optimizer = torch.optim.AdamW(groups)
    options = StateDictOptions(flatten_optimizer_state_dict=True)
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}  # tied
    read = {"model": weights, "optimizer": get_optimizer_state_dict(model, optimizer, options=options)}
    dcp.load(read, checkpoint_id=tmp_path, no_dist=True)
    set_optimizer_state_dict(model, optimizer, read["optimizer"], options=options)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.02]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(*CASES["gpt"].batch(DTYPE))
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    assert found == pytest.approx(losses, rel=1e-12, abs=0)


def _message(function: Any, *args: Any) -> tuple[str, str]:
    try:
        function(*args)
    except autopart.AutopartError as error:
        return type(error).__name__, str(error)
    return "", ""


class Narrow(nn.Module):
    """Two layers whose names and sizes the caller chooses."""

    def __init__(self, first: str, width: int) -> None:
        super().__init__()
        self.names = (first, "second")
        self.add_module(first, nn.Linear(8, width))
        self.add_module("second", nn.Linear(width, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> mean square."""
        for name in self.names:
            x = self.get_submodule(name)(x)
        return x.square().mean()


def _narrow(first: str, width: int, dtype: torch.dtype, pins: Pins) -> autopart.Parallel[autopart.Plan]:
    x = torch.zeros(8, 8, dtype=dtype)
    return autopart.parallelize(Narrow(first, width).to(dtype), 2, inputs=x, global_batch=8, **pins)


def _errors(directory: Path) -> dict[str, tuple[str, str]]:
    par = _narrow("first", 16, DTYPE, {"pp": 2})
    sgd = torch.optim.SGD(par.parameters(), lr=0.1)
    found = {"nothing": _message(par.load, directory)}
    par.save(directory / "weights")
    par.save(directory / "all", sgd)
    other = torch.optim.SGD([*par.parameters(), nn.Parameter(torch.zeros(7))], lr=0.1)
    found["no optimizer"] = _message(par.load, directory / "weights", sgd)
    foreign = other if torch.distributed.get_rank() == 1 else sgd  # one rank's error is everyone's
    found["foreign load"] = _message(par.load, directory / "all", foreign)
    found["foreign save"] = _message(par.save, directory / "other", foreign)
    found["adam"] = _message(par.load, directory / "all", torch.optim.AdamW(par.parameters()))
    found["name"] = _message(_narrow("begin", 16, DTYPE, {"tp": 2}).load, directory / "all")
    found["shape"] = _message(_narrow("first", 24, DTYPE, {"tp": 2}).load, directory / "all")
    found["dtype"] = _message(_narrow("first", 16, torch.float32, {"tp": 2}).load, directory / "all")
    for parameter in par.parameters():
        sgd.state[parameter]["what"] = object()
    found["object"] = _message(par.save, directory / "object", sgd)
    sharded = _narrow("first", 16, DTYPE, {"tp": 2})
    sgd = torch.optim.SGD(sharded.parameters(), lr=0.1)
    for parameter in sharded.parameters():
        sgd.state[parameter]["rows"] = torch.zeros(3)
    found["rows"] = _message(sharded.save, directory / "rows", sgd)
    return found


def test_errors_reach_every_rank(worker_pool: WorkerPool, tmp_path: Path) -> None:
    for found in worker_pool.run(one_capture, 2, _errors, tmp_path):
        types = {key: name for key, (name, _) in found.items()}
        unsupported = {"object", "rows"}
        assert types == {key: "UnsupportedError" if key in unsupported else "CheckpointError" for key in types}
        assert "has no checkpoint that par.save wrote (no file .metadata)" in found["nothing"][1]
        assert "the checkpoint has no optimizer state: load it without optimizer=" in found["no optimizer"][1]
        for key in ("foreign load", "foreign save"):
            assert "SGD has a parameter of shape (7,) that is none of par.parameters()" in found[key][1]
        assert "has the state of SGD, not of AdamW: weights are read, the optimizer is as it was" in found["adam"][1]
        assert "is of another model than Narrow: it has no 'begin.weight', 'begin.bias'" in found["name"][1]
        assert "has, and the model has not, 'first.bias', 'first.weight'" in found["name"][1]
        assert "first.weight is torch.float64 (16, 8), here torch.float64 (24, 8)" in found["shape"][1]
        assert "second.weight is torch.float64 (4, 16), here torch.float32 (4, 16)" in found["dtype"][1]
        assert "SGD keeps what of " in found["object"][1] and "as a object: only numbers" in found["object"][1]
        assert "SGD keeps 'rows' of shape (3,) for '" in found["rows"][1]


def _interrupted(directory: Path) -> tuple[str, list[str], bool]:
    """A save over another one that fails half way, the one that then loads, and one that succeeds."""
    par = _narrow("first", 16, DTYPE, {"dp": 2})
    par.save(directory)
    saved = par.full_state_dict()
    with torch.no_grad():
        for parameter in par.parameters():
            parameter.add_(1)
    written = PieceSaver.resolve_data

    def fails_once(self: PieceSaver, item: WriteItem) -> Any:
        if torch.distributed.get_rank() == 1:
            raise OSError("no space left")
        return written(self, item)

    with patch.object(PieceSaver, "resolve_data", fails_once):
        kind, text = _message(par.save, directory)
    par.load(directory)
    again = par.full_state_dict()
    par.save(directory)
    return (
        f"{kind}: {text}",
        [p.name for p in directory.glob("*")],
        all(torch.equal(again[n], x) for n, x in saved.items()),
    )


def test_a_save_that_fails_leaves_the_checkpoint_that_was_there(worker_pool: WorkerPool, tmp_path: Path) -> None:
    message, files, same = worker_pool.run(one_capture, 2, _interrupted, tmp_path)[0]
    assert "CheckpointError" in message and "rank 1 failed: OSError: no space left" in message
    assert same
    assert len(files) == 3  # metadata, and a file of each rank: nothing of the saves before


def _scales(directory: Path) -> list[float]:
    """The loss scale before and after an overflow, and after loading into a new job."""
    x, infinite = torch.ones(8, 8), torch.full((8, 8), float("inf"))
    pins: Pins = {"inputs": x, "global_batch": 8, "dp": 2, "precision": "fp16-mixed"}
    par = autopart.parallelize(Narrow("first", 16), 2, **pins)
    found = [par.loss_scale]
    par.train_step(par.shard_batch(infinite))
    found.append(par.loss_scale)
    par.save(directory)
    other = autopart.parallelize(Narrow("first", 16), 2, **pins)
    other.load(directory)
    return [*found, other.loss_scale]


def test_the_loss_scale_goes_on(worker_pool: WorkerPool, tmp_path: Path) -> None:
    assert worker_pool.run(one_capture, 2, _scales, tmp_path) == [[2.0**16, 2.0**15, 2.0**15]] * 2
