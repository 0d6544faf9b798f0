"""Work: what kind of kernels an op is made of, and what it keeps for its backward pass."""

from collections.abc import Sequence
from enum import Enum
from functools import cache

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Node


class Work(Enum):
    """The kinds of kernels, priced differently."""

    VIEW = "view"  # no kernel: the output is a window on the input
    MATMUL = "matmul"
    ATTENTION = "attention"
    MEMORY = "memory"  # bound by the bytes it moves


class Keeps(Enum):
    """What autograd keeps of an op until its backward pass."""

    NOTHING = "nothing"
    INPUTS = "inputs"
    OUTPUT = "output"
    BOTH = "both"


_VIEWS = [
    "view",
    "reshape",
    "_unsafe_view",
    "flatten",
    "unflatten",
    "transpose",
    "t",
    "permute",
    "unsqueeze",
    "squeeze",
    "expand",
    "slice",
    "narrow",
    "select",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "detach",
    "alias",
    "view_as_complex",
    "view_as_real",
]
_GROUPED = ["_grouped_mm", "transformers.grouped_mm_fallback.default"]
_MATMULS = [*_GROUPED, "linear", "mm", "addmm", "bmm", "baddbmm", "matmul", "einsum", "conv1d", "conv2d", "conv3d"]
_PRODUCTS = ("mul", "linear", "mm", "bmm", "matmul")
_KEEP_NOTHING = [
    "dropout",  # but for its mask
    "add",
    "sub",
    "neg",
    "to",
    "_to_copy",
    "type_as",
    "contiguous",
    "clone",
    "mean",
    "sum",
    "cat",
    "concat",
    "stack",
    "pad",
    "constant_pad_nd",
    "mse",
]
_KEEP_OUTPUT = [
    "relu",
    "sigmoid",
    "tanh",
    "exp",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "softmax",
    "_softmax",
    "log_softmax",
    "_log_softmax",
]


@cache
def short_name(op: str) -> str:
    """The middle of an ATen op's name, "linear" of "aten.linear.default"; the whole name of any other op."""
    return op.split(".")[1] if op.startswith("aten.") else op


def work_of(node: Node) -> Work:
    """The kind of kernel that `node` is."""
    return _work_of(node.op)


@cache
def _work_of(op: str) -> Work:
    name = short_name(op)
    if op in (ENTER, LEAVE) or name in _VIEWS:
        return Work.VIEW
    if name in _MATMULS:
        return Work.MATMUL
    return Work.ATTENTION if name == "scaled_dot_product_attention" else Work.MEMORY


def keeps_of(node: Node) -> Keeps:
    """What autograd keeps of `node`; for an op that is not known, its inputs."""
    name = short_name(node.op)
    if work_of(node) is Work.VIEW or name in _KEEP_NOTHING:
        return Keeps.NOTHING
    if name in ("mul", "div") and len(node.inputs) == 1:
        return Keeps.NOTHING
    if name == "scaled_dot_product_attention":
        return Keeps.BOTH
    return Keeps.OUTPUT if name in _KEEP_OUTPUT else Keeps.INPUTS


def kept_inputs_of(node: Node, trained: Sequence[bool]) -> tuple[int, ...]:
    """Which inputs of a node that keeps its inputs, by their places, autograd keeps; `trained` are to get gradients.

    A factor is kept for the gradient of the other factors: torch's derivatives of products save an operand only where
    another one requires a gradient (tools/autograd/gen_variable_type.py, the guards of saved variables).
    """
    places = range(len(node.inputs))
    if short_name(node.op) not in _PRODUCTS:
        return tuple(places)
    return tuple(place for place in places if any(trained[other] for other in places if other != place))
