"""Elementwise ops: every output dim is an axis; operands are aligned on the right, dims of size 1 broadcast."""

from dataclasses import replace

from autopart.ir.graph import Graph, Node
from autopart.sharding.rule import Letters, Rule


def elementwise(node: Node, graph: Graph) -> Rule:
    """The rule of any op that computes each output element from the aligned input elements."""
    shape = node.output.shape
    names = tuple(f"d{dim}" for dim in range(len(shape)))

    def letters(tensor: str) -> Letters:
        own = graph.values[tensor].shape
        offset = len(shape) - len(own)
        alike = [size != 1 or shape[offset + dim] == 1 for dim, size in enumerate(own)]
        return tuple(names[offset + dim] if same else None for dim, same in enumerate(alike))

    return Rule(tuple(letters(name) for name in node.inputs), (names,))


def linear(node: Node, graph: Graph) -> Rule:
    """An elementwise op that is jointly linear in all its tensors: partial sums pass through it."""
    rule = elementwise(node, graph)
    same = all(graph.values[name].dtype == node.output.dtype for name in node.inputs)
    summable = node.output.dtype != "bool"  # a sum of booleans is no boolean
    return replace(rule, linear=frozenset(range(len(node.inputs)))) if same and summable else rule


def sum_of_two(node: Node, graph: Graph) -> Rule:
    """Addition: linear between two tensors, not with a number, which would be added once a rank."""
    return linear(node, graph) if len(node.inputs) == 2 else elementwise(node, graph)


def product(node: Node, graph: Graph) -> Rule:
    """Multiplication: linear in the one tensor, where the other factor is a number."""
    return linear(node, graph) if len(node.inputs) == 1 else elementwise(node, graph)


def prelu(node: Node, graph: Graph) -> Rule:
    """(x, slopes): one slope, or one a channel, which is dim 1."""
    rule = elementwise(node, graph)
    (channels,) = graph.values[node.inputs[1]].shape or (1,)
    slopes = tuple("d1" if channels != 1 else None for _ in graph.values[node.inputs[1]].shape)
    return replace(rule, inputs=(rule.inputs[0], slopes))


def broadcast(node: Node, graph: Graph) -> Rule:
    """`broadcast_tensors`: every tensor in the common shape."""
    rule = linear(node, graph)
    return replace(rule, outputs=rule.outputs * len(node.outputs))


# Only what exists as an overload, so that every one can be proved.
NONLINEAR = {
    "default": """
        abs acos acosh asin asinh atan atanh atan2 bitwise_not ceil celu clamp clamp_max clamp_min clip cos
        cosh detach elu erf erfc exp exp2 expm1 floor floor_divide frac full_like gelu hardshrink hardsigmoid hardswish
        hardtanh heaviside hypot isclose isfinite isinf isnan leaky_relu log log10 log1p log2 log_sigmoid logaddexp
        logical_and logical_not logical_or logical_xor logit maximum minimum mish nan_to_num ones_like reciprocal relu
        relu6 round rsqrt selu sigmoid sign silu sin sinc sinh softplus softshrink sqrt square tan tanh threshold trunc
        type_as zeros_like addcmul addcdiv _to_copy absolute arccos arccosh arcsin arcsinh arctan arctanh arctan2
        deg2rad digamma empty_like erfinv fix fmax fmin gcd i0 isneginf isposinf isreal lcm lgamma logaddexp2 nextafter
        rad2deg signbit special_entr special_erfcx special_expit special_i0e special_i1 special_i1e special_log1p
        special_log_ndtr special_ndtr special_ndtri special_xlog1py zero mvlgamma polygamma igamma igammac
    """,
    "Tensor": """
        __and__ __or__ __xor__ bitwise_and bitwise_or bitwise_xor clamp clamp_max clamp_min copysign eq fmod ge gt le
        lerp lt masked_fill ne remainder rsub xlogy __lshift__ __rshift__ bitwise_left_shift bitwise_right_shift divide
        fill greater greater_equal ldexp less less_equal multiply not_equal true_divide
    """,
    "Scalar": """
        __and__ __or__ __xor__ add bitwise_and bitwise_or bitwise_xor copysign eq floor_divide fmod ge gt le lerp lt
        masked_fill ne pow remainder rsub sub where __lshift__ __rshift__ fill
    """,
    "Tensor_Tensor": "pow float_power",
    "Tensor_Scalar": "pow float_power bitwise_left_shift bitwise_right_shift",
    "Tensor_mode": "div",
    "Scalar_mode": "div",
    "self": "where",
    "ScalarOther": "where",
    "ScalarSelf": "where",
    "dtype": "to",
    "dtype_layout": "to",
    "device": "to",
    "other": "to max min",
}

RULES = {f"aten.{name}.{overload}": elementwise for overload, names in NONLINEAR.items() for name in names.split()} | {
    "aten.add.Tensor": sum_of_two,
    "aten.sub.Tensor": sum_of_two,
    "aten.mul.Tensor": product,
    "aten.mul.Scalar": product,
    "aten.div.Tensor": product,
    "aten.div.Scalar": product,
    "aten.neg.default": linear,
    "aten.contiguous.default": linear,
    "aten.clone.default": linear,
    "aten.positive.default": linear,
    "aten.negative.default": linear,
    "aten.subtract.Tensor": sum_of_two,
    "aten.prelu.default": prelu,
    "aten.broadcast_tensors.default": broadcast,
}
