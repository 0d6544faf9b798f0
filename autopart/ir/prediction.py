"""Prediction: the bytes and seconds that a plan is predicted to take, and those of plans that came near."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one device of a stage at its peak, by what they are for.

    `cached_bytes` are not part of the peak: what the allocator holds of freed memory where the device has room, and
    gives back before it runs out.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    temporary_bytes: int
    reserve_bytes: int
    cached_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of them but what is only cached."""
        own = (self.parameters_bytes, self.gradients_bytes, self.optimizer_bytes)
        return sum(own) + self.activations_bytes + self.temporary_bytes + self.reserve_bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """What the seconds of a step are spent on, in the mean over the ranks of the pipeline; together they are the step.

    Attributes:
        products_s: matrix products, convolutions and attention.
        kernels_s: all other kernels, which the memory's bandwidth or their launches pace.
        recompute_s: activations computed again.
        communication_s: collectives between the tp ranks.
        gathers_s: gathering parameters that the replicas share (ZeRO 3), as far as computing does not hide it.
        waiting_s: the pipeline's bubble, with sends that nothing hides.
        gradients_s: sums of gradients that nothing hides.
        optimizer_s: the optimizer, and what the software does once a step.
    """

    products_s: float
    kernels_s: float
    recompute_s: float
    communication_s: float
    gathers_s: float
    waiting_s: float
    gradients_s: float
    optimizer_s: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is predicted to do; `peak_memory_bytes` is by rank of the pipeline.

    `time_error` is the mean relative error that predictions for this software had on published runs; 0 on a device
    for which none was compared.
    """

    step_time_s: float
    time_error: float
    tokens_per_s: float
    samples_per_s: float
    model_flops_per_gpu_per_s: float
    mfu: float
    bubble_fraction: float
    peak_memory_bytes: tuple[int, ...]
    parts: Parts


@dataclass(frozen=True, slots=True)
class Alternative:
    """A plan that came close: its degrees and policies, and how long its step takes."""

    tp: int
    pp: int
    dp: int
    cp: int
    micro_batch: int
    schedule: str
    virtual_stages: int
    recompute: str
    zero: int
    step_time_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What a decision is worth: the fastest plan in which it falls otherwise, or a near one that does not fit.

    Attributes:
        name: of the decision, as it is pinned ("micro_batch").
        chosen, other: what it is in the plan, and what it is otherwise.
        besides: (name, value) of other decisions that then change too.
        fits: whether that plan fits the memory; if not, it is the plan itself with this one decision changed.
        step_time_s, parts: what it takes.
        stage, peak_memory_bytes, device: its fullest rank of the pipeline, what that needs, and what it runs on.
    """

    name: str
    chosen: str
    other: str
    besides: tuple[tuple[str, str], ...]
    fits: bool
    step_time_s: float
    parts: Parts
    stage: int
    peak_memory_bytes: int
    device: str
