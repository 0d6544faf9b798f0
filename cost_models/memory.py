"""Bytes that are not the model's: optimizer state and what a device keeps back."""

from cost_models.device import Device
from cost_models.errors import UnknownCostModelError

# Tensors of a parameter's size and dtype that torch.optim keeps for each parameter.
_STATE_COPIES = {
    "adamw": 2.0,
    "adam": 2.0,
    "nadam": 2.0,
    "radam": 2.0,
    "adamax": 2.0,
    "adadelta": 2.0,
    "adagrad": 1.0,
    "rmsprop": 1.0,
    "muon": 1.0,
    "sgd-momentum": 1.0,
    "sgd": 0.0,
    "none": 0.0,
}


def optimizer_state_bytes(parameter_bytes: float, optimizer: str = "adamw") -> float:
    """Bytes that a torch optimizer keeps for `parameter_bytes` of parameters, which it updates.

    torch creates its state with `zeros_like(parameter)`, so bfloat16 parameters get bfloat16 state: AdamW's `exp_avg`
    and `exp_avg_sq` are twice the parameters' bytes. Step counters, a few bytes a parameter tensor, are left out.

    Raises:
        UnknownCostModelError: unknown optimizer; the message lists the known ones.
    """
    try:
        return parameter_bytes * _STATE_COPIES[optimizer.lower()]
    except KeyError:
        known = ", ".join(_STATE_COPIES)
        raise UnknownCostModelError(f"unknown optimizer {optimizer!r}; known: {known}") from None


def reserve_bytes(device: Device) -> int:
    """Bytes of the device that no tensor can have: context and libraries, and the allocator's fragmentation."""
    return device.context_bytes + int(device.fragmentation_fraction * device.memory_bytes)


def usable_bytes(device: Device) -> int:
    """Bytes of the device that tensors can have: all memory less `reserve_bytes`."""
    return device.memory_bytes - reserve_bytes(device)
