"""The single-process side of an equality proof, and the comparison."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from tests.models import build
from tests.models import case as case_of

STEPS = 3


@dataclass(frozen=True)
class Trace:
    """What training gave: a loss a step, the gradients of every step, and the weights at the end."""

    losses: tuple[float, ...]
    gradients: tuple[dict[str, torch.Tensor], ...]
    state: dict[str, torch.Tensor]


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    """SGD with momentum: unlike Adam it does not blow rounding up where a gradient is zero but for rounding."""
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


@cache
def single_process(name: str, dtype: torch.dtype) -> Trace:
    """Train the unmodified model on the whole batch."""
    case, model = case_of(name), build(name, dtype)
    batch = case.batch(dtype)
    stepper = optimizer(model.parameters())
    losses, gradients = [], []
    for _ in range(STEPS):
        stepper.zero_grad()
        output = model(**batch) if isinstance(batch, dict) else model(*batch)
        loss = case.loss(output, batch) if case.loss else own_loss(output)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        stepper.step()
    return Trace(tuple(losses), tuple(gradients), dict(model.state_dict()))


def own_loss(output: Any) -> torch.Tensor:
    """What a model returns as its loss."""
    if isinstance(output, torch.Tensor):
        return output
    loss: torch.Tensor = output["loss"]
    return loss


def tolerance(name: str, dtype: torch.dtype) -> float:
    """1e-9 in float64; 1e-5 where the model itself computes its loss in float32; 1e-4 in float32."""
    if dtype is torch.float32:
        return 1e-4
    return 1e-5 if case_of(name).drops else 1e-9


def assert_equal(found: Trace, expected: Trace, allowed: float) -> None:
    """Losses, every gradient of every step and all final weights agree to `allowed`, relative to their size."""
    for step, (a, b) in enumerate(zip(found.losses, expected.losses, strict=True)):
        assert abs(a - b) <= allowed * abs(b), f"loss of step {step}: {a} is not {b}"
    for step, (own, other) in enumerate(zip(found.gradients, expected.gradients, strict=True)):
        _assert_tensors(f"gradient of step {step}", own, other, allowed)
    _assert_tensors("final weight", found.state, expected.state, allowed)


def _assert_tensors(
    what: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], allowed: float
) -> None:
    assert found.keys() == expected.keys()
    # A tensor that is zero but for rounding is compared on the scale of the others.
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape and found[name].dtype == tensor.dtype, f"{what} {name}"
        scale = max(float(tensor.abs().max()), 1e-3 * largest)
        error = float((found[name].double() - tensor.double()).abs().max()) / scale
        assert error <= allowed, f"{what} {name}: relative error {error:.2e} > {allowed:.0e}"
