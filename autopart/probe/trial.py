"""Trial: one example call of an op on several draws of data, checked to be one that letters can be found for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autopart.errors import RuleError
from autopart.ir.graph import Node, Value
from autopart.probe.prove import backward, differentiable
from autopart.probe.traced import Traced, apply, single

DRAWS = 3
MOST_TRIES = 10
TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 3e-2, torch.float32: 1e-5}


@dataclass(frozen=True)
class Trial:
    """One example call.

    Attributes:
        draws: the call on the example's own data, and on data drawn anew where the op takes it.
        slots: for every tensor, the name of its argument, "weight", or "tensors[1]" in a list.
        tolerance: to which values and gradients must agree.
        differentiable: whether gradients can be compared.
    """

    draws: tuple[Traced, ...]
    slots: tuple[str, ...]
    tolerance: float
    differentiable: bool

    @property
    def node(self) -> Node:
        """The call, of which all draws have the same shapes."""
        return self.draws[0].graph.nodes[0]

    @property
    def tensors(self) -> tuple[Value, ...]:
        """The inputs, then the outputs."""
        return (*(self.draws[0].graph.values[name] for name in self.node.inputs), *self.node.outputs)


def trial(op: Any, example: Sequence[Any]) -> Trial:
    """Run `op` on an example and see what it is.

    Args:
        op: a torch operator overload.
        example: its arguments; a mapping at the end holds keyword arguments.

    Raises:
        RuleError: the call fails, has no tensors, draws random numbers or changes its arguments.
    """
    args, kwargs, slots = _arguments(op, example)
    given = list(_tensors((args, kwargs)))
    if not given:
        raise RuleError(f"{op} was given no tensor: a rule is about dims of tensors, pass some")
    name = str(op)
    first = _calm(name, args, kwargs)
    for dtype in (torch.float64, torch.float32):
        cast = [x.detach().to(dtype) if x.is_floating_point() else x for x in given]
        wider = _call(name, args, kwargs, cast)
        if wider is not None:
            first = wider
            break
    draws = (first, *_redrawn(name, args, kwargs, first))
    precise = [value for value in first.values.values() if value.is_floating_point()]
    tolerance = max([TOLERANCE.get(value.dtype, 1e-10) for value in precise], default=1e-10)
    if any(map(_rounds, draws)):
        tolerance = max(tolerance, TOLERANCE[torch.float32])
    learns = any(value.requires_grad for value in first.graph.values.values()) and _has_gradients(first)
    if not learns:
        constant = [[x.detach() for x in _inputs(draw)] for draw in draws]
        draws = tuple(_single(name, args, kwargs, values, gradients=False) for values in constant)
    return Trial(draws, slots, tolerance, learns)


def _arguments(op: Any, example: Sequence[Any]) -> tuple[list[Any], dict[str, Any], tuple[str, ...]]:
    """The arguments as `torch.export` writes them: by position, but for those that the op takes by name only."""
    kwargs = dict(example[-1]) if example and isinstance(example[-1], Mapping) else {}
    args = list(example[:-1] if example and isinstance(example[-1], Mapping) else example)
    parameters = op._schema.arguments
    for parameter in parameters[len(args) :]:
        if parameter.kwarg_only or not any(p.name in kwargs for p in parameters[len(args) :] if not p.kwarg_only):
            break
        args.append(kwargs.pop(parameter.name) if parameter.name in kwargs else parameter.default_value)
    if len(args) > len(parameters):
        raise RuleError(f"{op} takes {len(parameters)} arguments, the example has {len(args)}")
    order = {parameter.name: place for place, parameter in enumerate(parameters)}
    kwargs = dict(sorted(kwargs.items(), key=lambda item: order.get(item[0], len(order))))
    named = [(parameters[place].name, item) for place, item in enumerate(args)] + list(kwargs.items())
    return args, kwargs, tuple(slot for name, item in named for slot in _slots(name, item))


def _slots(name: str, item: Any) -> Iterator[str]:
    if isinstance(item, torch.Tensor):
        yield name
    elif isinstance(item, tuple | list):
        yield from (f"{name}[{place}]" for place, inner in enumerate(item) if isinstance(inner, torch.Tensor))


def _tensors(item: Any) -> Iterator[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, Mapping):
        yield from _tensors(list(item.values()))
    elif isinstance(item, tuple | list):
        for inner in item:
            yield from _tensors(inner)


def _put(item: Any, queue: Iterator[torch.Tensor]) -> Any:
    """`item` with its tensors taken from `queue`."""
    if isinstance(item, torch.Tensor):
        return next(queue)
    if isinstance(item, Mapping):
        return {key: _put(inner, queue) for key, inner in item.items()}
    return [_put(inner, queue) for inner in item] if isinstance(item, tuple | list) else item


def _single(name: str, args: Any, kwargs: Any, values: Sequence[torch.Tensor], gradients: bool = True) -> Traced:
    queue = iter([x.clone().requires_grad_(gradients and _continuous(x)) for x in values])
    return single(name, *_put(args, queue), **_put(kwargs, queue))


def _call(name: str, args: Any, kwargs: Any, values: Sequence[torch.Tensor]) -> Traced | None:
    """The call on other tensors, or None where the op does not take them."""
    try:
        return _single(name, args, kwargs, values)
    except Exception:  # what another's op raises may be anything
        return None


def _calm(name: str, args: Any, kwargs: Any) -> Traced:
    """The call as given; an error where it is random, or changes what it is given."""
    given = [x.detach() for x in _tensors((args, kwargs))]
    devices = list({x.device for x in given if x.is_cuda})
    with torch.random.fork_rng(devices=devices):
        before = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
        try:
            first = _single(name, args, kwargs, given)
        except Exception as error:
            raise RuleError(f"{name} fails on the example: {type(error).__name__}: {error}") from error
        after = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
        second = _single(name, args, kwargs, given)
    if not all(map(torch.equal, before, after)) or not _alike(first, second):
        raise RuleError(
            f"{name} draws random numbers: two runs cannot be compared. Write its rule by hand, as a function that "
            "returns Rule(..., random=True), or keep the op whole"
        )
    if not all(torch.equal(own.nan_to_num(), x.nan_to_num()) for own, x in zip(_inputs(first), given, strict=True)):
        raise RuleError(f"{name} changes its arguments: capture takes functional ops only; have it return new tensors")
    return first


def _alike(first: Traced, second: Traced) -> bool:
    outputs = [(first.values[value.name], second.values[value.name]) for value in first.graph.nodes[0].outputs]
    return all(a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-3, equal_nan=True) for a, b in outputs)


def _inputs(traced: Traced) -> list[torch.Tensor]:
    return [traced.values[name] for name in traced.graph.nodes[0].inputs]


def _redrawn(name: str, args: Any, kwargs: Any, first: Traced) -> list[Traced]:
    """The call on data drawn anew, as often as the op takes it without an error and without new NaNs."""
    found: list[Traced] = []
    generator = torch.Generator().manual_seed(0)
    spoiled = _spoiled(first)
    for _ in range(MOST_TRIES):
        drawn = _call(name, args, kwargs, [redraw(x, generator) for x in _inputs(first)])
        same = drawn is not None and [y.shape for y in drawn.graph.nodes[0].outputs] == [
            y.shape for y in first.graph.nodes[0].outputs
        ]
        if drawn is not None and same and (spoiled or not _spoiled(drawn)):
            found.append(drawn)
        if len(found) == DRAWS - 1:
            break
    return found


def _spoiled(traced: Traced) -> bool:
    outputs = (traced.values[value.name] for value in traced.graph.nodes[0].outputs)
    return any(bool(y.isnan().any()) for y in outputs if _continuous(y))


def redraw(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Other data of the same kind: numbers between the least and the largest, integers of those that occur."""
    shape = x.shape
    if x.dtype is torch.bool:
        return (torch.rand(shape, generator=generator) < 0.5).to(x.device)
    if x.numel() == 0:
        return x.clone()
    if not x.is_floating_point() or not bool(x.isfinite().all()):
        return x.flatten()[torch.randint(x.numel(), shape, generator=generator).to(x.device)]
    low, high = float(x.min()), float(x.max())
    if low == high:
        low, high = (low - 0.5, low + 0.5) if low == 0 else (low * 0.5, low * 1.5)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low).to(x)


