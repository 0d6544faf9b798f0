"""Spelling: how an ATen call is written by hand. What is not in the tables is written as `torch.ops.aten...`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sympy

from autopart.emit.signatures import OPERATORS, SIGNATURES, Signature
from autopart.ir.graph import Arg, Literal, Node, Ref, references
from autopart.ir.size import BATCH, Size

Shape = tuple[Size, ...]

RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")
SHAPED = ("expand", "broadcast_to", "full", "zeros", "ones", "new_full", "new_zeros", "new_ones")
REDUCTIONS = ("none", "mean", "sum")
NOISE = ("layout", "pin_memory", "non_blocking", "copy")  # what says nothing about the values
EACH_ALIKE = ("stride", "padding", "dilation", "kernel_size", "output_size", "dim")  # where (2, 2) may be written 2


@dataclass(frozen=True)
class Call:
    """A call whose arguments are expressions already."""

    node: Node
    operands: tuple[str, ...]
    shapes: tuple[Shape, ...]
    device: str

    @property
    def name(self) -> str:
        """The op without its namespace and overload."""
        return self.node.op.split(".")[1]

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
        texts = {key: _text(arg, queue, self.device) for key, arg in self.node.kwargs}
        return {key: text for key, text in texts.items() if key not in NOISE and text != "None"}

    def items(self, args: tuple[Arg, ...], before: int) -> list[str]:
        """The expressions of `args`, which stand after `before` operands."""
        queue = list(self.operands[before:])
        return [_text(arg, queue, self.device) for arg in args]

    def listed(self, index: int) -> list[str]:
        """The expressions of the items of the argument at `index`."""
        arg = self.node.args[index]
        before = len(list(references(self.node.args[:index])))
        return self.items(arg if isinstance(arg, tuple) else (arg,), before)


def spell(node: Node, operands: tuple[str, ...], output_shapes: tuple[Shape, ...], device: str) -> str:
    """The expression for `node`.

    Args:
        node: the call.
        operands: an expression for every tensor argument, in order.
        output_shapes: the rank's own shape of every output; shape arguments are rewritten from them.
        device: an expression for the device, where one is made on it.
    """
    call = Call(node, operands, output_shapes, device)
    writer = WRITERS.get(call.name)
    text = writer(call) if writer is not None else None
    if text is None and call.name in OPERATORS and len(call.args) == 2 and not call.kwargs:
        text = _infix(OPERATORS[call.name], *call.args)
    if text is None:
        overload = node.op.removeprefix("aten.")
        signature = SIGNATURES.get(overload) or SIGNATURES.get(call.name)
        text = signature and _by_signature(call, signature)
    return text or f"torch.ops.{node.op}({', '.join([*call.args, *_keywords(call.kwargs)])})"


def shape_text(shape: Shape, infer: bool = False) -> list[str]:
    """A shape as arguments. With `infer`, the one dim that holds the batch is written -1."""
    symbolic = [dim for dim, size in enumerate(shape) if not isinstance(size, int)]
    return ["-1" if infer and len(symbolic) == 1 and dim in symbolic else str(size) for dim, size in enumerate(shape)]


def shape_comment(shape: Shape) -> str:
    """`(b, 128, 64)`"""
    return _tuple_text(list(map(str, shape)))


def uses_batch(node: Node, output_shape: Shape) -> bool:
    """Whether the call is written with the name of the batch size in it."""
    name = node.op.split(".")[1]
    if name in RESHAPES or node.op == "aten.squeeze.default":
        return sum(not isinstance(size, int) for size in output_shape) > 1
    if name in SHAPED:
        return any(not isinstance(size, int) for size in output_shape)
    return any(_holds_batch(arg) for arg in (*node.args, *(value for _, value in node.kwargs)))


def _holds_batch(arg: Arg) -> bool:
    if isinstance(arg, tuple):
        return any(map(_holds_batch, arg))
    return isinstance(arg, sympy.Expr) and BATCH in arg.free_symbols


def _text(arg: Arg, queue: list[str], device: str) -> str:
    if isinstance(arg, Ref):
        return queue.pop(0)
    if isinstance(arg, Literal):
        return device if arg.kind == "device" else arg.text
    if isinstance(arg, tuple):
        return _tuple_text([_text(item, queue, device) for item in arg])
    if isinstance(arg, float) and (arg != arg or arg in (float("inf"), float("-inf"))):
        return f'float("{arg}")'
    return f'"{arg}"' if isinstance(arg, str) else str(arg)


def _tuple_text(items: list[str]) -> str:
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def _atom(text: str) -> str:
    """`text`, in parentheses where an operator would bind tighter than what is in it."""
    depth = 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if depth == 0 and char == " ":
            return f"({text})"
    return f"({text})" if text.startswith(("-", "~")) else text


def _infix(operator: str, left: str, right: str) -> str:
    number = right.startswith("-") and right[1:].replace(".", "").replace("e-", "").isdigit()
    return f"{_atom(left)} {operator} {right if number else _atom(right)}"


def _keywords(kwargs: Mapping[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in kwargs.items()]


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
        return f"{_atom(shown[0])}.{signature.callee}({', '.join(shown[1:])})"
    return f"{signature.callee}({', '.join(shown)})"


def _value_text(call: Call, name: str, text: str | None) -> str | None:
    """How the value of a parameter is written: `padding=1` for `padding=(1, 1)`, `reduction="sum"` for `reduction=2`."""
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


def _reshape(call: Call) -> str:
    return f"{_atom(call.args[0])}.reshape({', '.join(shape_text(call.shape, infer=True)) or '()'})"


def _squeeze(call: Call) -> str | None:
    """`x.squeeze()` would also drop a rank's share of 1."""
    return _reshape(call) if len(call.args) == 1 else None


