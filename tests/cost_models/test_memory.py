"""Optimizer state as torch keeps it, and what a device keeps back."""

import pytest

from cost_models.device import device_names, load_device
from cost_models.errors import UnknownCostModelError
from cost_models.memory import optimizer_state_bytes, reserve_bytes, usable_bytes


@pytest.mark.parametrize(
    ("optimizer", "copies"), [("adamw", 2), ("AdamW", 2), ("adam", 2), ("sgd", 0), ("sgd-momentum", 1), ("muon", 1)]
)
def test_optimizer_state(optimizer: str, copies: int) -> None:
    """Copies of the parameters, in their dtype."""
    assert optimizer_state_bytes(1000, optimizer) == 1000 * copies
    assert optimizer_state_bytes(1000) == 2000


def test_unknown_optimizer() -> None:
    """The error lists the known ones."""
    with pytest.raises(UnknownCostModelError, match="unknown optimizer 'shampoo'; known: adamw, adam"):
        optimizer_state_bytes(1, "shampoo")


@pytest.mark.parametrize("name", device_names())
def test_reserve(name: str) -> None:
    """Something is kept back, and most is left."""
    device = load_device(name)
    assert usable_bytes(device) + reserve_bytes(device) == device.memory_bytes
    assert 0.01 < reserve_bytes(device) / device.memory_bytes < 0.15
