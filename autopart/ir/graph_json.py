"""A graph as JSON values, and back: numbers and names, of which nothing is executed.

A size is a number, "b" for the batch, or a list of an operation and what it is of: ["*", 2, "b"]. An argument that is
a value of the graph is {"value": name}; torch constants are {kind: text}, sizes {"size": ...}, tuples lists.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import sympy

from autopart.errors import UnsupportedError
from autopart.ir.graph import Arg, Constant, Graph, Input, Literal, Node, Parameter, Ref, Region, Update, Value
from autopart.ir.size import BATCH, Size

_OPERATIONS: Mapping[str, Any] = {
    "+": sympy.Add,
    "*": sympy.Mul,
    "^": sympy.Pow,
    "mod": sympy.Mod,
    "floor": sympy.floor,
    "ceiling": sympy.ceiling,
    "max": sympy.Max,
    "min": sympy.Min,
}
_NAMES = {operation: name for name, operation in _OPERATIONS.items()}
_CONSTANTS = frozenset({"dtype", "device", "layout", "memory_format"})


def graph_to_json(graph: Graph) -> dict[str, Any]:
    """`graph` as JSON values.

    Raises:
        UnsupportedError: a size that is computed in a way for which there is no name.
    """
    return {
        "name": graph.name,
        "inputs": [[_value(item.value), item.path] for item in graph.inputs],
        "parameters": [[_value(item.value), item.target, list(item.aliases)] for item in graph.parameters],
        "constants": [[_value(item.value), item.target] for item in graph.constants],
        "nodes": [_node(node) for node in graph.nodes],
        "outputs": list(graph.outputs),
        "loss": graph.loss,
        "regions": [
            [own.start, own.length, own.count, [[name, *place] for name, place in own.carried]] for own in graph.regions
        ],
        "example_batch": graph.example_batch,
        "updates": [[update.constant, update.value] for update in graph.updates],
    }


def graph_from_json(data: Mapping[str, Any]) -> Graph:
    """The graph that `graph_to_json` gave.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the values are none of a graph.
    """
    return Graph(
        name=data["name"],
        inputs=tuple(Input(_read_value(value), path) for value, path in data["inputs"]),
        parameters=tuple(
            Parameter(_read_value(value), target, tuple(aliases)) for value, target, aliases in data["parameters"]
        ),
        constants=tuple(Constant(_read_value(value), target) for value, target in data["constants"]),
        nodes=tuple(
            Node(
                name,
                op,
                tuple(map(_read_arg, args)),
                tuple((key, _read_arg(arg)) for key, arg in kwargs),
                tuple(map(_read_value, outputs)),
                scope,
                location,
                *full,
            )
            for name, op, args, kwargs, outputs, scope, location, *full in data["nodes"]
        ),
        outputs=tuple(data["outputs"]),
        loss=data["loss"],
        regions=tuple(
            Region(start, length, count, tuple((name, (node, output)) for name, node, output in carried))
            for start, length, count, carried in data["regions"]
        ),
        example_batch=data["example_batch"],
        updates=tuple(Update(constant, value) for constant, value in data["updates"]),
    )


def _node(node: Node) -> list[Any]:
    kwargs = [[key, _arg(arg)] for key, arg in node.kwargs]
    outputs = [_value(value) for value in node.outputs]
    own = [node.name, node.op, [_arg(arg) for arg in node.args], kwargs, outputs, node.scope, node.location]
    return [*own, True] if node.full else own


def _value(value: Value) -> list[Any]:
    return [value.name, value.dtype, [_size(size) for size in value.shape], value.requires_grad]


def _read_value(data: list[Any]) -> Value:
    name, dtype, shape, requires_grad = data
    return Value(name, tuple(map(_read_size, shape)), dtype, requires_grad)


def _arg(arg: Arg) -> Any:
    if isinstance(arg, Ref):
        return {"value": arg.name}
    if isinstance(arg, Literal):
        return {arg.kind: arg.text}
    if isinstance(arg, tuple):
        return [_arg(item) for item in arg]
    return {"size": _size(arg)} if isinstance(arg, sympy.Basic) else arg


def _read_arg(data: Any) -> Arg:
    if isinstance(data, list):
        return tuple(map(_read_arg, data))
    if not isinstance(data, dict):
        return data  # a number, a text, true, false or null
    ((kind, own),) = data.items()
    if kind == "value":
        return Ref(own)
    if kind == "size":
        return _read_size(own)
    if kind not in _CONSTANTS:
        raise ValueError(f"{kind!r} is no kind of argument")
    return Literal(kind, own)


def _size(size: Size) -> Any:
    if isinstance(size, int) or size.is_Integer:
        return int(size)
    if size == BATCH:
        return "b"
    if size.is_Rational:
        return ["/", int(size.p), int(size.q)]
    if size.func not in _NAMES:
        raise UnsupportedError(f"a graph with the size {size} cannot be saved: {size.func} has no name in the file")
    return [_NAMES[size.func], *(_size(own) for own in size.args)]


def _read_size(data: Any) -> Size:
    if type(data) is int:
        return data
    if data == "b":
        return BATCH
    operation, *operands = data
    if operation == "/":
        return sympy.Rational(*Fraction(*operands).as_integer_ratio())
    return _OPERATIONS[operation](*map(_read_size, operands))