def _continuous(x: torch.Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _rounds(traced: Traced) -> bool:
    """Whether the op computes in float32 inside: some input matters, but not what float32 cannot tell apart in it."""
    node, inputs = traced.graph.nodes[0], _inputs(traced)
    expected = [traced.values[value.name] for value in node.outputs]
    generator = torch.Generator().manual_seed(1)

    def same(place: int, other: torch.Tensor) -> bool:
        try:
            found = apply(node, [other if i == place else own for i, own in enumerate(inputs)])
        except Exception:  # what another's op raises may be anything
            return False
        return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(found, expected, strict=True))

    return any(
        x.dtype is torch.float64
        and not torch.equal(x.float().double(), x)
        and same(place, x.float().double())
        and not same(place, redraw(x, generator))
        for place, x in enumerate(inputs)
    )


def _has_gradients(traced: Traced) -> bool:
    node = traced.graph.nodes[0]
    inputs = [x.detach().requires_grad_(_continuous(x)) for x in _inputs(traced)]
    outputs = [y for y in apply(node, inputs) if differentiable(y)]
    try:
        backward(outputs, [x for x in inputs if x.requires_grad], [torch.ones_like(y) for y in outputs])
    except Exception:  # no formula, or one that fails: values alone can be compared
        return False
    return bool(outputs)
