"""One rank that fails in the middle of a step ends all, and the error says where: on processes of their own."""

import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import autopart
from tests.worker_pool import WorkerPool

SECONDS = 120.0  # a hang ends here with another error, which names ranks that did not finish


class Fragile(nn.Module):
    """Fails, where it is told to: any value above 99 that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> the same shape."""
        result: torch.Tensor = self.inner(x)
        if os.environ.get("FRAGILE_RANK") == str(dist.get_rank()) and bool((x > 99).any()):
            raise MemoryError("no memory for so much")
        return result


class Chain(nn.Module):
    """A lookup, four layers and a head; `fragile` may be kept whole."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4))
        self.fragile = Fragile()
        self.head = nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, offset: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """ids: (batch,), offset: (batch, 8), target: (batch,) -> mean loss."""
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer(x)
        return F.cross_entropy(self.head(self.fragile(x + offset)), target)


def _batch() -> dict[str, torch.Tensor]:
    return {"ids": torch.arange(8), "offset": torch.zeros(8, 8), "target": torch.arange(8) % 4}


def _step(world: int, pins: dict[str, Any], spoil: dict[str, tuple[int, float]], die_on: int | None) -> float:
    """A good step, and one that is spoilt: sample and value by item; or a rank that kills itself inside of it."""
    torch.manual_seed(0)
    par = autopart.parallelize(
        Chain(), world, inputs=_batch(), global_batch=8, micro_batch=2, keep_whole=["fragile"], **pins
    )
    par.train_step(par.shard_batch(_batch()))
    batch = _batch()
    for name, (sample, value) in spoil.items():
        batch[name][sample] = value
    module = par.module
    assert module is not None
    if dist.get_rank() == die_on:
        module.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    return float(par.train_step(par.shard_batch(batch)))


def _fails(world: int, pins: dict[str, Any], spoil: dict[str, tuple[int, float]], die_on: int | None = None) -> str:
    with pytest.raises(autopart.WorkerError) as caught:
        autopart.run(_step, world, (world, pins, spoil, die_on), timeout_s=SECONDS)
    return str(caught.value)


def test_a_wrong_value_in_one_replica_names_its_place() -> None:
    # Sample 6 is the third of the second replica: ranks 1 (stage 0) and 3 (stage 1), its micro-batch 1.
    message = _fails(4, {"pp": 2, "dp": 2}, {"ids": (6, 99)})
    assert message.startswith("rank 1 of 4 failed:\n")
    assert "IndexError: index out of range in self" in message
    assert "rank 1, stage 0 (layers.0 .. layers." in message
    assert "forward of micro-batch 1, in embed" in message
    assert re.search(r'File "<autopart Chain stage_0 \w+>", line \d+, in forward\n +.*self\.embed\.weight', message)


def test_a_rank_out_of_memory_inside_a_module_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAGILE_RANK", "1")
    message = _fails(2, {"pp": 2, "cuts": ["layers.2"]}, {"offset": (4, 1000.0)})
    assert message.startswith("rank 1 of 2 failed:\n")
    assert "MemoryError: no memory for so much" in message
    assert "rank 1, stage 1 (layers.2 .. layers.3), forward of micro-batch 2, in fragile" in message


def test_a_rank_that_is_killed() -> None:
    message = _fails(2, {"pp": 2}, {}, die_on=0)
    assert message.startswith("rank 0 of 2 died with exit code -9, as when the system is out of memory")


def _slow_backward(world: int) -> float:
    torch.manual_seed(0)
    par = autopart.parallelize(
        Chain(), world, inputs=_batch(), global_batch=8, micro_batch=2, pp=2, schedule="1f1b", keep_whole=["fragile"]
    )
    for parameter in par.parameters():
        if dist.get_rank() == 1:
            parameter.register_hook(_refuse)
    return float(par.train_step(_batch()))


def _refuse(gradient: torch.Tensor) -> None:
    raise ValueError("a hook of the user's")


def test_an_error_in_a_backward_pass() -> None:
    with pytest.raises(autopart.WorkerError) as caught:
        autopart.run(_slow_backward, 2, (2,), timeout_s=SECONDS)
    message = str(caught.value)
    assert message.startswith("rank 1 of 2 failed:\n")
    assert "ValueError: a hook of the user's" in message
    assert "backward of micro-batch 0" in message


def _goes_on(world: int) -> list[str]:
    """What is said by a rank that catches its error, or is interrupted, and tries to go on."""
    torch.manual_seed(0)
    par = autopart.parallelize(
        Chain(), world, inputs=_batch(), global_batch=8, micro_batch=2, dp=world, keep_whole=["fragile"]
    )
    par.train_step(par.shard_batch(_batch()))
    before = [p.grad.clone() for p in par.parameters() if p.grad is not None]
    batch = _batch()
    batch["ids"][3] = 99  # of the first replica, in its second micro-batch
    found = []
    for attempt in (batch, _batch()):
        try:
            par.train_step(par.shard_batch(attempt))
        except (IndexError, autopart.LaunchError) as error:
            found.append(str(error))
        same = [bool(torch.equal(p.grad, own)) for p, own in zip(par.parameters(), before, strict=True)]
        found.append(f"gradients as before: {all(same)}")
        if dist.get_rank():
            break
    return found


def test_a_rank_that_has_left_a_step_does_not_wait_for_the_others(worker_pool: WorkerPool) -> None:
    alone = worker_pool.run(_goes_on, 1, 1)[0]
    assert "index out of range" in alone[0]
    assert alone[1:] == ["gradients as before: True", "gradients as before: False"]
    with pytest.raises(autopart.WorkerError) as caught:
        autopart.run(_raises_what_was_found, 2, timeout_s=SECONDS)
    assert "rank 0 left its passes half way by IndexError, and other ranks may still wait" in str(caught.value)
    assert str(caught.value).count("gradients as before: True") == 2


def _raises_what_was_found() -> None:
    raise ValueError(_goes_on(2))


def _say_and_sleep() -> None:
    print("started", flush=True)
    time.sleep(2 * SECONDS)


def test_ranks_end_with_the_process_that_started_them() -> None:
    start = "import autopart, tests.runtime.test_failure as own; autopart.run(own._say_and_sleep, 1)"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        parent.kill()
        parent.communicate(timeout=SECONDS)  # the output ends when all processes have that write to it
