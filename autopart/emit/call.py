"""Call: an ATen call whose arguments are expressions already, and how expressions are put together."""

from collections.abc import Mapping
from dataclasses import dataclass

from autopart.estimate.work import short_name
from autopart.ir.graph import Arg, Literal, Node, Ref, references
from autopart.ir.size import Size

Shape = tuple[Size, ...]

NOISE = ("layout", "pin_memory", "non_blocking", "copy")  # what says nothing about the values


@dataclass(frozen=True)
class Call:
    """A call whose arguments are expressions already."""

    node: Node
    operands: tuple[str, ...]
    shapes: tuple[Shape, ...]
    device: str

    @property
    def name(self) -> str:
        """An ATen op without its namespace and overload; of any other op the whole name."""
        return short_name(self.node.op)

    @property
    def shape(self) -> Shape:
        """The rank's own shape of the first output."""
        return self.shapes[0]

    @property
    def args(self) -> list[str]:
        """The positional arguments."""
        return self.items(self.node.args, 0)

    @property
    def kwargs(self) -> dict[str, str]:
        """The keyword arguments, those left out that say nothing."""
        queue = list(self.operands[len(list(references(self.node.args))) :])
        texts = {key: expression(arg, queue, self.device) for key, arg in self.node.kwargs}
        if not self.node.op.startswith("aten."):
            return texts
        return {key: text for key, text in texts.items() if key not in NOISE and text != "None"}

    def items(self, args: tuple[Arg, ...], before: int) -> list[str]:
        """The expressions of `args`, which stand after `before` operands."""
        queue = list(self.operands[before:])
        return [expression(arg, queue, self.device) for arg in args]

    def listed(self, index: int) -> list[str]:
        """The expressions of the items of the argument at `index`."""
        arg = self.node.args[index]
        before = len(list(references(self.node.args[:index])))
        return self.items(arg if isinstance(arg, tuple) else (arg,), before)


def expression(arg: Arg, queue: list[str], device: str) -> str:
    """`arg` as an expression; tensors are taken from `queue`."""
    if isinstance(arg, Ref):
        return queue.pop(0)
    if isinstance(arg, Literal):
        return device if arg.kind == "device" else arg.text
    if isinstance(arg, tuple):
        return tuple_text([expression(item, queue, device) for item in arg])
    if isinstance(arg, float) and (arg != arg or arg in (float("inf"), float("-inf"))):
        return f'float("{arg}")'
    if isinstance(arg, str):
        return f'"{arg}"'
    return str(arg).replace("Min(", "min(").replace("Max(", "max(")  # as Python spells what sympy does


def tuple_text(items: list[str]) -> str:
    """`(b, 128, 64)`"""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def atom(text: str) -> str:
    """`text`, in parentheses where an operator would bind tighter than what is in it."""
    depth = 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if depth == 0 and char in " */+":
            return f"({text})"
    return f"({text})" if text.startswith(("-", "~")) else text


def infix(operator: str, left: str, right: str) -> str:
    """`left + right`"""
    number = right.startswith("-") and right[1:].replace(".", "").replace("e-", "").isdigit()
    return f"{atom(left)} {operator} {right if number else atom(right)}"


def keywords(kwargs: Mapping[str, str]) -> list[str]:
    """`key=value` each."""
    return [f"{key}={value}" for key, value in kwargs.items()]


def shape_text(shape: Shape, infer: bool = False) -> list[str]:
    """A shape as arguments. With `infer`, the one dim that holds the batch is written -1."""
    symbolic = [dim for dim, size in enumerate(shape) if not isinstance(size, int)]
    return ["-1" if infer and len(symbolic) == 1 and dim in symbolic else str(size) for dim, size in enumerate(shape)]
