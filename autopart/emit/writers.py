"""Writers: how calls are written whose arguments stand in another order, or hold shapes."""

from collections.abc import Callable, Mapping

from autopart.emit.call import Call, atom, infix, keywords, shape_text, tuple_text
from autopart.ir.graph import Literal

RESHAPES = (
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "ravel", "view_as", "reshape_as",
    "atleast_1d", "atleast_2d", "atleast_3d",
)  # fmt: skip
FILLED = ("full", "zeros", "ones", "empty", "new_full", "new_zeros", "new_ones", "new_empty")
EXPANDED = ("expand", "broadcast_to")


def _reshape(call: Call) -> str:
    return f"{atom(call.args[0])}.reshape({', '.join(shape_text(call.shape, infer=True)) or '()'})"


def _squeeze(call: Call) -> str | None:
    """`x.squeeze()` would also drop a rank's share of 1."""
    return _reshape(call) if len(call.args) == 1 else None


def _expand(call: Call) -> str:
    return f"{atom(call.args[0])}.expand({', '.join(shape_text(call.shape)) or '()'})"


def _filled(call: Call) -> str:
    """full, zeros, ones and new_full, new_zeros, new_ones."""
    args, place = call.args, int(call.name.startswith("new_"))
    args[place] = tuple_text(shape_text(call.shape))
    owner = atom(args.pop(0)) if place else "torch"
    return f"{owner}.{call.name}({', '.join([*args, *keywords(call.kwargs)])})"


def _arange(call: Call) -> str:
    return f"torch.arange({', '.join([*call.args, *keywords(call.kwargs)])})"


def _embedding(call: Call) -> str | None:
    weight, indices, *others = call.args
    if any(text != "False" for text in others[1:]) or call.kwargs.keys() - {"padding_idx"}:
        return None
    padding = others[0] if others else call.kwargs.get("padding_idx", "-1")
    return f"F.embedding({indices}, {weight}" + (f", padding_idx={padding})" if padding != "-1" else ")")


def _embedding_bag(call: Call) -> str | None:
    """`F.embedding_bag` returns the first of the four results alone."""
    weight, indices, offsets, by_frequency, mode, sparse, samples, last, *padding = call.args
    if len(call.shapes) != 1 or call.kwargs:
        return None
    text = f'F.embedding_bag({indices}, {weight}, {offsets}, mode="{("sum", "mean", "max")[int(mode)]}"'
    named = {"scale_grad_by_freq": by_frequency, "sparse": sparse, "per_sample_weights": samples}
    named |= {"include_last_offset": last, "padding_idx": padding[0] if padding else "None"}
    return ", ".join([text, *(f"{key}={own}" for key, own in named.items() if own not in ("False", "None"))]) + ")"


def _batch_norm(call: Call) -> str:
    x, weight, bias, mean, variance, training, momentum, eps, *_ = call.args
    named = f"training={training}, momentum={momentum}, eps={eps}"
    return f"F.batch_norm({x}, {mean}, {variance}, {weight}, {bias}, {named})"


def _instance_norm(call: Call) -> str:
    x, weight, bias, mean, variance, own, momentum, eps, *_ = call.args
    named = {"running_mean": mean, "running_var": variance, "weight": weight, "bias": bias}
    given = [f"{key}={text}" for key, text in named.items() if text != "None"]
    return f"F.instance_norm({', '.join([x, *given, f'use_input_stats={own}', f'momentum={momentum}', f'eps={eps}'])})"


def _interpolate(call: Call) -> str:
    """`upsample_bilinear2d` (x, size, align_corners, scales) and `upsample_nearest2d` (x, size, scales)."""
    x, size, *rest = call.args
    kind = call.name.removeprefix("_").removeprefix("upsample_").removesuffix("_aa")
    mode = kind[:-2].replace("_", "-")
    named = {"size": size, "scale_factor": rest[-1], "mode": f'"{mode}"'}
    if len(rest) == 2 and rest[0] == "True":
        named["align_corners"] = "True"
    if call.name.endswith("_aa"):
        named["antialias"] = "True"
    return f"F.interpolate({', '.join([x, *keywords({k: v for k, v in named.items() if v != 'None'})])})"


def _index_put(call: Call) -> str | None:
    """The method takes no None for a dim that is not indexed, the op does."""
    if "None" not in call.listed(1):
        return None
    return f"torch.ops.{call.node.op}({', '.join([*call.args, *keywords(call.kwargs)])})"


def _tensordot(call: Call) -> str:
    a, b, first, second = call.args
    return f"torch.tensordot({a}, {b}, dims=({first}, {second}))"


def _meshgrid(call: Call) -> str:
    indexing = call.args[1] if len(call.args) > 1 else call.kwargs.get("indexing", '"ij"')
    return f"torch.meshgrid({', '.join(call.listed(0))}, indexing={indexing})"


