"""What is spelled computes what the ATen op does, and reads as a person would write it."""

from types import SimpleNamespace

import pytest
import sympy
import torch
import torch.nn.functional as F

from autopart.emit.spelling import spell, uses_batch
from autopart.ir.graph import Literal, Node, Ref, Value
from autopart.ir.size import BATCH, Size
from autopart.probe.traced import apply, single
from autopart.runtime import grouped_mm
from tests.sharding.captured import Case, nodes
from tests.sharding.op_cases import CASES as RULED
from tests.sharding.tensors import b, i, of, t, u

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning"),  # kl_div
    pytest.mark.usefixtures("filled_memory"),
]

# Calls of ops that have no rule.
OTHERS = (
    of(lambda x: torch.arange(6, device=x.device) + x.long(), u(4, 6)),
    of(lambda x: torch.arange(2, 8, 2, dtype=torch.float64, device=x.device) * x, u(4, 3)),
    of(lambda x: torch.arange(1, 4, device=x.device) * x, u(4, 3)),
    of(lambda x, j, k: x[j, k], t(4, 8), i(4, 2), i(8, 2)),
    of(lambda x, j: x[:, :, j], t(2, 4, 8), i(8, 2)),
    of(lambda x, j: x[j], t(4, 8), i(4, 2)),
    of(lambda x, y: x.view_as(y), t(4, 8), t(2, 16)),
    of(lambda x, y: F.cosine_similarity(x, y), t(4, 8), t(4, 8)),
    of(lambda x: F.interpolate(x, scale_factor=2), t(2, 4, 8)),
    of(lambda x: torch.diff(x), t(4, 8)),
    of(lambda x: x.repeat_interleave(2, 1), t(4, 8)),
    of(lambda x, m, y: x.masked_scatter(m, y), t(4, 8), b(4, 8), t(4, 8)),
    of(lambda x, w: F.embedding(x, w, scale_grad_by_freq=True), i(8, 4), t(8, 4)),
    of(lambda x, w: F.conv2d(x, w, groups=4), t(2, 4, 4, 4), t(8, 1, 3, 3)),
    of(lambda x: torch.full((3,), float("nan"), dtype=x.dtype, device=x.device), u(2)),
)
CASES = (*RULED, *nodes({"other": OTHERS}, {}))


