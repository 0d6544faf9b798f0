"""OutputShape: what a module that cannot be traced returns, found by running a copy of it on random numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopart.capture.call_shape import CallShape, TensorShape
from autopart.capture.not_kept import not_kept
from autopart.capture.trial_run import HandedOn, Ran, TrialRun, faked
from autopart.ir.size import BATCH, Size

BATCH_SIZE = 8
REDRAWN = 2  # further halves, with numbers of their own: their outputs must have the same shape
DIRECTIONS = 2  # of gradients: backward must be linear in them
MOST_BYTES = 4 * 2**30  # of weights: what may be copied for a trial


@dataclass(frozen=True)
class OutputShape:
    """What a call returns.

    Attributes:
        leaves, structure: of the output, tensors as their shapes, and how to put them together.
        trained: for each leaf, whether it is a tensor that has a gradient.
        samplewise: whether samples stay apart, forward and backward.
        elementwise: whether all tensors have one shape, and elements stay apart.
    """

    leaves: tuple[Any, ...]
    structure: Any
    trained: tuple[bool, ...]
    samplewise: bool
    elementwise: bool = False

    @property
    def tensors(self) -> tuple[TensorShape, ...]:
        """The shapes of the tensors that it makes; an input that it hands on is none."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorShape))

    def rebuild(self, tensors: list[torch.Tensor], inputs: list[torch.Tensor]) -> Any:
        """The output with `tensors` in it, of a call that took `inputs`; without gradients where it makes none."""
        grad_enabled = torch.is_grad_enabled()
        queue = list(tensors)
        leaves = []
        for leaf, trained in zip(self.leaves, self.trained, strict=True):
            if isinstance(leaf, TensorShape):
                tensor = queue.pop(0)
                leaves.append(tensor if trained and grad_enabled else tensor.detach())
            else:
                leaves.append(inputs[leaf.number] if isinstance(leaf, HandedOn) else leaf)
        return pytree.tree_unflatten(leaves, self.structure)


