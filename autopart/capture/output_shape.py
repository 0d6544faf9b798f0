"""OutputShape: what a module that cannot be traced returns, found by running a copy of it on random numbers."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopart.capture.call_shape import CallShape, TensorShape
from autopart.errors import CaptureError
from autopart.ir.size import BATCH, Size

BATCH_SIZE = 8
REDRAWN = 2  # further halves, with numbers of their own: their outputs must have the same shape
MOST_BYTES = 4 * 2**30  # of weights: what may be copied for a trial
DEVIATION = 0.02  # of the random weights of a model on `meta`


@dataclass(frozen=True)
class OutputShape:
    """The leaves of an output, tensors as their shapes, how to put them together, and whether samples stay apart."""

    leaves: tuple[Any, ...]
    structure: Any
    samplewise: bool

    @property
    def tensors(self) -> tuple[TensorShape, ...]:
        """The shapes of the tensors."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorShape))

    def rebuild(self, tensors: list[torch.Tensor]) -> Any:
        """The output with `tensors` in it."""
        queue = list(tensors)
        leaves = [queue.pop(0) if isinstance(leaf, TensorShape) else leaf for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.structure)


def output_shape(path: str, module: nn.Module, call: CallShape, fake: Callable[..., Any] | None = None) -> OutputShape:
    """What `module` returns when it is called so, at any batch size.

    Args:
        path: the module's name, for messages.
        module: is not changed; its tensors may be on `meta`.
        call: how it is called.
        fake: takes the module's place; given tensors on `meta`, it returns such tensors.

    Raises:
        CaptureError: it cannot be run, or its output's shape depends on more than the batch size.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [tensor.random(BATCH_SIZE, generator) for tensor in call.tensors]
    halves = [[_half(x, like, second) for x, like in zip(inputs, call.tensors, strict=True)] for second in (0, 1)]
    redrawn = [[tensor.random(BATCH_SIZE // 2, generator) for tensor in call.tensors] for _ in range(REDRAWN)]
    run = _runner(path, module, call) if fake is None else _faked(fake, call)
    try:
        with torch.no_grad():
            whole, first, second = (pytree.tree_flatten(run(own)) for own in (inputs, *halves))
            others = [second[0], *(pytree.tree_leaves(run(own)) for own in redrawn)]
    except Exception as error:
        raise CaptureError(
            f"{path} cannot be kept whole: its output's shape is not known, as on random inputs a copy of it raised "
            f"{type(error).__name__}: {error}. {_hint(path)}"
        ) from error
    leaves = []
    for large, small, *same in zip(whole[0], first[0], *others, strict=True):
        if not isinstance(large, torch.Tensor):
            leaves.append(large)
        elif any(other.shape != small.shape for other in same):
            shapes = " and ".join(sorted({str(tuple(tensor.shape)) for tensor in (small, *same)}))
            raise CaptureError(
                f"{path} cannot be kept whole: the shape of its output depends on the values of its inputs "
                f"({shapes} for {BATCH_SIZE // 2} samples). Keep a larger module whole, whose output has a shape that "
                "the batch size decides"
            )
        else:
            shape = tuple(_size(path, a, b) for a, b in zip(large.shape, small.shape, strict=True))
            leaves.append(TensorShape(shape, large.dtype))
    apart = fake is None and all(
        _agree(leaf.shape, a, b, c)
        for leaf, a, b, c in zip(leaves, whole[0], first[0], second[0], strict=True)
        if isinstance(leaf, TensorShape)
    )
    return OutputShape(tuple(leaves), whole[1], apart)


def _runner(path: str, module: nn.Module, call: CallShape) -> Callable[[list[torch.Tensor]], Any]:
    tensors = [*module.parameters(), *module.buffers()]
    size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if size_bytes > MOST_BYTES:
        raise CaptureError(
            f"{path} has {size_bytes / 2**30:.1f} GiB of weights, too much to run a copy of it only to see the shape "
            f"of its output. {_hint(path)}"
        )
    own = copy.deepcopy(module)
    if any(tensor.is_meta for tensor in tensors):
        own = own.to_empty(device="cpu")
        for tensor in (*own.parameters(), *own.buffers()):
            with torch.no_grad():
                _ = tensor.normal_(0, DEVIATION) if tensor.is_floating_point() else tensor.zero_()
    own = own.cpu()
    for inner in own.modules():
        if isinstance(inner, nn.modules.dropout._DropoutNd):
            inner.p = 0.0
    buffers = dict(own.named_buffers())
    versions = {name: buffer._version for name, buffer in buffers.items()}

    def run(inputs: list[torch.Tensor]) -> Any:
        args, kwargs = _arguments(call.text, inputs)
        output = own(*args, **kwargs)
        for name, buffer in own.named_buffers():
            if buffer is not buffers.get(name) or buffer._version != versions[name]:
                raise ValueError(f"its forward changes its buffer {name}, which is not supported")
        return output

    return run


def _faked(fake: Callable[..., Any], call: CallShape) -> Callable[[list[torch.Tensor]], Any]:
    def run(inputs: list[torch.Tensor]) -> Any:
        args, kwargs = _arguments(call.text, [tensor.to("meta") for tensor in inputs])
        return fake(*args, **kwargs)

    return run


def _arguments(text: str, tensors: list[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that `text`, which call_parts wrote, stands for."""
    names = [f"tensor{number}" for number in range(len(tensors))]
    known = {**dict(zip(names, tensors, strict=True)), "torch": torch}
    # Python reads its own notation: the text holds nothing but the repr of plain values, and the names above.
    taken: tuple[tuple[Any, ...], dict[str, Any]] = eval(
        f"(lambda *args, **kwargs: (args, kwargs))({text.format(*names)})", known
    )
    return taken


def _half(tensor: torch.Tensor, like: TensorShape, second: int) -> torch.Tensor:
    for dim, size in enumerate(like.shape):
        if not isinstance(size, int):
            rows = tensor.shape[dim] // 2
            return tensor.narrow(dim, second * rows, rows)
    return tensor


def _size(path: str, large: int, small: int) -> Size:
    """The size in the batch symbol, of what it is for a whole batch and for half of one."""
    if large == small:
        return large
    slope, rest = divmod(large - small, BATCH_SIZE // 2)
    if rest or large != slope * BATCH_SIZE:
        raise CaptureError(
            f"{path} cannot be kept whole: a size of its output is {large} for {BATCH_SIZE} samples and {small} for "
            f"{BATCH_SIZE // 2}, which is no multiple of the batch size. Keep a larger module whole"
        )
    return slope * BATCH


def _agree(shape: tuple[Size, ...], whole: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether the halves of the batch, each by itself, give the halves of the whole one's output."""
    dims = [dim for dim, size in enumerate(shape) if not isinstance(size, int)]
    if len(dims) != 1:
        return False
    joined = torch.cat([first, second], dim=dims[0])
    if not whole.is_floating_point():
        return torch.equal(joined, whole)
    close = torch.finfo(whole.dtype).eps ** 0.5
    largest = float(whole.abs().nan_to_num(0.0, 0.0).max()) if whole.numel() else 0.0
    return torch.allclose(joined, whole, rtol=close, atol=close * largest, equal_nan=True)


def _hint(path: str) -> str:
    return (
        "Pass a function that takes the same arguments, on meta, and returns outputs of the right shape: "
        f'keep_whole={{"{path}": function}}'
    )