def _grouped_mm(call: Call) -> str:
    x, weight, *rest = call.args
    offs = rest[0] if rest else call.kwargs.get("offs", "None")
    return f"grouped_mm({x}, {weight}" + (f", offs={offs})" if offs != "None" else ")")


def _to(call: Call) -> str | None:
    if call.node.op == "aten.to.other":
        return f"{atom(call.args[0])}.to({call.args[1]})"
    literals = [arg for arg in (*call.node.args, *dict(call.node.kwargs).values()) if isinstance(arg, Literal)]
    texts = {literal.kind: call.device if literal.kind == "device" else literal.text for literal in literals}
    target = texts.get("dtype") or texts.get("device")
    return target and f"{atom(call.args[0])}.to({target})"


def _slice(call: Call) -> str:
    node = call.node
    dim, start, stop, step = (node.arg(1, "dim", 0), node.arg(2, "start"), node.arg(3, "end"), node.arg(4, "step", 1))
    begin = "" if start is None or start == 0 else str(start)
    end = "" if stop is None or (isinstance(stop, int) and stop > 2**62) else str(stop)
    rank = len(call.shape)
    own, whole = call.shape[int(str(dim)) % rank], node.output.shape[int(str(dim)) % rank]
    if own != whole and isinstance(own, int) and isinstance(whole, int):  # a rank's share of every piece
        first = int(str(start or 0)) * own // whole
        begin, end = str(first) if first else "", str(first + own)
    return _indexed(call, int(str(dim)) % rank, f"{begin}:{end}" + (f":{step}" if step != 1 else ""), rank)


def _select(call: Call) -> str:
    rank = len(call.shape) + 1
    return _indexed(call, int(call.args[1]) % rank, call.args[2], rank)


def _indexed(call: Call, dim: int, index: str, rank: int) -> str:
    before = "..., " if dim == rank - 1 and rank > 1 else ":, " * dim
    return f"{atom(call.args[0])}[{before}{index}]"


def _index(call: Call) -> str:
    items = [":" if text == "None" else text for text in call.listed(1)]
    while items[-1] == ":":
        items.pop()
    return f"{atom(call.args[0])}[{', '.join(items)}]"


def _split(call: Call) -> str:
    """Sizes are the rank's own. `chunk` cuts a share into the shares of the chunks as it is."""
    named = {"vsplit": 0, "hsplit": min(1, len(call.shapes[0]) - 1), "dsplit": 2}
    dim = named[call.name] if call.name in named else int(str(call.node.arg(2, "dim", 0)))
    sizes = [str(shape[dim]) for shape in call.shapes]
    alike = len(set(sizes[:-1])) <= 1 and (len(sizes) == 1 or sizes[-1] == sizes[0])
    written = sizes[0] if alike else tuple_text(sizes)
    return f"{atom(call.args[0])}.split({written}" + (f", dim={dim})" if dim else ")")


def _spread(callee: str, place: int) -> Callable[[Call], str]:
    """A call that takes the items of its argument at `place` one by one."""

    def write(call: Call) -> str:
        before = call.args[:place]
        owner, before = (f"{atom(before[0])}.", before[1:]) if callee.startswith(".") else ("", before)
        return f"{owner}{callee.lstrip('.')}({', '.join([*before, *call.listed(place)])})"

    return write


def _einsum(call: Call) -> str:
    return f"torch.einsum({', '.join([call.args[0], *call.listed(1)])})"


def _unary(form: str) -> Callable[[Call], str]:
    return lambda call: form.format(atom(call.args[0]))


def _swapped(call: Call) -> str | None:
    """The operands of `rsub` stand the other way round."""
    alpha = call.args[2] if len(call.args) > 2 else call.kwargs.get("alpha", "1")
    return infix("-", call.args[1], call.args[0]) if alpha == "1" else None


INTERPOLATIONS = (
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip

WRITERS: Mapping[str, Callable[[Call], str | None]] = {
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(EXPANDED, _expand),
    **dict.fromkeys(FILLED, _filled),
    **dict.fromkeys(("to", "_to_copy"), _to),
    **dict.fromkeys(("split", "split_with_sizes", "tensor_split", "hsplit", "vsplit", "dsplit"), _split),
    "squeeze": _squeeze,
    "arange": _arange,
    "embedding": _embedding,
    "embedding_bag": _embedding_bag,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    **dict.fromkeys(INTERPOLATIONS, _interpolate),
    **dict.fromkeys(("_grouped_mm", "transformers.grouped_mm_fallback.default"), _grouped_mm),
    "index_put": _index_put,
    "tensordot": _tensordot,
    "meshgrid": _meshgrid,
    **dict.fromkeys(("mH", "matrix_H", "adjoint"), _unary("{}.mH")),
    "real": _unary("{}.real"),
    "imag": _unary("{}.imag"),
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
