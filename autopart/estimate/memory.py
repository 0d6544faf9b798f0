"""Memory: the peak of a stage over its schedule, by what it is for."""

from collections.abc import Sequence

from autopart.estimate.block import UnitCost
from autopart.ir.plan import Memory
from cost_models.device import Device
from cost_models.memory import optimizer_state_bytes, reserve_bytes

# The runtime reduces gradients in buckets of 25 MiB, flattened into a copy.
BUCKET_BYTES = 2 * 25 * 2**20


def parameter_bytes(costs: Sequence[UnitCost]) -> tuple[float, int]:
    """A rank's bytes of the parameters that the units use, each once, and their elements in all."""
    held = {target: (size, elements) for cost in costs for target, size, elements in cost.parameters}
    return sum(size for size, _ in held.values()), sum(elements for _, elements in held.values())


def stage_memory(
    costs: Sequence[UnitCost], in_flight: int, recompute: str, optimizer: str, device: Device, entering_bytes: float
) -> Memory:
    """The peak of a stage.

    Args:
        costs: of its units.
        in_flight: the most micro-batches that are between their forward and backward pass.
        recompute: "none" keeps all activations; "full" keeps what enters each run of a loop, and while one run is
            computed again, all activations of that run.
        optimizer: a name that `cost_models.memory` knows.
        device: gives the reserve.
        entering_bytes: activations received for one micro-batch.
    """
    held, _ = parameter_bytes(costs)
    if recompute == "full":
        kept = sum(cost.input_bytes or cost.kept_bytes for cost in costs)
        working = max((cost.kept_bytes for cost in costs if cost.input_bytes), default=0.0)
    else:
        kept, working = sum(cost.kept_bytes for cost in costs), 0.0
    activations = in_flight * (kept + entering_bytes) + working
    state = optimizer_state_bytes(held, optimizer)
    temporary = max((cost.transient_bytes for cost in costs), default=0.0) + min(BUCKET_BYTES, 2 * held)
    # torch's optimizers take a copy of the parameters' size in their step, when no activations are left.
    temporary = max(temporary, held - activations)
    return Memory(
        parameters_bytes=int(held),
        gradients_bytes=int(held),
        optimizer_bytes=int(state),
        activations_bytes=int(activations),
        temporary_bytes=int(temporary),
        reserve_bytes=reserve_bytes(device),
    )
