"""Translate the nodes of an exported program into the nodes of a Graph."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._sympy.functions import (
    FloatPow,
    FloatTrueDiv,
    FloorDiv,
    IntTrueDiv,
    Mod,
    OpaqueUnaryFn_sqrt,
    PowByNatural,
    PythonMod,
    ToFloat,
)
from torch.utils._sympy.symbol import SymT, symbol_is_type

from autopart.capture.expand import TracedLayer, expand
from autopart.capture.layer_ops import NAMESPACE
from autopart.capture.node_source import is_full, location, scope
from autopart.capture.regions import WRAPPERS
from autopart.capture.same_tensor import passed_through
from autopart.errors import UnsupportedError
from autopart.ir.graph import Arg, Literal, Node, Ref, Value, references
from autopart.ir.kept import KEPT
from autopart.ir.size import BATCH, Size

# Calls that check or hint, and compute nothing.
CHECKS = (
    "_assert_tensor_metadata",
    "_assert_scalar",
    "_assert_async",
    "sym_constrain_range",
    "sym_constrain_range_for_size",
)


# What torch's symbols of numbers have of their own, in plain arithmetic.
PLAIN: dict[Any, Callable[..., Any]] = {
    FloatTrueDiv: lambda a, b: a / b,
    IntTrueDiv: lambda a, b: a / b,
    FloatPow: lambda a, b: a**b,
    PowByNatural: lambda a, b: a**b,
    Mod: lambda a, b: a - b * FloorDiv(a, b),
    PythonMod: lambda a, b: a - b * FloorDiv(a, b),
    OpaqueUnaryFn_sqrt: lambda a: a**0.5,
}


class Translator:
    """Collects `nodes`; sizes become integers or expressions in the batch symbol, mode regions are inlined."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.outputs: tuple[str, ...] = ()
        self._env: dict[torch.fx.Node, Any] = {}
        self._grad: dict[str, Value] = {}  # the values that have gradients
        self._names: set[str] = set()
        self._layers: dict[tuple[str, ...], TracedLayer] = {}  # by the names of their results
        self._starts: dict[torch.fx.Node, int] = {}
        self._copies = 0
        self._hidden: dict[str, str] = {}  # from the model's names of hidden tensors to those of their values

    def placeholder(self, node: torch.fx.Node, name: str, parameter: bool = False) -> Value:
        """The value of an input, a parameter or a constant of the program."""
        tensor = node.meta["val"]
        # Only parameters are trained. On meta, export also says so of an input that an operator broadcasts.
        value = self._value(name, tensor, requires_grad=parameter and bool(tensor.requires_grad))
        self._env[node] = Ref(value.name)
        return value

    def hidden(self, target: str, name: str, tensor: torch.Tensor, parameter: bool = False) -> Value:
        """The same of a tensor of a hidden layer, of which the program has no placeholder."""
        value = self._value(name, tensor, requires_grad=parameter and tensor.requires_grad)
        self._hidden[target] = value.name
        return value

    def body(self, module: torch.fx.GraphModule) -> None:
        """Translate the program; its placeholders have been given."""
        self.outputs = tuple(ref.name for ref in self._walk(module, grad_enabled=True))

    def _walk(self, module: torch.fx.GraphModule, grad_enabled: bool) -> tuple[Ref, ...]:
        for node in module.graph.nodes:
            if node.op == "call_function":
                self._call(module, node, grad_enabled)
            elif node.op == "get_attr":
                self._env[node] = getattr(module, node.target)
            elif node.op == "output":
                return tuple(self._env[item] for item in _nodes(node.args))
        return ()

    def _call(self, module: torch.fx.GraphModule, node: torch.fx.Node, grad_enabled: bool) -> None:
        target, result = node.target, node.meta.get("val")
        name = getattr(target, "__name__", str(target))
        if name.split(".")[0] in CHECKS:
            return
        if name == "getitem":
            source, index = node.args
            self._env[node] = self._env[source][index]  # type: ignore[index]
            return
        if name in WRAPPERS:
            self._inline(
                node,
                WRAPPERS[name],
                grad_enabled and not (name == "wrap_with_set_grad_enabled" and node.args[0] is False),
            )
            return
        if str(target) == KEPT:
            self._emit(node, result, grad_enabled, node.args[:6])  # the others are the shapes, which the outputs have
            return
        if getattr(target, "namespace", "") == NAMESPACE:
            self._mark(node, name.split(".")[0])
            return
        if isinstance(result, torch.SymInt | int | torch.SymFloat | float | torch.SymBool | bool):
            self._env[node] = _scalar(result, node)
            return
        self._emit(node, result, grad_enabled)

    def _inline(self, node: torch.fx.Node, position: int, grad_enabled: bool) -> None:
        submodule = self._env[node.args[position]]  # type: ignore[index]
        arguments = node.args[position + 1 :]
        inner = [item for item in submodule.graph.nodes if item.op == "placeholder"]
        outer = dict(zip(inner, arguments, strict=True))
        for placeholder, argument in outer.items():
            self._env[placeholder] = self._env[argument]
        results = self._walk(submodule, grad_enabled)
        passed = [passed_through(item, outer) for item in _nodes(submodule.graph.output_node().args)]
        self._env[node] = tuple(
            self._env[item] if item in arguments else own for own, item in zip(results, passed, strict=True)
        )

    def _mark(self, node: torch.fx.Node, name: str) -> None:
        """A mark of `trace_once`: a layer begins, ends, or is repeated."""
        if name == "enter_layer":
            self._starts[node] = len(self.nodes)
        elif name == "take_tensor":
            self._env[node] = self._arg(node.args[0])
        elif name == "leave_layer":
            start = self._starts[node.args[0]]  # type: ignore[index]
            outside, results, path = (self._arg(arg) for arg in node.args[1:])
            layer = TracedLayer(tuple(self.nodes[start:]), _names(outside), str(path), location(node))
            self._layers[_names(results)] = layer
            self._env[node] = results
        else:
            first, outside, weights, path = (self._arg(arg) for arg in node.args)
            seen = iter(_names(outside))
            taken = tuple(self._hidden[name] if name else next(seen) for name in str(weights).split("\n"))
            self._copies += 1
            nodes, renamed = expand(self._layers[_names(first)], taken, str(path), location(node), self._copies)
            self.nodes += nodes
            self._grad.update((value.name, value) for copy in nodes for value in copy.outputs if value.requires_grad)
            self._env[node] = tuple(Ref(renamed[result]) for result in _names(first))

    def _emit(self, node: torch.fx.Node, result: Any, grad_enabled: bool, given: tuple[Any, ...] | None = None) -> None:
        args = tuple(self._arg(arg) for arg in (node.args if given is None else given))
        kwargs = tuple((key, self._arg(arg)) for key, arg in node.kwargs.items())
        if not grad_enabled:
            # A module kept whole takes its weights by itself, and what it gives is detached.
            own = 1 if str(node.target) == KEPT else None
            args = tuple(arg if index == own else self._without_gradient(arg, node) for index, arg in enumerate(args))
            kwargs = tuple((key, self._without_gradient(arg, node)) for key, arg in kwargs)
        results = result if isinstance(result, tuple | list) else (result,)
        draft = Node(node.name, "", args, kwargs, ())
        differentiable = grad_enabled and any(name in self._grad for name in draft.inputs) and "detach" not in node.name
        outputs = []
        for index, tensor in enumerate(results):
            if not isinstance(tensor, torch.Tensor):
                continue
            label = node.name if len(results) == 1 else f"{node.name}_{index}"
            floating = tensor.dtype.is_floating_point or tensor.dtype.is_complex
            outputs.append(self._value(label, tensor, requires_grad=differentiable and floating))
        refs = tuple(Ref(value.name) for value in outputs)
        self._env[node] = refs if isinstance(result, tuple | list) else refs[0]
        where = scope(node), location(node), is_full(node)
        made = Node(node.name, str(node.target), args, kwargs, tuple(outputs), *where)
        self.nodes.append(made)

    def _without_gradient(self, arg: Arg, node: torch.fx.Node) -> Arg:
        """`arg` with its tensors detached: the graph has no regions without gradients, as `torch.no_grad` makes."""
        if isinstance(arg, tuple):
            return tuple(self._without_gradient(item, node) for item in arg)
        if not isinstance(arg, Ref) or arg.name not in self._grad:
            return arg
        value = replace(self._grad[arg.name], name=self._unique(f"{arg.name}_detached"), requires_grad=False)
        made = Node(value.name, "aten.detach.default", (arg,), (), (value,), scope(node), location(node))
        self.nodes.append(made)
        return Ref(value.name)

    def _value(self, name: str, tensor: torch.Tensor, requires_grad: bool) -> Value:
        shape = tuple(to_size(size) for size in tensor.shape)
        value = Value(self._unique(name), shape, str(tensor.dtype).removeprefix("torch."), requires_grad)
        if requires_grad:
            self._grad[value.name] = value
        return value

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}_v{number}"
        self._names.add(unique)
        return unique

    def _arg(self, arg: Any) -> Arg:
        if isinstance(arg, torch.fx.Node):
            if isinstance(self._env[arg], ReadNumberError):
                raise self._env[arg]
            known: Arg = self._env[arg]
            return known
        if isinstance(arg, tuple | list):
            return tuple(self._arg(item) for item in arg)
        if isinstance(arg, torch.SymInt):
            return to_size(arg)
        for kind, cls in (
            ("dtype", torch.dtype),
            ("device", torch.device),
            ("layout", torch.layout),
            ("memory_format", torch.memory_format),
        ):
            if isinstance(arg, cls):
                return Literal(kind, "device" if kind == "device" else str(arg))
        if arg is None or isinstance(arg, bool | int | float | str):
            return arg
        raise UnsupportedError(f"an argument of type {type(arg).__name__} in the graph is not supported")


