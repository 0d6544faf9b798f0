"""Spelling: how an ATen call is written by hand. What is in no table is written as `torch.ops.aten...`."""

import sympy

from autopart.emit.call import Call, Shape, atom, infix, keywords, tuple_text
from autopart.emit.own_counts import own_counts
from autopart.emit.signatures import OPERATORS, SIGNATURES, Signature
from autopart.emit.writers import EXPANDED, FILLED, RESHAPES, WRITERS
from autopart.estimate.work import short_name
from autopart.ir.graph import Arg, Node
from autopart.ir.size import BATCH

REDUCTIONS = ("none", "mean", "sum")
# What returns several tensors, even if there is but one.
LISTS = (
    "broadcast_tensors", "chunk", "dsplit", "hsplit", "meshgrid", "split", "split_with_sizes", "tensor_split", "unbind",
    "vsplit",
)  # fmt: skip
EACH_ALIKE = ("stride", "padding", "dilation", "kernel_size", "output_size", "dim")  # where (2, 2) may be written 2


def spell(
    node: Node,
    operands: tuple[str, ...],
    output_shapes: tuple[Shape, ...],
    device: str,
    input_shapes: tuple[Shape, ...] = (),
) -> str:
    """The expression for `node`.

    Args:
        node: the call.
        operands: an expression for every tensor argument, in order.
        output_shapes: the rank's own shape of every output; shape arguments are rewritten from them.
        device: an expression for the device, where one is made on it.
        input_shapes: the rank's own shape of every tensor argument; left out, they are whole.
    """
    call = Call(own_counts(node, input_shapes, output_shapes), operands, output_shapes, device)
    writer = WRITERS.get(call.name)
    text = writer(call) if writer is not None else None
    if text is None and call.name in OPERATORS and len(call.args) == 2 and not call.kwargs:
        text = infix(OPERATORS[call.name], *call.args)
    if text is None:
        overload = node.op.removeprefix("aten.")
        signature = SIGNATURES.get(overload) or SIGNATURES.get(call.name)
        text = _by_signature(call, signature) if signature is not None else None
    text = text or f"torch.ops.{node.op}({', '.join([*call.args, *keywords(call.kwargs)])})"
    return f"{text}[0]" if call.name in LISTS and len(output_shapes) == 1 else text


def shape_comment(shape: Shape) -> str:
    """`(b, 128, 64)`"""
    return tuple_text(list(map(str, shape)))


def uses_batch(node: Node, output_shape: Shape) -> bool:
    """Whether the call is written with the name of the batch size in it."""
    name = short_name(node.op)
    if name in RESHAPES or node.op == "aten.squeeze.default":
        return sum(not isinstance(size, int) for size in output_shape) > 1
    if name in (*EXPANDED, *FILLED):
        return any(not isinstance(size, int) for size in output_shape)
    return any(_holds_batch(arg) for arg in (*node.args, *(value for _, value in node.kwargs)))


def _holds_batch(arg: Arg) -> bool:
    if isinstance(arg, tuple):
        return any(map(_holds_batch, arg))
    return isinstance(arg, sympy.Expr) and BATCH in arg.free_symbols


def _by_signature(call: Call, signature: Signature) -> str | None:
    """The call in the words of `signature`, or None where it has an argument that the signature lacks."""
    args, kwargs = call.args, call.kwargs
    names = [parameter.name for parameter in signature.parameters]
    if len(args) > len(names) or any(key not in names for key in kwargs):
        return None
    given = dict(zip(names, args, strict=False)) | kwargs
    shown: list[str] = []
    by_name = False
    for position, parameter in enumerate(signature.parameters):
        text = _value_text(call, parameter.name, given.get(parameter.name, parameter.default))
        if text is None:
            return None
        if position == 0:
            shown.append(text)
        elif parameter.name == "_" or _equal(text, parameter.default):
            by_name = True
        else:
            tensor = text in call.operands or text.startswith("(")
            by_name = by_name or parameter.keyword or (parameter.default is not None and not tensor)
            shown.append(f"{parameter.name}={text}" if by_name else text)
    if signature.method:
        return f"{atom(shown[0])}.{signature.callee}({', '.join(shown[1:])})"
    return f"{signature.callee}({', '.join(shown)})"


def _value_text(call: Call, name: str, text: str | None) -> str | None:
    """How a value is written: `padding=1` for `padding=(1, 1)`, `reduction="sum"` for `reduction=2`."""
    if name == "reduction" and text in ("0", "1", "2"):
        return f'"{REDUCTIONS[int(text)]}"'
    if name == "stride" and text == "()":
        return "None"
    if name in EACH_ALIKE and text is not None and text.startswith("("):
        items = [item.strip() for item in text[1:-1].split(",") if item.strip()]
        if len(items) == 1 or (name != "dim" and len(set(items)) == 1):
            return items[0]
    return text


def _equal(text: str, default: str | None) -> bool:
    try:
        return text == default or (default is not None and float(text) == float(default))
    except ValueError:
        return False
