"""The benchmark of real local runs: which layouts it takes, and which of its blocks count."""

import pytest
import torch

from tests.benchmarks.local_runs.layouts import layouts
from tests.benchmarks.local_runs.measure import PROBED, Block, Measured
from tests.benchmarks.local_runs.models import GLOBAL_BATCH, MODELS


@pytest.mark.parametrize("world", [2, 4, 6])
def test_every_factorization_is_there(world: int) -> None:
    """Each divides the batch, and no layout comes twice."""
    found = list(layouts(world))
    assert len(set(found)) == len(found)
    degrees = {(layout.tp, layout.pp, layout.dp) for layout in found}
    assert degrees == {
        (tp, pp, world // tp // pp)
        for tp in range(1, world + 1)
        for pp in range(1, world + 1)
        if world % (tp * pp) == 0 and GLOBAL_BATCH % (world // tp // pp) == 0
    }
    assert all(GLOBAL_BATCH % (layout.dp * layout.micro_batch) == 0 for layout in found)
    assert {layout.recompute for layout in found} == {"none", "full"}


def test_the_quiet_half_counts() -> None:
    blocks = (Block(1.0, 0.1, 0.0), Block(9.0, 0.1, 0.9), Block(2.2, 0.2, 0.1), Block(8.0, 0.1, 0.5))
    seen = Measured(blocks, 100)
    assert seen.quiet == (blocks[0], blocks[2])
    assert seen.step_s == pytest.approx(1.6)
    assert seen.at_speed_s(0.2) == pytest.approx((10 + 11) / 2 * 0.2)
    assert seen.others == 0.1


@pytest.mark.parametrize("name", MODELS)
def test_models_have_a_loss_and_the_same_weights_every_time(name: str) -> None:
    model, again = MODELS[name].made(), MODELS[name].made()
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    tokens, targets = (part[:1] for part in MODELS[name].batch())
    assert model(tokens, targets).shape == ()
    assert len(PROBED) > 3
