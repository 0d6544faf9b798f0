"""Running statistics: a batch norm that updates them is one that does not, and the update written out."""

from dataclasses import replace
from math import prod

from autopart.ir.graph import Arg, Graph, Literal, Node, Ref, Value

FUNCTIONAL = "aten._native_batch_norm_legit_functional.default"


def without_running_statistics(graph: Graph) -> Graph:
    """`graph` with batch norms that give mean and inverse deviation, and new statistics as arithmetic on these.

    `running = lerp(running, of the batch, momentum)`, with the variance unbiased as `torch.nn.BatchNorm2d` keeps it.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += _written_out(node, graph) if node.op == FUNCTIONAL else [node]
    return replace(graph, nodes=tuple(nodes))


def _written_out(node: Node, graph: Graph) -> list[Node]:
    x, weight, bias, running_mean, running_variance, _, momentum, eps = node.args
    result, mean, deviation, new_mean, new_variance = node.outputs
    mean, deviation = replace(mean, requires_grad=False), replace(deviation, requires_grad=False)
    norm = replace(
        node,
        op="aten.native_batch_norm.default",
        args=(x, weight, bias, None, None, True, momentum, eps),
        outputs=(result, mean, deviation),
    )
    shape = graph.values[node.inputs[0]].shape
    count = prod(size for dim, size in enumerate(shape) if dim != 1)
    steps = [norm]

    def step(op: str, name: str, source: Value, *args: Arg, **kwargs: Arg) -> Value:
        value = replace(source, name=name, requires_grad=False)
        made = (Ref(source.name), *args)
        steps.append(replace(node, name=name, op=op, args=made, kwargs=tuple(kwargs.items()), outputs=(value,)))
        return value

    def moved(name: str, running: Arg, batch: Value, result: Value) -> None:
        if batch.dtype != result.dtype:
            cast = replace(batch, dtype=result.dtype, name=f"{name}_cast")
            made = replace(node, name=cast.name, op="aten._to_copy.default", args=(Ref(batch.name),))
            steps.append(replace(made, kwargs=(("dtype", Literal("dtype", f"torch.{result.dtype}")),), outputs=(cast,)))
            batch = cast
        value = replace(result, requires_grad=False)
        args = (running, Ref(batch.name), momentum)
        steps.append(replace(node, name=name, op="aten.lerp.Scalar", args=args, kwargs=(), outputs=(value,)))

    square = step("aten.pow.Tensor_Scalar", f"{node.name}_square", deviation, -2)
    biased = step("aten.sub.Tensor", f"{node.name}_biased", square, eps)
    unbiased = step("aten.mul.Tensor", f"{node.name}_unbiased", biased, count / (count - 1))
    moved(new_mean.name, running_mean, mean, new_mean)
    moved(new_variance.name, running_variance, unbiased, new_variance)
    return steps
