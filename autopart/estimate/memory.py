"""Memory: the peak of a stage over its schedule, by what it is for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.block import UnitCost
from autopart.estimate.each_unit import each_unit
from autopart.estimate.recompute import is_repeated
from autopart.ir.prediction import Memory
from cost_models.device import Device
from cost_models.memory import reserve_bytes
from cost_models.precision import State
from cost_models.stack import Stack

# Gradients are reduced in buckets of 25 MiB, of which two exist besides: flattened copies where a framework makes some;
# under ZeRO-2, which keeps no whole gradients, the one that is being reduced and the one that is being filled.
BUCKET_BYTES = 2 * 25 * 2**20
# Under ZeRO-3 one layer computes while the parameters of the next are gathered.
UNITS_GATHERED = 2
# Of tensors that come and go, what torch's caching allocator holds besides in blocks of other sizes. An estimate: peaks
# of reserved memory are 5 to 15 % of that above those of allocated memory where torchtitan's logs show both.
CACHED = 0.1

Bytes = TypeVar("Bytes", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a stage keeps the state of its parameters.

    Attributes:
        state: bytes for each element.
        element_bytes: of a parameter as it is computed with.
        zero: the ZeRO stage: 1 shares the optimizer's state among `replicas`, 2 the gradients too, 3 the parameters too
            (Rajbhandari et al. 2020, section 5).
        replicas: how many ranks hold the same parameters; of these, those that share them where not all do.
    """

    state: State
    element_bytes: int
    zero: int
    replicas: int
    device: Device
    stack: Stack

    def weight_bytes(self, held: float) -> float:
        """Of parameters that take `held` bytes as they are computed with: their own, between steps.

        Under ZeRO-3 a mixed precision makes its half copy where it gathers, of the float32 shard.
        """
        if self.zero < 3:
            return held
        return 0.0 if self.state.master_bytes else held / self.replicas

    def gradient_bytes(self, held: float) -> float:
        """Of their gradients."""
        return held * self.state.gradient_bytes / self.element_bytes / (self.replicas if self.zero >= 2 else 1)

    def optimizer_bytes(self, held: float) -> float:
        """Of what the optimizer keeps besides."""
        return held * self.state.optimizer_bytes / self.element_bytes / (self.replicas if self.zero >= 1 else 1)

    def after_bytes(self, held: float) -> float:
        """What exists when no activations are left: buckets of gradients to be reduced, then the optimizer's copy.

        torch's optimizers take a copy of the parameters' size in their step.
        """
        return max(self.step_bytes(held), min(BUCKET_BYTES, 2 * held) if self.replicas > 1 else 0.0)

    def step_bytes(self, held: float) -> float:
        """Of that copy."""
        return held / (self.replicas if self.zero >= 3 else 1)

    def flat_bytes(self, held: Bytes, largest: Bytes) -> Bytes:
        """Of flat copies that the stack's ZeRO makes for its step, too large for the blocks that activations leave.

        Args:
            held: bytes of the parameters.
            largest: bytes of the largest of them.
        """
        own = held / self.replicas if self.zero >= 1 else 0.0 * held
        copies = own * self.stack.step_copy_bytes + largest * self.stack.norm_bytes
        return copies / self.element_bytes

    @property
    def copies(self) -> float:
        """Bytes of all three for each byte of the parameters."""
        return self.weight_bytes(1.0) + self.gradient_bytes(1.0) + self.optimizer_bytes(1.0)

    def resident(self, cost: UnitCost) -> bool:
        """Whether a unit's parameters are gathered for all of a pass of its stage."""
        return self.zero >= 3 and self.stack.gathers_outside and not is_repeated(cost)

    def temporary_bytes(self, cost: UnitCost) -> float:
        """What exists while one unit computes: gradients of activations, gathered parameters and their gradients.

        Gathered parameters that exist while any unit of the stage computes are not in it, see `resident`.
        """
        held = held_bytes(cost)
        if self.zero < 3 or self.stack.gathers_outside:
            gathered = UNITS_GATHERED * held if self.zero == 3 and is_repeated(cost) else 0.0
            return cost.transient_bytes + gathered + (BUCKET_BYTES if self.zero >= 2 and self.replicas > 1 else 0)
        return cost.transient_bytes + held * (UNITS_GATHERED + self.state.reduced_bytes / self.element_bytes)


def held_bytes(cost: UnitCost) -> float:
    """A rank's bytes of the parameters that a unit uses."""
    return sum([size for _, size, _ in cost.parameters])


def parameter_bytes(costs: Sequence[UnitCost]) -> tuple[float, int]:
    """A rank's bytes of the parameters that the units use, each once, and their elements in all."""
    numbers = list(map(id, costs))
    counts, seen, held_bytes, every = Counter(numbers), set[str](), 0.0, 0
    for number, cost in dict(zip(numbers, costs, strict=True)).items():  # the runs of a loop are mostly one object
        for name, size, elements in cost.parameters:
            if name not in seen:
                count = 1 if name else counts[number]
                held_bytes, every = held_bytes + count * size, every + count * elements
                if name:
                    seen.add(name)
    return held_bytes, every


def crossing_bytes(cost: UnitCost, keeping: Keeping) -> tuple[float, float]:
    """What a cut after a unit adds to a micro-batch in flight: to the stage before it, and to the one after."""
    return cost.crossing_bytes if keeping.stack.keeps_outputs else 0.0, cost.crossing_bytes


def stage_memory(costs: Sequence[UnitCost], in_flight: float, keeping: Keeping, entering_bytes: float) -> Memory:
    """The peak of a stage.

    Args:
        costs: of its units, as they are recomputed.
        in_flight: the most micro-batches that are between their forward and backward pass.
        keeping: how the state of parameters is kept.
        entering_bytes: activations received for one micro-batch, and those sent if the stack keeps them.
    """
    held, _ = parameter_bytes(costs)
    resident, _ = parameter_bytes([cost for cost in costs if keeping.resident(cost)])
    # While a unit runs backward, the units behind it have freed what they kept.
    behind = sum([cost.kept_bytes for cost in costs])
    flying = in_flight * (behind + entering_bytes)
    peak, activations, temporary = flying, flying, 0.0
    first = min(1.0, in_flight)
    beside = each_unit(costs, lambda cost: (cost.kept_bytes, cost.working_bytes, keeping.temporary_bytes(cost)))
    for own, working, passing in beside:
        behind -= own
        there, passing = flying - first * behind + working, resident + passing
        if there + passing >= peak:
            peak, activations, temporary = there + passing, there, passing
    largest = each_unit(costs, lambda cost: max([size for _, size, _ in cost.parameters], default=0.0))
    flat = keeping.flat_bytes(held, max(largest, default=0.0))
    temporary = max(temporary, keeping.after_bytes(held) - activations, flat - activations)
    memory = Memory(
        parameters_bytes=int(keeping.weight_bytes(held)),
        gradients_bytes=int(keeping.gradient_bytes(held)),
        optimizer_bytes=int(keeping.optimizer_bytes(held)),
        activations_bytes=int(activations),
        temporary_bytes=int(temporary + keeping.stack.buffer_bytes),
        reserve_bytes=reserve_bytes(keeping.device),
    )
    cached = CACHED * peak + min(peak, flat)
    room = keeping.device.memory_bytes - keeping.device.context_bytes - (memory.total_bytes - memory.reserve_bytes)
    return replace(memory, cached_bytes=int(max(0.0, min(cached, room))))