def spelled(node: Node, *operands: str) -> str:
    names = operands or tuple(f"x{number}" for number in range(len(node.inputs)))
    return spell(node, names, tuple(value.shape for value in node.outputs), "device")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_expression_equals_the_op(case: Case) -> None:
    inputs = [case.traced.values[name] for name in case.node.inputs]
    known = {f"x{number}": tensor for number, tensor in enumerate(inputs)}
    torch.default_generator.manual_seed(0)
    expected = apply(case.node, inputs)
    torch.default_generator.manual_seed(0)
    emitted = {"torch": torch, "F": F, "grouped_mm": grouped_mm, "device": torch.device("cpu")}
    found = eval(spelled(case.node), {**known, **emitted, "self": SimpleNamespace()})
    found = tuple(found) if len(case.node.outputs) > 1 else (found,)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_few_calls_are_left_in_aten() -> None:
    texts = {case.node.op: spelled(case.node) for case in CASES}
    left = {op.split(".")[1] for op, text in texts.items() if text.startswith("torch.ops")}
    assert left == {
        *("_softmax", "_log_softmax", "native_dropout", "constant_pad_nd", "elu", "rsub", "embedding", "avg_pool2d"),
        *("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
        *("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"),
        *("max_unpool2d", "max_unpool3d", "masked_scatter", "stft", "istft"),
        *("bernoulli", "uniform", "exponential", "normal_functional", "cauchy", "geometric", "log_normal"),
    }


x, w = t(4, 8), t(8)
READS = [
    (single("aten.linear.default", x, t(12, 8), t(12)), "F.linear(x0, x1, x2)"),
    (single("aten.layer_norm.default", x, (8,), w, w, 1e-5), "F.layer_norm(x0, (8,), x1, x2)"),
    (single("aten.layer_norm.default", x, (8,), w, w, 1e-6), "F.layer_norm(x0, (8,), x1, x2, eps=1e-06)"),
    (single("aten.rms_norm.default", x, (8,), None, 1e-6), "F.rms_norm(x0, (8,), eps=1e-06)"),
    (single("aten.gelu.default", x, approximate="tanh"), 'F.gelu(x0, approximate="tanh")'),
    (single("aten.softmax.int", x, -1), "F.softmax(x0, dim=-1)"),
    (single("aten.mean.dim", x, [-1], True), "x0.mean(dim=-1, keepdim=True)"),
    (single("aten.pow.Tensor_Scalar", x, 2), "x0 ** 2"),
    (single("aten.matmul.default", x, t(8, 4)), "x0 @ x1"),
    (single("aten.rsub.Scalar", x, 1.0), "1.0 - x0"),
    (single("aten.add.Tensor", x, w, alpha=2), "torch.add(x0, x1, alpha=2)"),
    (single("aten.permute.default", x, [1, 0]), "x0.permute(1, 0)"),
    (single("aten.slice.Tensor", x, 1, 0, 4), "x0[..., :4]"),
    (single("aten.slice.Tensor", x, 0, -3, 2**63 - 1), "x0[-3:]"),
    (single("aten.slice.Tensor", x, 0, 1, None, 2), "x0[1::2]"),
    (single("aten.select.int", x, 1, -1), "x0[..., -1]"),
    (single("aten.select.int", x, 0, 2), "x0[2]"),
    (single("aten.index.Tensor", x, [None, i(8, 4)]), "x0[:, x1]"),
    (single("aten.cat.default", [x, x], -1), "torch.cat((x0, x1), dim=-1)"),
    (single("aten.split_with_sizes.default", x, [4, 4], -1), "x0.split(4, dim=-1)"),
    (single("aten.split_with_sizes.default", x, [2, 6], -1), "x0.split((2, 6), dim=-1)"),
    (single("aten.squeeze.default", t(4, 1)), "x0.reshape(4)"),
    (single("aten.masked_fill.Scalar", x, b(4, 8), float("-inf")), 'x0.masked_fill(x1, float("-inf"))'),
    (single("aten.logical_and.default", b(4), b(4)), "torch.logical_and(x0, x1)"),
    (single("aten.__and__.Tensor", b(4), b(4)), "x0 & x1"),
    (single("aten.embedding.default", t(8, 4), i(8, 2)), "F.embedding(x1, x0)"),
    (
        single("aten.conv2d.default", t(2, 4, 4, 4), t(8, 4, 3, 3), None, [1, 1], [1, 1]),
        "F.conv2d(x0, x1, padding=1)",
    ),
    (
        single("aten.cross_entropy_loss.default", x, i(8, 4), None, 2, -1),
        'F.cross_entropy(x0, x1, reduction="sum", ignore_index=-1)',
    ),
    (
        single("aten.scaled_dot_product_attention.default", x, x, x, None, 0.0, True, scale=0.5),
        "F.scaled_dot_product_attention(x0, x1, x2, is_causal=True, scale=0.5)",
    ),
]


@pytest.mark.parametrize(("traced", "text"), READS, ids=[text for _, text in READS])
def test_it_reads_as_written_by_hand(traced: object, text: str) -> None:
    assert spelled(traced.graph.nodes[0]) == text  # type: ignore[attr-defined]


def node(op: str, *args: object, shape: tuple[Size, ...] = (), **kwargs: object) -> Node:
    return Node("y", op, args, tuple(kwargs.items()), (Value("y", shape, "float32"),))  # type: ignore[arg-type]


OPERANDS = [
    ("a + b", "(a + b).exp()", "(a + b) * c"),
    ("-a", "(-a).exp()", "(-a) * c"),
    ("~a", "(~a).exp()", "(~a) * c"),
    ("a*b", "(a*b).exp()", "(a*b) * c"),
    ("f(a, b)[..., 1:2]", "f(a, b)[..., 1:2].exp()", "f(a, b)[..., 1:2] * c"),
]


@pytest.mark.parametrize(("operand", "method", "product"), OPERANDS)
def test_operands_that_are_expressions_get_parentheses(operand: str, method: str, product: str) -> None:
    assert spell(node("aten.exp.default", Ref("x")), (operand,), ((),), "d") == method
    assert spell(node("aten.mul.Tensor", Ref("x"), Ref("z")), (operand, "c"), ((),), "d") == product


def test_sizes_that_are_products_are_divided_by_as_a_whole() -> None:
    assert spell(node("aten.div.Tensor", Ref("x"), 16 * BATCH), ("x",), ((),), "d") == "x / (16*b)"
    assert spell(node("aten.mul.Tensor", Ref("x"), BATCH / (BATCH - 1)), ("x",), ((),), "d") == "x * (b/(b - 1))"


def test_a_power_of_a_negative_number() -> None:
    assert spell(node("aten.pow.Scalar", -2, Ref("x")), ("x",), ((),), "d") == "(-2) ** x"
    assert spell(node("aten.pow.Tensor_Scalar", Ref("x"), -0.5), ("x",), ((),), "d") == "x ** -0.5"


def test_noise_is_left_out() -> None:
    device, layout = Literal("device", "device"), Literal("layout", "torch.strided")
    full = node("aten.full.default", (4, 6), 0, dtype=None, layout=layout, device=device, pin_memory=False)
    assert spell(full, (), ((4, 6),), "x.device") == "torch.full((4, 6), 0, device=x.device)"
    arange = node("aten.arange.default", BATCH, dtype=Literal("dtype", "torch.int64"), device=device, pin_memory=False)
    assert spell(arange, (), ((BATCH,),), "x.device") == "torch.arange(b, dtype=torch.int64, device=x.device)"
    cast = node("aten.to.dtype", Ref("x"), Literal("dtype", "torch.float32"), False, True)
    assert spell(cast, ("x",), ((4,),), "d") == "x.to(torch.float32)"


SHAPED: list[tuple[str, tuple[object, ...], tuple[Size, ...], str, bool]] = [
    ("aten.view.default", (Ref("x"), (BATCH, 16, 64)), (BATCH, 16, 32), "x.reshape(-1, 16, 32)", False),
    ("aten.view.default", (Ref("x"), ()), (), "x.reshape(())", False),
    ("aten.view.default", (Ref("x"), ()), (BATCH, 2 * BATCH), "x.reshape(b, 2*b)", True),
    ("aten.flatten.using_ints", (Ref("x"), 0, 1), (sympy.Mul(8, BATCH), 4), "x.reshape(-1, 4)", False),
    ("aten.expand.default", (Ref("x"), (BATCH, 8, -1)), (BATCH, 4, 6), "x.expand(b, 4, 6)", True),
    ("aten.zeros.default", ((8,),), (4,), "torch.zeros((4,))", False),
    ("aten.full.default", ((), 1.0), (), "torch.full((), 1.0)", False),
    ("aten.new_full.default", (Ref("x"), (8,), 2), (4,), "x.new_full((4,), 2)", False),
    ("aten.new_zeros.default", (Ref("x"), (BATCH,)), (BATCH,), "x.new_zeros((b,))", True),
]


@pytest.mark.parametrize(("op", "args", "shape", "text", "batch"), SHAPED, ids=[case[3] for case in SHAPED])
def test_shapes_are_the_ranks_own(
    op: str, args: tuple[object, ...], shape: tuple[Size, ...], text: str, batch: bool
) -> None:
    call = node(op, *args)
    assert spell(call, ("x",) * len(call.inputs), (shape,), "d") == text
    assert uses_batch(call, shape) == batch


def test_split_sizes_are_the_ranks_own() -> None:
    call = node("aten.split_with_sizes.default", Ref("x"), (8, 4, 4), -1)
    assert spell(call, ("x",), ((BATCH, 4), (BATCH, 2), (BATCH, 2)), "d") == "x.split((4, 2, 2), dim=-1)"
    call = node("aten.split.Tensor", Ref("x"), 8, 1)
    assert spell(call, ("x",), ((BATCH, 4), (BATCH, 4), (BATCH, 4)), "d") == "x.split(4, dim=1)"


def test_an_unknown_op_is_called_as_it_is() -> None:
    call = node("mine.op.default", Ref("x"), (1, 2), None, flag=True, name="a")
    assert spell(call, ("x",), ((),), "d") == 'torch.ops.mine.op.default(x, (1, 2), None, flag=True, name="a")'


def test_an_operator_with_the_name_of_another_is_called_by_its_own() -> None:
    import tests.custom_ops  # noqa: F401 - registers it

    node = single("autopart_tests.silu.default", t(4, 8), copy=True).graph.nodes[0]
    assert spell(node, ("x",), ((4, 8),), "device") == "torch.ops.autopart_tests.silu.default(x, copy=True)"
    assert not uses_batch(node, (4 * BATCH, 8))
