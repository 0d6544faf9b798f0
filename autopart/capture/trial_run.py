"""TrialRun: run a copy of a module on random numbers, forward and backward, to see what it returns."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopart.capture.call_shape import CallShape

DEVIATION = 0.02  # of the random weights of a model on `meta`


@dataclass(frozen=True)
class Ran:
    """What a run gave.

    Attributes:
        leaves, structure: of the output; a tensor that is the input number i, handed on, is `HandedOn(i)`.
        trained: for each leaf, whether it is a tensor with a gradient.
        gradients: of the inputs, then of the weights, a row a direction; None where there is none.
    """

    leaves: list[Any]
    structure: Any
    trained: tuple[bool, ...]
    gradients: tuple[tuple[torch.Tensor | None, ...], ...]


@dataclass(frozen=True)
class HandedOn:
    """An output that is the very input of that number."""

    number: int


class TrialRun:
    """Runs a copy of `module`, called as `call` says; random numbers are the same each time, and dropout is off."""

    def __init__(self, module: nn.Module, call: CallShape, function: bool) -> None:
        """`function` says that `module` is an autograd function: torch forbids to change the views that it returns."""
        self._own, self._text, self._views = _copied(module), call.text, function
        self._weights = [weight for weight in self._own.parameters() if weight.requires_grad]

    def __call__(self, inputs: list[torch.Tensor], directions: int = 0) -> Ran:
        """Run it forward, and backward for as many random `directions` of the outputs' gradients, and for their sum.

        A sample of the batch has the same direction wherever it lies.

        Raises:
            ValueError: it changes what it is given, or its buffers, or returns a view of an input.
        """
        given = [x.detach().clone().requires_grad_(x.is_floating_point() or x.is_complex()) for x in inputs]
        passed = [x.clone() for x in given]  # a leaf could not be changed in place
        args, kwargs = arguments(self._text, passed)
        before = pytree.tree_flatten((args, kwargs))
        buffers = dict(self._own.named_buffers())
        versions = [tensor._version for tensor in (*passed, *buffers.values())]
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # the copy is on the CPU; those of other devices stay as they are
            leaves, structure = pytree.tree_flatten(self._own.forward(*args, **kwargs))
        after = pytree.tree_flatten((args, kwargs))
        if before[1] != after[1] or any(a is not b for a, b in zip(before[0], after[0], strict=True)):
            raise ValueError("its forward changes a list or dict that it is given, which is not supported")
        if [tensor._version for tensor in passed] != versions[: len(passed)]:
            raise ValueError("its forward changes its inputs in place, which is not supported")
        for (name, buffer), version in zip(buffers.items(), versions[len(passed) :], strict=True):
            if self._own.get_buffer(name) is not buffer or buffer._version != version:
                raise ValueError(f"its forward changes its buffer {name}, which is not supported")
        leaves = [self._handed_on(leaf, passed) for leaf in leaves]
        trained = tuple(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves)
        outputs = [leaf for leaf, has in zip(leaves, trained, strict=True) if has]
        gradients = self._gradients(outputs, given, directions) if outputs and directions else ()
        leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        return Ran(leaves, structure, trained, gradients)

    def _handed_on(self, leaf: Any, passed: list[torch.Tensor]) -> Any:
        for number, tensor in enumerate(passed):
            if leaf is tensor:
                return HandedOn(number)
            if not self._views and isinstance(leaf, torch.Tensor) and leaf.numel() and _same_memory(leaf, tensor):
                raise ValueError("it returns a view of its input, which is not supported")
        return leaf

    def _gradients(
        self, outputs: list[torch.Tensor], given: list[torch.Tensor], directions: int
    ) -> tuple[tuple[torch.Tensor | None, ...], ...]:
        wanted = [*(tensor for tensor in given if tensor.requires_grad), *self._weights]
        own = [[_direction(output, number) for output in outputs] for number in range(directions)]
        own.append([sum(parts[1:], parts[0]) for parts in zip(*own, strict=True)])
        return tuple(
            torch.autograd.grad(outputs, wanted, direction, retain_graph=True, allow_unused=True) for direction in own
        )


def arguments(text: str, tensors: list[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that `text`, which call_parts wrote, stands for."""
    names = [f"tensor{number}" for number in range(len(tensors))]
    known = {**dict(zip(names, tensors, strict=True)), "torch": torch}
    # Python reads its own notation: the text holds nothing but the repr of plain values, and the names above.
    taken: tuple[tuple[Any, ...], dict[str, Any]] = eval(
        f"(lambda *args, **kwargs: (args, kwargs))({text.format(*names)})", known
    )
    return taken


def faked(fake: Callable[..., Any], call: CallShape) -> Callable[[list[torch.Tensor]], Ran]:
    """The same for a function that takes and returns tensors on `meta`."""

    def run(inputs: list[torch.Tensor]) -> Ran:
        args, kwargs = arguments(call.text, [tensor.to("meta") for tensor in inputs])
        leaves, structure = pytree.tree_flatten(fake(*args, **kwargs))
        return Ran(leaves, structure, tuple(isinstance(leaf, torch.Tensor) for leaf in leaves), ())

    return run


def _copied(module: nn.Module) -> nn.Module:
    own = copy.deepcopy(module)
    tensors = [*own.parameters(), *own.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        generator = torch.Generator().manual_seed(0)
        own = own.to_empty(device="cpu")
        for tensor in (*own.parameters(), *own.buffers()):
            with torch.no_grad():
                drawn = tensor.is_floating_point()
                _ = tensor.normal_(0, DEVIATION, generator=generator) if drawn else tensor.zero_()
    for inner in own.modules():
        if isinstance(inner, nn.modules.dropout._DropoutNd):
            inner.p = 0.0
    return own.cpu()


def _same_memory(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def _direction(output: torch.Tensor, number: int) -> torch.Tensor:
    """Numbers that differ from element to element, and are a function of the element's value alone."""
    with torch.no_grad():
        return torch.sin(10.0 * (number + 1.0) * output.nan_to_num(0.0, 0.0, 0.0) + number + 1.0)
