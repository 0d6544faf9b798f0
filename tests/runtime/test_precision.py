"""Mixed precision: half the digits in the passes, float32 weights and gradients, and a scaled loss in float16."""

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import autopart
from autopart.runtime.loss_scale import GROWTH_INTERVAL, LossScale
from tests.equality.single import own_loss
from tests.models import CASES, build
from tests.one_capture import one_capture
from tests.worker_pool import WorkerPool

STEPS = 6


def _train(name: str, world: int, pins: dict[str, Any]) -> dict[str, Any]:
    batch = CASES[name].batch(torch.float32)
    par = autopart.parallelize(
        build(name, torch.float32), world, inputs=batch, loss=CASES[name].loss, global_batch=8, micro_batch=2, **pins
    )
    optimizer = torch.optim.SGD(par.parameters(), lr=0.05, momentum=0.9)
    losses, gradients = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        losses.append(float(par.train_step(par.shard_batch(batch))))
        gradients = gradients if step else par.full_gradients()
        optimizer.step()
    dtypes = {p.dtype for p in par.parameters()} | {p.grad.dtype for p in par.parameters() if p.grad is not None}
    share = par.shard_batch(batch)
    return {
        "losses": losses, "gradients": gradients, "dtypes": dtypes, "evaluated": float(par.evaluate(share)),
        "output": par.predict(share),
    }  # fmt: skip