def _expand(call: Call) -> str:
    return f"{_atom(call.args[0])}.expand({', '.join(shape_text(call.shape)) or '()'})"


def _filled(call: Call) -> str:
    """full, zeros, ones and new_full, new_zeros, new_ones."""
    args, place = call.args, int(call.name.startswith("new_"))
    args[place] = _tuple_text(shape_text(call.shape))
    owner = _atom(args.pop(0)) if place else "torch"
    return f"{owner}.{call.name}({', '.join([*args, *_keywords(call.kwargs)])})"


def _arange(call: Call) -> str:
    return f"torch.arange({', '.join([*call.args, *_keywords(call.kwargs)])})"


def _embedding(call: Call) -> str | None:
    weight, indices, *others = call.args
    if any(text != "False" for text in others[1:]) or call.kwargs.keys() - {"padding_idx"}:
        return None
    padding = others[0] if others else call.kwargs.get("padding_idx", "-1")
    return f"F.embedding({indices}, {weight}" + (f", padding_idx={padding})" if padding != "-1" else ")")


def _batch_norm(call: Call) -> str:
    x, weight, bias, mean, variance, training, momentum, eps, *_ = call.args
    return f"F.batch_norm({x}, {mean}, {variance}, {weight}, {bias}, training={training}, momentum={momentum}, eps={eps})"


def _to(call: Call) -> str | None:
    if call.node.op == "aten.to.other":
        return f"{_atom(call.args[0])}.to({call.args[1]})"
    literals = [arg for arg in (*call.node.args, *dict(call.node.kwargs).values()) if isinstance(arg, Literal)]
    texts = {literal.kind: call.device if literal.kind == "device" else literal.text for literal in literals}
    target = texts.get("dtype") or texts.get("device")
    return target and f"{_atom(call.args[0])}.to({target})"


def _slice(call: Call) -> str:
    node = call.node
    dim, start, stop, step = (node.arg(1, "dim", 0), node.arg(2, "start"), node.arg(3, "end"), node.arg(4, "step", 1))
    begin = "" if start is None or start == 0 else str(start)
    end = "" if stop is None or (isinstance(stop, int) and stop > 2**62) else str(stop)
    rank = len(call.shape)
    return _indexed(call, int(str(dim)) % rank, f"{begin}:{end}" + (f":{step}" if step != 1 else ""), rank)


def _select(call: Call) -> str:
    rank = len(call.shape) + 1
    return _indexed(call, int(call.args[1]) % rank, call.args[2], rank)


def _indexed(call: Call, dim: int, index: str, rank: int) -> str:
    before = "..., " if dim == rank - 1 and rank > 1 else ":, " * dim
    return f"{_atom(call.args[0])}[{before}{index}]"


def _index(call: Call) -> str:
    items = [":" if text == "None" else text for text in call.listed(1)]
    while items[-1] == ":":
        items.pop()
    return f"{_atom(call.args[0])}[{', '.join(items)}]"


def _split(call: Call) -> str:
    """Sizes are the rank's own. `chunk` cuts a share into the shares of the chunks as it is."""
    dim = int(str(call.node.arg(2, "dim", 0)))
    sizes = [str(shape[dim]) for shape in call.shapes]
    alike = len(set(sizes[:-1])) <= 1 and (len(sizes) == 1 or sizes[-1] == sizes[0])
    written = sizes[0] if alike else _tuple_text(sizes)
    return f"{_atom(call.args[0])}.split({written}" + (f", dim={dim})" if dim else ")")


def _spread(callee: str, place: int) -> Callable[[Call], str]:
    """A call that takes the items of its argument at `place` one by one."""

    def write(call: Call) -> str:
        before = call.args[:place]
        owner, before = (f"{_atom(before[0])}.", before[1:]) if callee.startswith(".") else ("", before)
        return f"{owner}{callee.lstrip('.')}({', '.join([*before, *call.listed(place)])})"

    return write


def _einsum(call: Call) -> str:
    return f"torch.einsum({', '.join([call.args[0], *call.listed(1)])})"


def _unary(form: str) -> Callable[[Call], str]:
    return lambda call: form.format(_atom(call.args[0]))


def _swapped(call: Call) -> str | None:
    """rsub."""
    alpha = call.args[2] if len(call.args) > 2 else call.kwargs.get("alpha", "1")
    return _infix("-", call.args[1], call.args[0]) if alpha == "1" else None


WRITERS: Mapping[str, Callable[[Call], str | None]] = {
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(("expand", "broadcast_to"), _expand),
    **dict.fromkeys(("full", "zeros", "ones", "new_full", "new_zeros", "new_ones"), _filled),
    **dict.fromkeys(("to", "_to_copy"), _to),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "squeeze": _squeeze,
    "arange": _arange,
    "embedding": _embedding,
    "batch_norm": _batch_norm,
    "slice": _slice,
    "select": _select,
    "index": _index,
    "permute": _spread(".permute", 1),
    "repeat": _spread(".repeat", 1),
    "broadcast_tensors": _spread("torch.broadcast_tensors", 0),
    "einsum": _einsum,
    "rsub": _swapped,
    "neg": _unary("-{}"),
    "bitwise_not": _unary("~{}"),
    "mT": _unary("{}.mT"),
    "numpy_T": _unary("{}.T"),
}
