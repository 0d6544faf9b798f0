"""What the training software does: its kernels, what it overlaps, how it keeps gradients and state."""

from dataclasses import dataclass, field
from pathlib import Path

from cost_models.catalogue import file_names, find_file
from cost_models.space import Space, read_space
from cost_models.toml_table import TomlTable

_FOLDER = Path(__file__).parent / "stacks"
ATTENTION = ("math", "flash1", "flash", "cudnn")
FUSION = ("none", "chains", "compiled")
SELECTIVE = ("attention", "core", "products")
REPORTS = ("allocated", "reserved", "device")
_FIGURES = (
    "attention",
    "fusion",
    "product_speed",
    "dispatch_s",
    "gradients",
    "overlap",
    "sends",
    "optimizer",
    "step_s",
    "loss",
    "time_error",
    "memory",
)


@dataclass(frozen=True, slots=True)
class Stack:
    """How one framework of one time trains; never a property of a model or a run. `sources` says whence each is.

    Attributes:
        attention: the kernel: "math" writes the scores to memory, and softmax and dropout go over them; "flash"
            (FlashAttention-2) and "cudnn" keep them on chip.
        fusion: "none": every op is a kernel. "chains": elementwise ops in a row are one (bias and GELU; bias, dropout
            and residual; scale, mask and softmax). "compiled": norms and other reductions join these, and what is cheap
            is computed again in the backward pass instead of kept.
        selective: what recompute="selective" computes again: "attention" the scores of math attention, "core" attention
            by whatever kernel, written out or not, "products" all but every second product, and attention.
        product_speed: of its matrix library on these devices, relative to the newest, which the device files are for.
        dispatch_s: host seconds for each op; where kernels are shorter than that, the device waits for the host.
        sums_in_products: whether a weight's gradient is added to those of earlier micro-batches in the product itself.
        gradient_bytes: of an element of a gradient that is accumulated, under a mixed precision.
        held_gradient_bytes: of an element of its gradients in all: the sum, and the micro-batch's own where it is
            held too; left out of a file, the sum.
        reduced_bytes: of an element of a gradient that is sent between replicas, under a mixed precision.
        reduction_overlap: share of that sending which may run beside the backward pass of the last micro-batch.
        gather_overlap: share of the gathering of sharded parameters that may run beside the forward pass.
        tensor_overlap: share of tensor-parallel communication that is hidden beside products.
        contention: by what factor kernels take longer while a collective runs beside them.
        casts_weights_once: under float8, weights are cast once a step, not in every pass.
        gathers_again: what a product takes gathered is kept as it was before, and gathered again in the backward pass,
            hidden beside another product (Korthikanti et al. 2022, section 4.2.2).
        keeps_outputs: what a stage sent to the next is kept until the backward pass.
        blocking_sends: a stage computes nothing while it sends to the next.
        scattered_sends: of a value that all tp ranks hold, each sends its share to the next stage, which gathers them.
        optimizer_bytes: read and written for each parameter element in an optimizer step, under a mixed precision.
        step_s: once a step: data, logging, the host's waits.
        fused_loss: cross-entropy is one kernel, which takes the logits in the dtype that they are made in; otherwise
            they are cast to float32, and their logarithms and two gradients are float32 tensors.
        buffer_bytes: held on every device besides the model's tensors: workspaces and communication buffers.
        step_copy_bytes: for each parameter element that a rank's optimizer updates, flat copies that ZeRO makes
            for its step.
        norm_bytes: for each element of the largest gradient, while norms of gradients are computed.
        time_error: mean error of its predicted step times against published runs, left out of the fit or never fitted
            to; of all stacks together where none was published of this one.
        reports: which memory its figures are of: "allocated" tensors, "reserved" by torch's allocator, or of the whole
            "device", as nvidia-smi shows it.
        waits_for_kernels: the host launches a kernel only when the last one is done (CUDA_LAUNCH_BLOCKING=1), so that
            `dispatch_s` is added to every op. False where a file leaves it out.
        shares_in_node: what ZeRO shares, it shares among the replicas of one node; nodes hold copies of it (FSDP's
            HYBRID_SHARD). False where a file leaves it out.
        gathers_in_lists: under ZeRO-3 every parameter is gathered by itself into a list of the ranks' pieces, each of
            which is copied by a kernel of its own, and nothing is computed meanwhile; its gradient is scattered so too.
            False where a file leaves it out.
        gathers_outside: ZeRO-3 gathers what repeats layer by layer, and what stands outside of that for a whole pass of
            its stage; it reduces gradients in buckets. False where a file leaves it out: both unit by unit.
        space: what a search may choose for it without a pin; a file may leave this out.
    """

    name: str
    attention: str
    fusion: str
    selective: str
    product_speed: float
    dispatch_s: float
    sums_in_products: bool
    gradient_bytes: int
    held_gradient_bytes: int
    reduced_bytes: int
    reduction_overlap: float
    gather_overlap: float
    tensor_overlap: float
    contention: float
    casts_weights_once: bool
    gathers_again: bool
    keeps_outputs: bool
    blocking_sends: bool
    scattered_sends: bool
    optimizer_bytes: float
    step_s: float
    fused_loss: bool
    buffer_bytes: int
    step_copy_bytes: float
    norm_bytes: float
    time_error: float
    reports: str
    sources: tuple[tuple[str, str], ...]
    waits_for_kernels: bool = False
    shares_in_node: bool = False
    gathers_in_lists: bool = False
    gathers_outside: bool = False
    space: Space = field(default_factory=Space)


