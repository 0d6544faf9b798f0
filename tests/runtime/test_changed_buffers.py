"""Buffers that a forward pass changes in place: as in one process, on whichever stage they are read."""

from typing import Any

import pytest
import torch

import autopart
from autopart.errors import UnsupportedError
from tests.plain_models import CLASSES, Changing
from tests.worker_pool import WorkerPool

STEPS = 2


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4, 8, dtype=torch.float64, generator=generator)
    return {"x": x, "target": torch.randint(0, CLASSES, (4,), generator=generator)}


def model() -> Changing:
    torch.manual_seed(0)
    return Changing().double()


def train(plan: autopart.Plan | None) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The losses and the final state, with a plan on a rank's side."""
    trained: Any = model()
    if plan is not None:
        trained = autopart.parallelize(trained, plan=plan, inputs=batch())
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        if plan is not None:
            loss = trained.train_step(batch())
        else:
            loss = trained(**batch())
            loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses, trained.full_state_dict() if plan is not None else dict(trained.state_dict())


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2)])
def test_as_in_one_process(worker_pool: WorkerPool, tp: int, pp: int) -> None:
    plan = autopart.plan(
        model(), tp * pp, cluster="local-cpu", global_batch=4, inputs=batch(), tp=tp, pp=pp, dp=1, micro_batch=4
    )
    losses, state = worker_pool.run(train, tp * pp, plan)[0]
    expected_losses, expected = train(None)
    assert losses == pytest.approx(expected_losses, rel=1e-9)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-9, atol=1e-12, msg=name)


def test_each_is_named() -> None:
    plan = autopart.plan(model(), 1, cluster="local-cpu", global_batch=4, inputs=batch())
    named = {name for note in plan.notes if "given new values" in note.text for name in note.subject.split(", ")}
    assert named >= {"steps", "mean", "queue"}
    assert any("mixes the samples" in note.text for note in plan.notes)  # where the mean is taken off


def test_what_loses_its_gradient_is_refused() -> None:
    class Scaled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            with torch.no_grad():
                y.mul_(2)
            return y.square().mean()

    with pytest.raises(UnsupportedError, match=r"mul_.*test_changed_buffers.py:\d+.*may have a gradient"):
        autopart.plan(Scaled(4, 4), 1, cluster="local-cpu", inputs=(torch.randn(4, 4),))