def output_shape(
    path: str, module: nn.Module, call: CallShape, fake: Callable[..., Any] | None = None, function: bool = False
) -> OutputShape:
    """What `module` returns when it is called so, at any batch size.

    Args:
        path: the module's name, for messages.
        module: is not changed; its tensors may be on `meta`.
        call: how it is called.
        fake: takes the module's place; given tensors on `meta`, it returns such tensors.
        function: it is an autograd function, which may return views and may be elementwise.

    Raises:
        CaptureError: it cannot be run, its output's shape depends on more than the batch size, it changes what it is
            given or remembers earlier calls, or its backward is not linear in the gradient of its output.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [tensor.random(BATCH_SIZE, generator) for tensor in call.tensors]
    halves = [[_half(x, like, second) for x, like in zip(inputs, call.tensors, strict=True)] for second in (0, 1)]
    redrawn = [[tensor.random(BATCH_SIZE // 2, generator) for tensor in call.tensors] for _ in range(REDRAWN)]
    _check_size(path, module, fake)
    try:
        if fake is None:
            run = TrialRun(module, call, function)
            whole, first, second = (run(own, DIRECTIONS) for own in (inputs, *halves))
            others, again = [second, *map(run, redrawn)], run(inputs)
        else:
            run_fake = faked(fake, call)
            whole, first, second = (run_fake(own) for own in (inputs, *halves))
            others, again = [second], whole
    except Exception as error:
        raise not_kept(
            path,
            f"its output's shape is not known, as on random inputs a copy of it raised "
            f"{type(error).__name__}: {error}. {_hint(path)}",
        ) from error
    leaves = _shapes(path, whole, first, others)
    apart = elementwise = False
    if fake is None:
        _check_runs(path, leaves, whole, again)
        apart = _apart(leaves, whole, first, second) and _gradients_apart(call, module, whole, first, second)
        elementwise = function and apart and _elementwise(run, inputs, whole)
    return OutputShape(leaves, whole.structure, whole.trained, apart, elementwise)


def _check_size(path: str, module: nn.Module, fake: Callable[..., Any] | None) -> None:
    tensors = [*module.parameters(), *module.buffers()]
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if fake is None and size_bytes > MOST_BYTES:
        raise not_kept(
            path,
            f"it has {size_bytes / 2**30:.1f} GiB of weights, too much to run a copy of it only to see the shape "
            f"of its output. {_hint(path)}",
        )


def _shapes(path: str, whole: Ran, first: Ran, others: list[Ran]) -> tuple[Any, ...]:
    leaves: list[Any] = []
    for large, small, *same in zip(whole.leaves, first.leaves, *(other.leaves for other in others), strict=True):
        if len({type(leaf) for leaf in (large, small, *same)}) > 1:
            raise not_kept(
                path,
                "it returns an input for some values and something else for others. Keep a larger module whole, which "
                "does not",
            )
        if not isinstance(large, torch.Tensor):
            leaves.append(large)
        elif any(other.shape != small.shape for other in same):
            shapes = " and ".join(sorted({str(tuple(tensor.shape)) for tensor in (small, *same)}))
            raise not_kept(
                path,
                f"the shape of its output depends on the values of its inputs "
                f"({shapes} for {BATCH_SIZE // 2} samples). Keep a larger module whole, whose output has a shape that "
                "the batch size decides",
            )
        else:
            shape = tuple(_size(path, a, b) for a, b in zip(large.shape, small.shape, strict=True))
            leaves.append(TensorShape(shape, large.dtype))
    return tuple(leaves)


def _check_runs(path: str, leaves: tuple[Any, ...], whole: Ran, again: Ran) -> None:
    for leaf, before, after in zip(leaves, whole.leaves, again.leaves, strict=True):
        if not (_close(before, after) if isinstance(leaf, TensorShape) else before == after):
            raise not_kept(
                path,
                "called again with the same inputs it returns something else. A module "
                "that remembers earlier calls would compute otherwise with another number of micro-batches",
            )
    *parts, summed = whole.gradients or ((),)
    largest = _largest(*summed)
    for own, *others in zip(summed, *parts, strict=True):
        if own is not None and not _close(own, sum(others[1:], others[0]), largest):
            raise not_kept(
                path,
                "its backward is not linear in the gradient of its output, as clipping "
                "is. It would train otherwise with another number of micro-batches",
            )


def _apart(leaves: tuple[Any, ...], whole: Ran, first: Ran, second: Ran) -> bool:
    return all(
        _agree(leaf.shape, a, b, c) if isinstance(leaf, TensorShape) else a == b == c
        for leaf, a, b, c in zip(leaves, whole.leaves, first.leaves, second.leaves, strict=True)
    )


def _gradients_apart(call: CallShape, module: nn.Module, whole: Ran, first: Ran, second: Ran) -> bool:
    """Whether the gradients of the halves are those of the whole: of each sample its own, and of weights their sum."""
    shapes = [tensor.shape for tensor in call.tensors if tensor.is_trained]
    shapes += [tuple(weight.shape) for weight in module.parameters() if weight.requires_grad]
    for gradients in zip(whole.gradients, first.gradients, second.gradients, strict=True):
        largest = _largest(*gradients[0])
        for shape, a, b, c in zip(shapes, *gradients, strict=True):
            if a is None or b is None or c is None:
                if not (a is b is c):
                    return False
            elif not (_agree(shape, a, b, c, largest) if _batched(shape) else _close(b + c, a, largest)):
                return False
    return True


def _elementwise(run: TrialRun, inputs: list[torch.Tensor], whole: Ran) -> bool:
    """Whether all tensors have one shape, and along each of its dims pieces by themselves give pieces of the whole."""
    shapes = {leaf.shape if isinstance(leaf, torch.Tensor) else None for leaf in (*inputs, *whole.leaves)}
    (shape, *others) = shapes
    if shape is None or others:
        return False
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        cut = size // 2
        pieces = [[x.narrow(dim, *piece) for x in inputs] for piece in ((0, cut), (cut, size - cut))]
        try:
            first, second = (run(own, DIRECTIONS) for own in pieces)
        except Exception:
            return False  # it expects this size
        rows = [whole.leaves, *whole.gradients], [first.leaves, *first.gradients], [second.leaves, *second.gradients]
        for own, a, b in (item for row in zip(*rows, strict=True) for item in zip(*row, strict=True)):
            if not all(isinstance(tensor, torch.Tensor) for tensor in (own, a, b)):
                if not (own is a is b):
                    return False
            elif not _close(torch.cat([a, b], dim=dim), own, _largest(own)):
                return False
    return True


def _half(tensor: torch.Tensor, like: TensorShape, second: int) -> torch.Tensor:
    for dim in _batched(like.shape):
        rows = tensor.shape[dim] // 2
        return tensor.narrow(dim, second * rows, rows)
    return tensor


def _batched(shape: tuple[Size, ...]) -> list[int]:
    """The dims that hold the batch."""
    return [dim for dim, size in enumerate(shape) if not isinstance(size, int)]


def _size(path: str, large: int, small: int) -> Size:
    """The size in the batch symbol, of what it is for a whole batch and for half of one."""
    if large == small:
        return large
    slope, rest = divmod(large - small, BATCH_SIZE // 2)
    if rest or large != slope * BATCH_SIZE:
        raise not_kept(
            path,
            f"a size of its output is {large} for {BATCH_SIZE} samples and {small} for "
            f"{BATCH_SIZE // 2}, which is not a multiple of the batch size. Keep a larger module whole",
        )
    return slope * BATCH


def _agree(
    shape: tuple[Size, ...],
    whole: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    largest: float | None = None,
) -> bool:
    """Whether the halves of the batch, each by itself, give the halves of the whole one's output."""
    dims = _batched(shape)
    return len(dims) == 1 and _close(torch.cat([first, second], dim=dims[0]), whole, largest)


def _close(found: torch.Tensor, expected: torch.Tensor, largest: float | None = None) -> bool:
    """Whether they agree but for rounding, against the `largest` number there is: by default, of those expected."""
    if not (expected.is_floating_point() or expected.is_complex()):
        return torch.equal(found, expected)
    # Half the digits: of float32, in which many models compute norms and softmax whatever their dtype.
    near = max(torch.finfo(expected.dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    scale = _largest(expected) if largest is None else largest
    return torch.allclose(found, expected, rtol=near, atol=near * scale, equal_nan=True)


def _largest(*tensors: torch.Tensor | None) -> float:
    sizes = (tensor.abs().nan_to_num(0.0, 0.0) for tensor in tensors if tensor is not None and tensor.numel())
    return max((float(size.max()) for size in sizes), default=0.0)


def _hint(path: str) -> str:
    return (
        "Pass a function that takes the same arguments, on meta, and returns outputs of the right shape: "
        f'keep_whole={{"{path}": function}}'
    )