def _single(name: str, dtype: torch.dtype | None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training in a single process, in the autocast that users know; None computes in float32."""
    case, model, batch = CASES[name], build(name, torch.float32), CASES[name].batch(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses, gradients = [], {}
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            output = model(**batch) if isinstance(batch, dict) else model(*batch)
            loss = case.loss(output, batch) if case.loss else own_loss(output)
        loss.backward()
        losses.append(float(loss.detach()))
        if not step:
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return losses, gradients


def _distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """How far all gradients together are from the expected ones, relative to their norm."""
    apart = sum(float((found[name] - tensor).square().sum()) for name, tensor in expected.items())
    return (apart / sum(float(tensor.square().sum()) for tensor in expected.values())) ** 0.5


@pytest.mark.parametrize(
    ("name", "pins"),
    [
        ("gpt", {"tp": 2, "pp": 2}),
        ("gpt", {"pp": 2, "dp": 2, "schedule": "zb-h1"}),
        ("llama", {"tp": 2, "dp": 2, "recompute": "full", "zero": 2}),
        ("conv_net", {"pp": 2, "dp": 2}),
    ],
    ids=str,
)
def test_bf16_is_as_near_to_float32_as_autocast_in_one_process(
    worker_pool: WorkerPool, name: str, pins: dict[str, Any]
) -> None:
    ranks = worker_pool.run(one_capture, 4, _train, name, 4, {**pins, "precision": "bf16-mixed"})
    half, gradients = _single(name, torch.bfloat16)
    exact, exact_gradients = _single(name, None)
    # bfloat16 rounds by 2^-9 of a value at most. A loss passes through some 50 such roundings on its longest path here;
    # in random directions they add up to about sqrt(50) of them, a little over 1 %.
    for found, one, other in zip(ranks[0]["losses"], half, exact, strict=True):
        assert abs(found - one) <= 50**0.5 * 2**-9 * one
        assert abs(found - other) <= 50**0.5 * 2**-9 * other
    # What autocast in one process loses of the gradients, sharding may lose again by other orders of summation.
    lost = _distance(gradients, exact_gradients)
    assert lost > 1e-4, "autocast computes nothing in half"
    assert 1e-4 < _distance(ranks[0]["gradients"], exact_gradients) <= 2 * lost
    assert all(rank["dtypes"] == {torch.float32} and rank["losses"] == ranks[0]["losses"] for rank in ranks)
    assert ranks[0]["losses"][-1] < ranks[0]["losses"][0]
    assert ranks[0]["evaluated"] < ranks[0]["losses"][-1] * 1.05
    output = ranks[0]["output"]
    assert (output if isinstance(output, torch.Tensor) else output["loss"]).dtype == torch.float32


def test_weights_gathered_in_half_are_what_autocast_makes_of_them(worker_pool: WorkerPool) -> None:
    """To the last bit: ZeRO-2 casts whole weights where they are used, ZeRO-3 its shares before it gathers them."""
    pins = {"pp": 2, "dp": 2, "schedule": "1f1b", "precision": "bf16-mixed"}
    two, three = (worker_pool.run(one_capture, 4, _train, "gpt", 4, {**pins, "zero": zero}) for zero in (2, 3))
    for one, other in zip(two, three, strict=True):
        assert one["losses"] == other["losses"] and one["evaluated"] == other["evaluated"]
    assert all(torch.equal(gradient, three[0]["gradients"][name]) for name, gradient in two[0]["gradients"].items())


def test_fp16_trains_with_a_scaled_loss(worker_pool: WorkerPool) -> None:
    ranks = worker_pool.run(one_capture, 4, _train, "gpt", 4, {"tp": 2, "pp": 2, "precision": "fp16-mixed"})
    exact, exact_gradients = _single("gpt", None)
    for found, other in zip(ranks[0]["losses"], exact, strict=True):
        assert abs(found - other) <= 50**0.5 * 2**-12 * other  # float16 rounds by 2^-12
    # Gradients are unscaled, and hardly any vanish: bfloat16, with eight times the rounding, loses more.
    in_bfloat16 = _distance(_single("gpt", torch.bfloat16)[1], exact_gradients)
    assert _distance(ranks[0]["gradients"], exact_gradients) < in_bfloat16


class Overflowing(nn.Module):
    """Two layers; the second one's gradient is beyond float16 where a sample says so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4) -> mean square."""
        return F.linear(self.second(self.first(x)).tanh(), self.last.weight).square().mean()


def _overflow(pins: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    small, large = torch.randn(8, 4), torch.randn(8, 4)
    large[0] = 3e38  # of the first replica alone: float16 ends at 65504
    par = autopart.parallelize(
        Overflowing(), 4, inputs=(small,), global_batch=8, micro_batch=2, precision="fp16-mixed", **pins
    )
    optimizer = torch.optim.AdamW(par.parameters(), lr=0.1, weight_decay=0.1)
    states, scales, empty = [par.full_state_dict()], [par.loss_scale], []
    for batch in (small, large, small):
        optimizer.zero_grad()
        par.train_step(par.shard_batch(batch))
        empty.append(all(parameter.grad is None for parameter in par.parameters()))
        optimizer.step()
        states.append(par.full_state_dict())
        scales.append(par.loss_scale)
    kept = [all(torch.equal(a[k], b[k]) for k in a) for a, b in pairwise(states)]
    return {"kept": kept, "scales": scales, "empty": empty, "norm": float(par.clip_grad_norm_(1.0))}


@pytest.mark.parametrize("pins", [{"pp": 2, "dp": 2}, {"tp": 2, "dp": 2, "zero": 1}], ids=str)
def test_fp16_overflow_leaves_the_step_out_on_all_ranks(worker_pool: WorkerPool, pins: dict[str, Any]) -> None:
    ranks = worker_pool.run(one_capture, 4, _overflow, pins)
    for found in ranks:
        assert found["empty"] == [False, True, False]
        assert found["scales"] == [65536.0, 65536.0, 32768.0, 32768.0]
        assert 0 < found["norm"] < float("inf")
    assert ranks[0]["kept"] == [False, True, False]


def _grow() -> list[float]:
    weight, scale = nn.Parameter(torch.zeros(1)), LossScale(value=4.0)
    found = []
    for step in range(2 * GROWTH_INTERVAL):
        weight.grad = torch.full((1,), float("nan") if step == GROWTH_INTERVAL else 8.0)
        before = scale.value
        if scale.unscale([weight], torch.device("cpu")):
            assert weight.grad is not None and float(weight.grad) == 8.0 / before
        found.append(scale.value)
    return found


def test_the_scale_grows_after_many_steps_without_overflow(worker_pool: WorkerPool) -> None:
    ((*scales,),) = worker_pool.run(one_capture, 1, _grow)
    assert scales[GROWTH_INTERVAL - 2 : GROWTH_INTERVAL + 1] == [4.0, 8.0, 4.0] and scales[-1] == 4.0


def _without_gradients() -> dict[str, torch.Tensor]:
    """Weights used first without gradients: their copies must not stay without."""
    from tests.runtime.test_training import Reflecting

    torch.manual_seed(0)
    batch = {name: torch.randn(8, 8) for name in ("x", "target")}
    par = autopart.parallelize(
        Reflecting(), 2, inputs=batch, global_batch=8, micro_batch=4, pp=2, precision="bf16-mixed"
    )
    par.train_step(par.shard_batch(batch))
    return par.full_gradients()


def test_weights_first_used_without_gradients_have_theirs(worker_pool: WorkerPool) -> None:
    gradients = worker_pool.run(one_capture, 2, _without_gradients)[0]
    assert gradients and all(float(gradient.abs().max()) > 0 for gradient in gradients.values())


class Guarded(nn.Module):
    """Scores and a loss in full precision, as many write them under autocast; `off`: whether autocast is off there."""

    def __init__(self, off: bool = True) -> None:
        super().__init__()
        self.first, self.scores, self.last = (nn.Linear(8, 8) for _ in range(3))
        self.off = off

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Both: (batch, 8)."""
        hidden = self.first(x).relu()
        with torch.autocast("cpu", enabled=False) if self.off else nullcontext():
            hidden = hidden.float() + x
            hidden = self.scores(hidden) @ self.first.weight
        hidden = self.last(hidden)
        with torch.autocast("cpu", enabled=False) if self.off else nullcontext():
            return F.mse_loss(hidden.float(), target.float())


def _guarded(front_end: str, pins: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model, batch = Guarded(), {name: torch.randn(8, 8) for name in ("x", "target")}
    par = autopart.parallelize(
        model, 2, inputs=batch, global_batch=8, micro_batch=4, precision="bf16-mixed", front_end=front_end, **pins
    )
    return float(par.train_step(par.shard_batch(batch))), par.full_gradients()


@pytest.mark.parametrize(
    ("front_end", "pins"),
    [
        ("torch_export", {"pp": 2, "schedule": "zb-h1"}),
        ("torch_export", {"dp": 2, "zero": 3}),
        ("fx_trace", {"dp": 2}),
    ],
    ids=str,
)
def test_what_the_model_computes_with_autocast_off_is_in_full_precision(
    worker_pool: WorkerPool, front_end: str, pins: dict[str, Any]
) -> None:
    """As autocast in one process gives it, micro-batch by micro-batch; in half all through, numbers are others."""
    loss, gradients = worker_pool.run(one_capture, 2, _guarded, front_end, pins)[0]
    distances = []
    for off in (True, False):
        torch.manual_seed(0)
        model, batch = Guarded(off), {name: torch.randn(8, 8) for name in ("x", "target")}
        total = 0.0
        for part in (slice(4), slice(4, 8)):
            with torch.autocast("cpu", torch.bfloat16):
                own = model(batch["x"][part], batch["target"][part]) / 2
            own.backward()
            total += float(own)
        expected = {name: parameter.grad for name, parameter in model.named_parameters()}
        distances.append(max(abs(total - loss), _distance(gradients, expected)))
    assert distances[0] < 1e-6 and distances[1] > 1e-4


class _Casts(TorchDispatchMode):
    """Counts how often tensors that lie where parameters do are cast."""

    def __init__(self, parameters: Any) -> None:
        super().__init__()
        self.places, self.count = {parameter.data_ptr() for parameter in parameters}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self.places
        return func(*args, **(kwargs or {}))


def _casts(micro_batch: int) -> int:
    batch = CASES["gpt"].batch(torch.float32)
    par = autopart.parallelize(
        build("gpt", torch.float32), 1, inputs=batch, global_batch=8, micro_batch=micro_batch, precision="bf16-mixed"
    )
    with _Casts(par.parameters()) as casts:
        par.train_step(batch)
    return casts.count


def test_weights_are_cast_once_a_step(worker_pool: WorkerPool) -> None:
    (one,), (four,) = (worker_pool.run(one_capture, 1, _casts, size) for size in (8, 2))
    assert one == four > 0


def test_half_weights_are_refused() -> None:
    with pytest.raises(autopart.UnsupportedError, match="trains float32 weights, and those of GPT are bfloat16"):
        autopart.parallelize(
            build("gpt", torch.bfloat16), 1, inputs=CASES["gpt"].batch(torch.float32), global_batch=8,
            precision="bf16-mixed",
        )  # fmt: skip
