"""What users do to parameters after `parallelize`: it is heeded as in one process, or it is an error."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn

import autopart
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

STEPS = 3
Pins = Mapping[str, Any]
LAYOUTS: list[Pins] = [{"dp": 2, "zero": 0}, {"dp": 2, "zero": 1}, {"dp": 2, "zero": 3}, {"pp": 2, "schedule": "zb-h1"}]


def _frozen(name: str) -> bool:
    return "blocks.0" in name or "embed" in name


def _parallel(pins: Pins) -> autopart.Parallel[autopart.Plan]:
    model = build("gpt", torch.float64)
    model.get_parameter("blocks.3.mlp.down.bias").requires_grad_(False)
    batch = CASES["gpt"].batch(torch.float64)
    return autopart.parallelize(model, 2, inputs=batch, global_batch=8, micro_batch=2, **pins)


def _train(par: Any) -> list[float]:
    """`par` is a plain module, or what `parallelize` returned. Some weights are frozen after the first step."""
    batch = CASES["gpt"].batch(torch.float64)
    named = dict(par.named_parameters())
    optimizer = torch.optim.AdamW([p for p in named.values() if p.requires_grad], lr=0.01, weight_decay=0.5)
    losses = []
    for step in range(STEPS):
        if step == 1:
            for name, parameter in named.items():
                parameter.requires_grad_(parameter.requires_grad and not _frozen(name))
        if isinstance(par, nn.Module):
            loss = par(*batch)
            loss.backward()
        else:
            loss = par.train_step(par.shard_batch(batch))
        losses.append(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def _message(par: autopart.Parallel[autopart.Plan]) -> str:
    try:
        par.train_step(par.shard_batch(CASES["gpt"].batch(torch.float64)))
    except autopart.AutopartError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _all(pins: Pins) -> tuple[list[float], dict[str, str]]:
    losses = _train(_parallel(pins))
    par, found = _parallel(pins), {}
    named = dict(par.named_parameters())
    for kind, undo in (("thawed", _thawed), ("added", _added), ("stepping", _stepping)):
        removed = undo(named)
        found[kind] = _message(par)
        removed()
    found["after"] = _message(par)
    return losses, found


def _thawed(named: Mapping[str, nn.Parameter]) -> Callable[[], object]:
    bias = named.get("blocks.3.mlp.down.bias")
    if bias is None:  # on another stage
        return lambda: None
    bias.requires_grad_(True)
    return lambda: bias.requires_grad_(False)


def _added(named: Mapping[str, nn.Parameter]) -> Callable[[], object]:
    return next(p for p in named.values() if p.requires_grad).register_hook(lambda gradient: gradient * 2).remove


def _stepping(named: Mapping[str, nn.Parameter]) -> Callable[[], object]:
    handle = next(p for p in named.values() if p.requires_grad).register_post_accumulate_grad_hook(lambda p: None)
    return handle.remove  # type: ignore[no-any-return]


@pytest.mark.parametrize("pins", LAYOUTS, ids=str)
def test_what_is_done_to_parameters_is_heeded(worker_pool: WorkerPool, pins: Pins) -> None:
    model = build("gpt", torch.float64)
    model.get_parameter("blocks.3.mlp.down.bias").requires_grad_(False)
    expected = _train(model)
    both = worker_pool.run(one_capture, 2, _all, pins)
    assert both[0][0] == pytest.approx(expected, rel=1e-10)
    thawed = [found["thawed"] for _, found in both]
    assert any("UnsupportedError: blocks.3.mlp.down.bias was frozen when the model was planned" in x for x in thawed)
    assert all(thawed)
    for _, found in both:
        assert "has a hook by register_post_accumulate_grad_hook" in found["stepping"]
        assert ("has a hook by register_hook" in found["added"]) == (pins.get("zero", 1) > 0)
        assert not found["after"]