def stack_names() -> tuple[str, ...]:
    """The names that `load_stack` knows: the files of `cost_models/stacks`, sorted."""
    return file_names(_FOLDER)


def load_stack(name_or_path: str | Path) -> Stack:
    """Read a stack by its name, or from a path that ends in `.toml`.

    Raises:
        UnknownCostModelError: there is no such stack.
        CostModelFileError: the file has a missing, unknown or unfit key.
    """
    table = TomlTable.read(find_file(name_or_path, _FOLDER, "stack"))
    gradient_bytes, apart = table.whole("gradient_bytes"), table.has("held_gradient_bytes")
    stack = Stack(
        name=table.text("name"),
        attention=table.one_of("attention", ATTENTION),
        fusion=table.one_of("fusion", FUSION),
        selective=table.one_of("selective", SELECTIVE),
        product_speed=table.number("product_speed", at_most=1.2),
        dispatch_s=table.number("dispatch_s", least=0.0),
        sums_in_products=table.truth("sums_in_products"),
        gradient_bytes=gradient_bytes,
        held_gradient_bytes=table.whole("held_gradient_bytes") if apart else gradient_bytes,
        reduced_bytes=table.whole("reduced_bytes"),
        reduction_overlap=table.number("reduction_overlap", least=0.0, at_most=1.0),
        gather_overlap=table.number("gather_overlap", least=0.0, at_most=1.0),
        tensor_overlap=table.number("tensor_overlap", least=0.0, at_most=1.0),
        contention=table.number("contention", least=1.0),
        casts_weights_once=table.truth("casts_weights_once"),
        gathers_again=table.truth("gathers_again"),
        keeps_outputs=table.truth("keeps_outputs"),
        blocking_sends=table.truth("blocking_sends"),
        scattered_sends=table.truth("scattered_sends"),
        optimizer_bytes=table.number("optimizer_bytes"),
        step_s=table.number("step_s", least=0.0),
        fused_loss=table.truth("fused_loss"),
        buffer_bytes=int(table.number("buffer_bytes", least=0.0)),
        step_copy_bytes=table.number("step_copy_bytes", least=0.0),
        norm_bytes=table.number("norm_bytes", least=0.0),
        time_error=table.number("time_error", least=0.0),
        reports=table.one_of("reports", REPORTS),
        sources=table.sources(_FIGURES),
        waits_for_kernels=table.has("waits_for_kernels") and table.truth("waits_for_kernels"),
        shares_in_node=table.has("shares_in_node") and table.truth("shares_in_node"),
        gathers_in_lists=table.has("gathers_in_lists") and table.truth("gathers_in_lists"),
        gathers_outside=table.has("gathers_outside") and table.truth("gathers_outside"),
        space=read_space(table.table("space")) if table.has("space") else Space(),
    )
    table.finish()
    return stack
