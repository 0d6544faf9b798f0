"""StepSchedule: how one step works through a batch of some size, the same on every rank that has that batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist

from autopart.errors import BatchError, PlanningError
from autopart.ir.action import Schedule
from autopart.ir.plan import PlanData
from autopart.ir.program import Program
from autopart.runtime.backend import backend
from autopart.runtime.message_order import check_message_order
from autopart.schedules.find import find_schedule
from autopart.schedules.forward_passes import forward_passes


@dataclass(frozen=True)
class StepSchedule:
    """How a replica's batch is worked through; as long as it is the only one known, what is said of others is its own.

    Attributes:
        sizes: the samples of each micro-batch, in order.
        actions: what every pipeline rank does with them.
        most: micro-batches of the replica that has the most.
        samples: of all replicas together.
        first: how many samples the replicas before this one have.
    """

    sizes: tuple[int, ...]
    actions: Schedule
    most: int
    samples: int
    first: int = 0


def micro_batch_sizes(samples: int, micro_batch: int) -> tuple[int, ...]:
    """Micro-batches of `micro_batch` samples, the last one of what is left."""
    full, rest = divmod(samples, micro_batch)
    return (micro_batch,) * full + ((rest,) if rest else ())


def training_schedule(plan: PlanData, program: Program, samples: int, count: int | None = None) -> StepSchedule:
    """How a replica trains on `samples` samples: micro-batches of the planned size, or of less where a schedule wants
    whole rounds of them, or other replicas have `count`.

    Raises:
        BatchError: the plan's schedule cannot take so few samples.
        UnsupportedError: NCCL could not tell its messages apart.
    """
    schedule = find_schedule(plan.schedule)
    sizes = _sizes(plan, samples, count)
    if schedule.whole_rounds and len(sizes) % plan.pp:
        sizes = even_sizes(samples, count=len(sizes) + plan.pp - len(sizes) % plan.pp)
    try:
        actions = schedule(plan.pp, len(sizes), plan.virtual_stages)
    except PlanningError as error:
        raise BatchError(
            f"a batch of {samples} samples is {len(sizes)} micro-batches of at most {plan.micro_batch}: {error}"
        ) from error
    if dist.is_initialized() and backend() == "nccl":
        check_message_order(program, actions)
    return StepSchedule(sizes, actions, len(sizes), samples)


def evaluation_schedule(plan: PlanData, homes: Sequence[int], samples: int, count: int | None = None) -> StepSchedule:
    """How a replica evaluates `samples` samples, with stage s on pipeline rank `homes[s]`.

    Raises:
        BatchError: too few samples for the `count` micro-batches of another replica.
    """
    sizes = _sizes(plan, samples, count)
    return StepSchedule(sizes, forward_passes(homes, len(sizes)), len(sizes), samples)


def _sizes(plan: PlanData, samples: int, count: int | None) -> tuple[int, ...]:
    if count is None:
        return micro_batch_sizes(samples, plan.micro_batch)
    if samples < count:
        raise BatchError(
            f"under zero={plan.zero} replicas must have equally many micro-batches, and this one has {samples} samples "
            f"for the {count} of another: give them shares of one size (a global batch that dp divides), or plan with "
            "zero=1"
        )
    return even_sizes(samples, count)


def even_sizes(samples: int, count: int) -> tuple[int, ...]:
    """`count` micro-batches that differ by a sample at most; fewer where there are fewer samples."""
    count = min(samples, count)
    each, rest = divmod(samples, count)
    return (each + 1,) * rest + (each,) * (count - rest)
