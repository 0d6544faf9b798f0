"""Kept: the node of a module or function that is kept whole, a call that nobody looks into.

    outputs = autopart.kept.default((inputs ...), (weights ...), "{}, mask={}", samplewise, function, elementwise)

The third argument is how it is called, with `{}` for each of the inputs.
`samplewise` says whether it treats every sample of the batch by itself.
`function` is "package.module:Class" of a `torch.autograd.Function`; where it is empty, the module is that of the
node's scope.
`elementwise` says whether it treats every element by itself.
"""

from autopart.ir.graph import Node, references

KEPT = "autopart.kept.default"


def call_text(node: Node, operands: tuple[str, ...]) -> str:
    """The arguments of the module, with `operands` for its inputs."""
    return str(node.args[2]).format(*operands[: input_count(node)])


def input_count(node: Node) -> int:
    """How many of the node's inputs the module is called with; the others are its weights."""
    return len(list(references((node.args[0],))))


def is_samplewise(node: Node) -> bool:
    """Whether the module treats every sample by itself."""
    return node.args[3] is True


def function_name(node: Node) -> str:
    """The "package.module:Class" of the `torch.autograd.Function` that is called; empty for a module."""
    return str(node.args[4])


def is_elementwise(node: Node) -> bool:
    """Whether all tensors have one shape, and each element of the outputs comes from those at its place alone."""
    return node.args[5] is True