def to_size(size: int | torch.SymInt | torch.SymFloat) -> Size:
    """A size of a captured tensor, in the batch symbol; also where it was made a float."""
    if isinstance(size, int):
        return size
    if free_unbacked_symbols(size):
        raise ReadNumberError(f"a size of the graph ({size}) is read from the values of a tensor, as tolist does")
    expression = sympy.sympify(size.node.expr).replace(ToFloat, lambda inner: inner)
    for kind, plain in PLAIN.items():
        expression = expression.replace(kind, plain)
    expression = expression.xreplace(dict.fromkeys(expression.free_symbols, BATCH))
    return int(expression) if expression.is_Integer else expression


class ReadNumberError(Exception):
    """A number read from a tensor enters the graph."""


def _scalar(result: Any, node: torch.fx.Node) -> "Arg | ReadNumberError":
    """A number of the graph; one that is read from a tensor is an error for whoever uses it, unlike a mere check."""
    if isinstance(result, torch.SymInt | torch.SymFloat) and _of_sizes(result):
        return to_size(result)
    if isinstance(result, bool | int | float):
        return result
    return ReadNumberError(f"{location(node)}: {result}")


def _of_sizes(number: torch.SymInt | torch.SymFloat) -> bool:
    """Whether only sizes decide `number`, and no element of a tensor."""
    return all(symbol_is_type(symbol, SymT.SIZE) for symbol in number.node.expr.free_symbols)


def _names(args: Arg) -> tuple[str, ...]:
    """The names of the values in `args`."""
    return tuple(references((args,)))


def _nodes(argument: Any) -> Iterator[torch.fx.Node]:
    """The nodes in nested tuples, in order."""
    if isinstance(argument, torch.fx.Node):
        yield argument
    elif isinstance(argument, tuple | list):
        for item in argument:
            yield from _nodes(item)
