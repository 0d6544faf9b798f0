"""Kept: the node of a module that is kept whole, a call that nobody looks into.

    outputs = autopart.kept.default((inputs ...), (weights ...), "{}, mask={}", samplewise)

The third argument is how the module is called, with `{}` for each of the inputs; the module is that of the node's
scope.
`samplewise` says whether it treats every sample of the batch by itself.
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
