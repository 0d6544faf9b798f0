"""At least one example of every op that has a rule, by family; small sizes that two and four ranks can share."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.sharding.captured import Example, single

aten = torch.ops.aten
_generator = torch.Generator().manual_seed(1)


def t(*shape: int) -> torch.Tensor:
    """Normal numbers that require a gradient."""
    return torch.randn(shape, generator=_generator, dtype=torch.float64).requires_grad_()


def u(*shape: int) -> torch.Tensor:
    """Numbers between 0.1 and 0.9 that require a gradient."""
    return (torch.rand(shape, generator=_generator, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()


def n(*shape: int) -> torch.Tensor:
    """Numbers that require none."""
    return u(*shape).detach()


def i(high: int, *shape: int) -> torch.Tensor:
    """Integers below `high`."""
    return torch.randint(high, shape, generator=_generator)


def b(*shape: int) -> torch.Tensor:
    """Booleans."""
    return torch.rand(shape, generator=_generator) < 0.5


def of(call: Callable[..., Any], *tensors: torch.Tensor) -> Example:
    return Example(call, tensors)


UNARY = """
    abs acos acosh asin asinh atan atanh ceil celu cos cosh detach elu erf erfc exp exp2 expm1 floor frac gelu hardshrink
    hardsigmoid hardswish hardtanh isfinite isinf isnan leaky_relu log log10 log1p log2 log_sigmoid logical_not logit mish
    nan_to_num ones_like reciprocal relu relu6 round rsqrt selu sigmoid sign silu sin sinc sinh softplus softshrink sqrt
    square tan tanh trunc zeros_like neg contiguous
"""
BINARY = "atan2 floor_divide heaviside hypot isclose logaddexp maximum minimum"
TENSOR_AND_SCALAR = "eq fmod ge gt le lt ne remainder rsub copysign add sub mul div"
BITS = "__and__ __or__ __xor__ bitwise_and bitwise_or bitwise_xor"


def _aten(name: str, overload: str) -> Callable[..., Any]:
    return getattr(getattr(aten, name), overload)


ELEMENTWISE = (
    *(of(_aten(name, "default"), u(4, 8)) for name in UNARY.split()),
    *(of(_aten(name, "default"), u(2, 4, 8), u(4, 8)) for name in BINARY.split()),
    *(of(_aten(name, "default"), u(2, 4, 1), u(4, 8)) for name in BINARY.split()),
    *(of(_aten(name, "Tensor"), u(4, 8), u(4, 8)) for name in TENSOR_AND_SCALAR.split()),
    *(of(_aten(name, "Tensor"), u(4, 8), u(8)) for name in TENSOR_AND_SCALAR.split()),
    *(of(lambda x, f=_aten(name, "Scalar"): f(x, 0.3), u(4, 8)) for name in TENSOR_AND_SCALAR.split()),
    *(of(_aten(name, "Tensor"), i(9, 4, 8), i(9, 8)) for name in BITS.split()),
    *(of(_aten(name, "Tensor"), b(4, 8), b(4, 1)) for name in BITS.split()),
    *(of(lambda x, f=_aten(name, "Scalar"): f(x, 5), i(9, 4, 8)) for name in BITS.split()),
    *(of(_aten(name, "default"), b(4, 8), b(8)) for name in ("logical_and", "logical_or", "logical_xor")),
    *(of(_aten(name, "default"), i(3, 4, 8), i(3, 8)) for name in ("logical_and", "logical_or", "logical_xor")),
    of(lambda x: x + x, t(4, 8)),
    of(lambda x: x * x, t(4, 8)),
    of(lambda x, y: torch.add(x, y, alpha=3), t(4, 8), t(4, 1)),
    of(lambda x, y: torch.sub(x, y, alpha=3), t(4, 8), t(8)),
    of(lambda x, y: x + y, t(4, 8), t()),
    of(lambda x, y: torch.rsub(x, y, alpha=3), t(4, 8), t(8)),
    of(lambda x: 2 - x, t(4, 8)),
    of(lambda x: x + 1, t(4, 8)),
    of(lambda x: x * -3, t(4, 8)),
    of(lambda x: x / 3, t(4, 8)),
    of(lambda x, y: x + y, i(9, 4, 8), i(9, 4, 8)),
    of(lambda x, y: x + y, b(4, 8), b(4, 8)),
    of(lambda x, y: torch.div(x, y, rounding_mode="floor"), u(4, 8), u(4, 8)),
    of(lambda x: torch.div(x, 0.2, rounding_mode="trunc"), u(4, 8)),
    of(lambda x: aten.div.Scalar_mode(x, 0.2, rounding_mode="trunc"), u(4, 8)),
    of(lambda x: x // 0.2, u(4, 8)),
    of(lambda x: aten.floor_divide.Scalar(x, 0.2), u(4, 8)),
    of(lambda x: x.clamp(0.2, 0.7), u(4, 8)),
    of(lambda x: x.clamp(max=0.7), u(4, 8)),
    of(lambda x: aten.clamp_min.default(x, 0.3), u(4, 8)),
    of(lambda x: aten.clamp_max.default(x, 0.3), u(4, 8)),
    of(lambda x: aten.clip.default(x, 0.3), u(4, 8)),
    of(aten.clamp.Tensor, u(4, 8), u(4, 1), u(8)),
    of(lambda x, low: torch.clamp(x, max=low), u(4, 8), u(4, 1)),
    of(aten.clip.Tensor, u(4, 8), u(4, 1)),
    of(aten.clamp_min.Tensor, u(4, 8), u(8)),
    of(aten.clamp_max.Tensor, u(4, 8), u(8)),
    of(aten.max.other, u(4, 8), u(8)),
    of(aten.min.other, u(4, 8), u(8)),
    of(aten.xlogy.Tensor, u(4, 8), u(8)),
    of(lambda x: x**2, t(4, 8)),
    of(lambda x: x**-0.5, u(4, 8)),
    of(lambda x: 2**x, t(4, 8)),
    of(lambda x: (-2) ** x, i(3, 4, 8)),
    of(lambda x, y: x**y, u(4, 8), u(4, 1)),
    of(lambda x: torch.acosh(x + 1), u(4, 8)),
    of(lambda x: ~x, b(4, 8)),
    of(lambda x: aten.bitwise_not.default(x), i(9, 4, 8)),
    of(lambda x: ~x & (x | ~x), b(4, 8)),
    of(lambda x: F.gelu(x, approximate="tanh"), t(4, 8)),
    of(lambda x: F.elu(x, 0.3), t(4, 8)),
    of(lambda x: aten.elu.default(x, 0.3, 1.5, 2.0), t(4, 8)),
    of(lambda x: F.celu(x, 0.3), t(4, 8)),
    of(lambda x: F.leaky_relu(x, 0.3), t(4, 8)),
    of(lambda x: F.softplus(x, 2.0, 0.5), t(4, 8)),
    of(lambda x: F.softplus(x, threshold=0.5), t(4, 8)),
    of(lambda x: F.hardtanh(x, -0.3, 0.4), t(4, 8)),
    of(lambda x: F.hardshrink(x, 0.2), t(4, 8)),
    of(lambda x: F.softshrink(x, 0.2), t(4, 8)),
    of(lambda x: F.threshold(x, 0.2, -1.0), t(4, 8)),
    of(lambda x: torch.logit(x, 0.2), u(4, 8)),
    of(lambda x: torch.nan_to_num(x, 1.0, 2.0, -2.0), t(4, 8)),
    of(lambda c, x, y: torch.where(c, x, y), b(4, 8), t(4, 1), t(8)),
    of(lambda c, x: torch.where(c, x, float("-inf")), b(4, 8), t(4, 8)),
    of(lambda c, x: torch.where(c, 0.0, x), b(4, 1), t(4, 8)),
    of(lambda c: aten.where.Scalar(c, 1.0, 2.0), b(4, 8)),
    of(lambda x, m: x.masked_fill(m, -1e9), t(2, 4, 8), b(4, 8)),
    of(lambda x, m: x.masked_fill(m, float("-inf")), t(4, 8), b(4, 1)),
    of(lambda x, m, v: x.masked_fill(m, v), t(4, 8), b(4, 8), t()),
    of(lambda x, y, z: torch.addcmul(x, y, z, value=2), t(4, 8), t(4, 1), t(8)),
    of(lambda x, y, z: torch.addcdiv(x, y, z, value=2), t(4, 8), t(4, 1), u(8)),
    of(lambda x, y: torch.lerp(x, y, 0.3), t(4, 8), t(4, 8)),
    of(lambda x, y, w: torch.lerp(x, y, w), t(4, 8), t(4, 8), u(8)),
    of(lambda x: torch.full_like(x, 2.5), t(4, 8)),
    of(lambda x: torch.ones_like(x, dtype=torch.float32), t(4, 8)),
    of(lambda x: x.float(), t(4, 8)),
    of(lambda x: x.to(torch.float64), n(4, 8).float()),
    of(lambda x: x.to(torch.float64), b(4, 8)),
    of(lambda x: x.to(device=x.device, dtype=torch.float32), t(4, 8)),
    of(lambda x, y: x.to(y), t(4, 8), n(4, 8).float()),
    of(lambda x, y: aten.to.other(x, y), t(4, 8), n(4, 8).float()),
    of(lambda x: aten.to.device(x, x.device, torch.float32), t(4, 8)),
    of(lambda x: aten.to.dtype_layout(x, dtype=torch.float32, layout=torch.strided, device=x.device), t(4, 8)),
    of(lambda x: aten._to_copy.default(x, dtype=torch.float32), t(4, 8)),
    of(lambda x, y: x.type_as(y), t(4, 8), n(4, 8).float()),
    of(lambda x, y: torch.broadcast_tensors(x, y), t(4, 1), t(8)),
    of(lambda x, y: x.mT.contiguous() + y, t(4, 8), t(8, 4)),
    of(lambda x: torch.isclose(x, x + 0.01, rtol=0.02, atol=0.0), u(4, 8)),
)

RANDOM = (
    of(lambda x: F.dropout(x, 0.3), t(4, 8)),
    of(lambda x: aten.native_dropout.default(x, 0.5, True), t(4, 8)),
    of(torch.rand_like, t(4, 8)),
    of(lambda x: torch.randn_like(x, dtype=torch.float32), t(4, 8)),
    of(torch.bernoulli, u(4, 8)),
    of(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, dropout_p=0.5),
        t(2, 4, 8, 4),
        t(2, 4, 8, 4),
        t(2, 4, 8, 4),
    ),
)

MATMUL = (
    of(F.linear, t(2, 4, 8), t(12, 8), t(12)),
    of(F.linear, t(4, 8), t(12, 8)),
    of(F.linear, t(8), t(12, 8), t(12)),
    of(torch.mm, t(4, 8), t(8, 12)),
    of(torch.addmm, t(12), t(4, 8), t(8, 12)),
    of(torch.addmm, t(4, 1), t(4, 8), t(8, 12)),
    of(lambda c, x, y: torch.addmm(c, x, y, beta=0.5, alpha=2.0), t(4, 12), t(4, 8), t(8, 12)),
    of(torch.bmm, t(2, 4, 8), t(2, 8, 4)),
    of(torch.baddbmm, t(2, 4, 4), t(2, 4, 8), t(2, 8, 4)),
    of(lambda c, x, y: torch.baddbmm(c, x, y, beta=0.5, alpha=2.0), t(1, 4, 4), t(2, 4, 8), t(2, 8, 4)),
    of(torch.matmul, t(4, 8), t(8, 12)),
    of(torch.matmul, t(2, 1, 4, 8), t(4, 8, 12)),
    of(torch.matmul, t(2, 4, 4, 8), t(1, 4, 8, 4)),
    of(torch.matmul, t(4, 8), t(2, 8, 12)),
    of(torch.matmul, t(8), t(8, 12)),
    of(lambda x, y: torch.einsum("bshd,hde->bse", x, y), t(2, 4, 4, 2), t(4, 2, 8)),
    of(lambda x, y: torch.einsum("bqhd,bkhd->bhqk", x, y), t(2, 4, 4, 2), t(2, 4, 4, 2)),
    of(lambda x, y, z: torch.einsum("ab,bc,cd->ad", x, y, z), t(2, 4), t(4, 8), t(8, 4)),
    of(lambda x: torch.einsum("ab->", x), t(2, 4)),
)

NORMALIZATION = (
    of(lambda x, w, c: F.layer_norm(x, (8,), w, c, 1e-3), t(2, 4, 8), t(8), t(8)),
    of(lambda x, w: F.layer_norm(x, (4, 8), w), t(2, 4, 8), t(4, 8)),
    of(lambda x: F.layer_norm(x, (8,)), t(4, 8)),
    of(lambda x, w: F.rms_norm(x, (8,), w, 1e-3), t(2, 4, 8), t(8)),
    of(lambda x, w: F.rms_norm(x, (8,), w), t(4, 8), t(8)),
    of(lambda x: F.rms_norm(x, (8,)), t(4, 8)),
    of(lambda x, w, c: F.group_norm(x, 2, w, c, 1e-3), t(4, 8, 4), t(8), t(8)),
    of(lambda x: F.group_norm(x, 2), t(4, 8, 4, 2)),
    of(lambda x, w, c, m, v: F.batch_norm(x, m, v, w, c, False, 0.2, 1e-3), t(4, 8, 2), t(8), t(8), n(8), n(8)),
    of(lambda x, w, c: F.batch_norm(x, None, None, w, c, True), t(4, 8, 2), t(8), t(8)),
    of(lambda x: F.softmax(x, -1), t(2, 4, 8)),
    of(lambda x: F.softmax(x, 1, dtype=torch.float64), n(2, 4, 8).float()),
    of(lambda x: F.log_softmax(x, 1), t(2, 4, 8)),
    of(lambda x: aten._softmax.default(x, -1, False), t(4, 8)),
    of(lambda x: aten._log_softmax.default(x, -1, False), t(4, 8)),
    of(lambda x: x.cumsum(1), t(2, 4, 8)),
    of(lambda x: x.cumsum(-1, dtype=torch.float64), i(3, 4, 8)),
    of(lambda x: x.cumsum(0), b(4, 8)),
    of(lambda x: x.cumprod(1), u(2, 4, 8)),
)

REDUCTION = (
    *(
        of(getattr(torch, name), t(4, 8))
        for name in ["sum", "mean", "max", "min", "prod", "std", "var", "logsumexp"]
        if name != "logsumexp"
    ),
    *(
        of(lambda x, f=getattr(torch, name), dim=dim, keep=keep: f(x, dim, keepdim=keep), t(2, 4, 8))
        for name in ["sum", "mean", "amax", "amin", "argmax", "argmin", "max", "min", "prod", "std", "var", "logsumexp"]
        for dim, keep in ((-1, False), (1, True), (0, False))
    ),
    *(
        of(lambda x, f=getattr(torch, name), keep=keep: f(x, (0, 2), keepdim=keep), t(2, 4, 8))
        for name in ["sum", "mean", "amax", "amin", "std", "var", "logsumexp"]
        for keep in (False, True)
    ),
    of(lambda x: x.amax(), t(4, 8)),
    of(aten.std.default, t(4, 8)),
    of(lambda x: aten.std.dim(x, None, False, True), t(4, 8)),
    of(lambda x: torch.var(x, correction=0, keepdim=True), t(4, 8)),
    of(lambda x: aten.mean.dim(x, None, True), t(4, 8)),
    of(lambda x: x.argmax(keepdim=True), t(4, 8)),
    of(lambda x: aten.all.dims(x, None, True), b(4, 8)),
    of(lambda x: x.argmax(), t(4, 8)),
    of(lambda x: x.std(-1, unbiased=False), t(4, 8)),
    of(lambda x: x.var(-1, unbiased=False, keepdim=True), t(4, 8)),
    of(lambda x: torch.std(x, dim=-1, correction=2, keepdim=True), t(4, 8)),
    of(lambda x: torch.var(x, dim=(0, 1), correction=0), t(4, 8, 2)),
    of(lambda x: torch.var(x, unbiased=False), t(4, 8)),
    of(lambda x: aten.sum.dim_IntList(x, None, True), t(4, 8)),
    of(lambda x: x.sum((), keepdim=True), t(4, 8)),
    of(lambda x: x.sum(1), b(4, 8)),
    of(lambda x: x.sum(1), i(9, 4, 8)),
    of(lambda x: x.sum(1, dtype=torch.float64), i(9, 4, 8)),
    of(lambda x: x.mean(1, dtype=torch.float64), n(4, 8).float()),
    of(lambda x: x.sum(), t()),
    of(lambda x: x.all(), b(4, 8)),
    of(lambda x: x.any(), b(4, 8)),
    of(lambda x: x.all(1), b(4, 8)),
    of(lambda x: x.any(1, keepdim=True), b(4, 8)),
    of(lambda x: aten.all.dims(x, (1,)), b(4, 8)),
    of(lambda x: aten.any.dims(x, (1,), True), b(4, 8)),
    of(lambda x: torch.linalg.vector_norm(x, 3, -1), t(4, 8)),
    of(lambda x: torch.linalg.vector_norm(x), t(4, 8)),
    of(lambda x: F.normalize(x, dim=-1), t(4, 8)),
)

VIEW = (
    of(lambda x: x.view(4, 2, 6), t(4, 12)),
    of(lambda x: x.reshape(4, 3, 2, 4), t(4, 24)),
    of(lambda x: x.reshape(8, 12), t(2, 4, 12)),
    of(lambda x: x.reshape(2, 24, 2), t(2, 4, 6, 2)),
    of(lambda x: x.reshape(2, 1, 8, 1), t(2, 8)),
    of(lambda x: x.reshape(8, 3), t(4, 6)),
    of(lambda x: x.reshape(48), t(4, 12)),
    of(lambda x: x.reshape(()), t(1, 1)),
    of(lambda x: aten._unsafe_view.default(x, (8, 12)), t(2, 4, 12)),
    of(lambda x: x.flatten(1, 2), t(2, 4, 6, 2)),
    of(lambda x: x.unflatten(-1, (3, 4)), t(2, 12)),
    of(lambda x: x.reshape(4, 12), b(2, 2, 12)),
    of(lambda x: x.permute(2, 0, 1), t(2, 4, 8)),
    of(lambda x: x.permute(0, -1, 1), t(2, 4, 8)),
    of(lambda x: x.transpose(1, -1), t(2, 4, 8)),
    of(lambda x: aten.t.default(x), t(4, 8)),
    of(lambda x: aten.t.default(x), t(8)),
    of(lambda x: x.mT, t(2, 4, 8)),
    of(lambda x: x.T, t(4, 8)),
    of(lambda x: x.swapaxes(0, 2), t(2, 4, 8)),
    of(lambda x: x.swapdims(0, 2), t(2, 4, 8)),
    of(lambda x: x.movedim(0, 2), t(2, 4, 8)),
    of(lambda x: x.movedim((0, 1), (2, 0)), t(2, 4, 8)),
    of(lambda x: x.expand(2, 4, 8), t(4, 1)),
    of(lambda x: x.expand(2, -1, 8), t(2, 4, 1)),
    of(lambda x, y: x.expand_as(y), t(4, 1), n(4, 8)),
    of(lambda x: x.broadcast_to(2, 4, 8), t(4, 1)),
    of(lambda x: x.unsqueeze(1), t(4, 8)),
    of(lambda x: x.unsqueeze(-1), t(4, 8)),
    of(lambda x: x.squeeze(), t(1, 4, 1, 2)),
    of(lambda x: x.squeeze(1), t(4, 1, 2)),
    of(lambda x: x.squeeze(-1), t(4, 2)),
    of(lambda x: aten.squeeze.dims(x, (0, 2)), t(1, 4, 1, 2)),
    of(lambda x: aten.squeeze.dims(x, (0, -1)), t(1, 4, 2)),
    of(lambda x: torch.full((4, 8), 2.5, dtype=x.dtype, device=x.device), n(1)),
    of(lambda x: torch.zeros(4, 8, dtype=x.dtype, device=x.device), n(1)),
    of(lambda x: torch.ones(4, 8, dtype=torch.int64, device=x.device), n(1)),
    of(lambda x: torch.full((), 2.5, dtype=x.dtype, device=x.device), n(1)),
    of(lambda x: x.new_ones(4, 8), n(2, 4)),
    of(lambda x: x.new_zeros(4, 8, dtype=torch.int64), n(2, 4)),
    of(lambda x: x.new_full((4, 8), 2.5), n(2, 4)),
)

CUTTING = (
    of(lambda x: x[:, 1:], t(2, 4, 8)),
    of(lambda x: x[..., :-1], t(2, 4, 8)),
    of(lambda x: x[..., -3:], t(2, 4, 8)),
    of(lambda x: x[-3:-1], t(4, 8)),
    of(lambda x: x[:, None, ..., ::2], t(2, 4, 8)),
    of(lambda x: x[..., 1::3], t(4, 8)),
    of(lambda x: x[:, 0], t(2, 4, 8)),
    of(lambda x: x[..., -1], t(2, 4, 8)),
    of(lambda x: x.select(-2, 1), t(2, 4, 8)),
    of(lambda x: x.unbind(1), t(2, 4, 8)),
    of(lambda x: x.unbind(), t(4, 8)),
    of(lambda x: F.pad(x, (1, 2)), t(4, 8)),
    of(lambda x: F.pad(x, (-1, 1)), t(4, 8)),
    of(lambda x: F.pad(x, (0, 0, 1, 0), value=2.5), t(2, 4, 8)),
    of(lambda x: F.pad(x, (2, 1), mode="reflect"), t(2, 4, 8)),
    of(lambda x: F.pad(x, (0, 1), value=-100), i(9, 4, 8)),
    of(lambda x: aten.constant_pad_nd.default(x, (0, 1)), t(4, 8)),
    of(lambda x: aten.constant_pad_nd.default(x, (0, 1), 2.5), t(4, 8)),
    of(lambda x: x.split(4, -1), t(2, 12)),
    of(lambda x: x.split(4), t(12, 2)),
    of(lambda x: x.split(8, 1), t(2, 12)),
    of(lambda x: x.split((8, 4, 4), -1), t(2, 4, 16)),
    of(lambda x: x.split((4, 8), 1), t(2, 12)),
    of(lambda x: aten.split.sizes(x, (4, 8), 1), t(2, 12)),
    of(lambda x: x.chunk(3, -1), t(2, 12)),
    of(lambda x: x.chunk(4, -1), t(2, 28)),
    of(lambda x: x.chunk(2), t(4, 8)),
    of(lambda x: F.glu(x), t(4, 8)),
    of(lambda x: F.glu(x, 1), t(2, 12, 4)),
    of(lambda x: x.repeat(2, 1, 3), t(4, 8)),
    of(lambda x: x.repeat(1, 3), i(9, 4, 8)),
    of(lambda x, y: torch.cat((x, y), -1), t(2, 4), t(2, 4)),
    of(lambda x, y, z: torch.cat((x, y, z), 1), t(2, 8), t(2, 4), t(2, 4)),
    of(lambda x, y: torch.cat((x, y)), b(4, 2), b(4, 2)),
    of(lambda x, y: torch.concat((x, y), 1), t(2, 4), t(2, 8)),
    of(lambda x, y: aten.concat.default((x, y), 1), t(2, 4), t(2, 8)),
    of(lambda x, y: torch.stack((x, y), 1), t(2, 4), t(2, 4)),
    of(lambda x, y: torch.stack((x, y), -1), t(2, 4), t(2, 4)),
)

INDEXING = (
    of(lambda x, j: x[j], t(8, 4), i(8, 4)),
    of(lambda x, j: x[:, j], t(2, 8, 4), i(8, 4, 2)),
    of(lambda x, j: x[..., j], t(2, 8, 4), i(4, 4)),
    of(lambda x, j: x.index_select(1, j), t(2, 8, 4), i(8, 4)),
    of(lambda x, j: x.gather(1, j), t(4, 8), i(8, 4, 2)),
    of(lambda x, j: x.gather(-1, j), t(4, 8, 4), i(4, 4, 6, 4)),
    of(lambda x: F.one_hot(x, 8), i(8, 4, 2)),
    of(lambda x: x.flip(1), t(2, 4, 8)),
    of(lambda x: x.flip((0, -1)), t(2, 4, 8)),
    of(lambda x: x.roll(1, 1), t(2, 4, 8)),
    of(lambda x: x.roll((1, 2), (0, 1)), t(2, 4, 8)),
    of(lambda x: x.roll(3), t(4, 8)),
    of(lambda x: x.tril(), t(2, 4, 8)),
    of(lambda x: x.triu(1), t(2, 4, 8)),
    of(lambda x: x.sort(), t(4, 8)),
    of(lambda x: x.sort(0, descending=True), t(4, 8)),
    of(lambda x: x.argsort(0), t(4, 8)),
    of(lambda x: x.topk(2), t(4, 8)),
    of(lambda x: x.topk(2, 0, largest=False), t(4, 8)),
    of(lambda x, w: F.embedding(x, w), i(8, 2, 4), t(8, 4)),
    of(lambda x, w: F.embedding(x, w, padding_idx=5), i(8, 4, 4), t(8, 4)),
    of(lambda x, w: F.embedding(x, w, padding_idx=-8), i(8, 4, 4), t(8, 4)),
    of(lambda x, w: F.embedding(x, w, scale_grad_by_freq=True), i(8, 4, 4), t(8, 4)),
)


def attention(**kwargs: Any) -> Callable[..., torch.Tensor]:
    return lambda q, k, v, *mask: F.scaled_dot_product_attention(q, k, v, *mask, **kwargs)


ATTENTION = (
    of(attention(), t(2, 4, 6, 4), t(2, 4, 8, 4), t(2, 4, 8, 2)),
    of(attention(), t(8, 4), t(8, 4), t(8, 4)),
    of(attention(is_causal=True), t(2, 4, 8, 4), t(2, 4, 8, 4), t(2, 4, 8, 4)),
    of(attention(scale=0.3), t(2, 4, 8, 4), t(2, 4, 8, 4), t(2, 4, 8, 4)),
    of(attention(enable_gqa=True, is_causal=True), t(2, 8, 4, 4), t(2, 4, 4, 4), t(2, 4, 4, 4)),
    of(attention(enable_gqa=True), t(2, 8, 4, 4), t(2, 2, 4, 4), t(2, 2, 4, 4)),
    of(attention(enable_gqa=True), t(2, 4, 4, 4), t(2, 1, 4, 4), t(2, 1, 4, 4)),
    of(attention(), t(2, 4, 6, 4), t(2, 4, 8, 4), t(2, 4, 8, 4), torch.ones(6, 8).bool().tril(2)),
    of(attention(), t(2, 4, 4, 4), t(2, 4, 8, 4), t(2, 4, 8, 4), t(4, 4, 8)),
    of(attention(), t(2, 4, 4, 4), t(2, 4, 8, 4), t(2, 4, 8, 4), t(2, 1, 1, 8)),
)

CONVOLUTION = (
    of(F.conv1d, t(4, 8, 6), t(12, 8, 3), t(12)),
    of(lambda x, w: F.conv1d(x, w, stride=2, padding=1, dilation=2), t(2, 4, 8), t(4, 4, 3)),
    of(lambda x, w, c: F.conv2d(x, w, c, padding=1), t(2, 4, 4, 4), t(8, 4, 3, 3), t(8)),
    of(lambda x, w: F.conv2d(x, w, None, (2, 1), (1, 0)), t(2, 4, 4, 4), t(8, 4, 3, 3)),
    of(lambda x, w: F.conv2d(x, w, groups=4), t(2, 4, 4, 4), t(8, 1, 3, 3)),
    of(lambda x, w: F.conv3d(x, w), t(2, 4, 3, 3, 3), t(4, 4, 2, 2, 2)),
    *(
        of(lambda x, w, f=f: f(x, w, padding="same"), t(2, 4, *([3] * d)), t(4, 4, *([3] * d)))
        for d, f in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)
    ),
    *(
        of(lambda x, f=getattr(F, f"{kind}_pool{d}d"): f(x, 2), t(2, 4, *([4] * d)))
        for d in (1, 2, 3)
        for kind in ("max", "avg", "adaptive_avg")
    ),
    *(
        of(lambda x, f=_aten(f"{name}{d}d{rest}", "default"), d=d: f(x, [2] * d), t(2, 4, *([4] * d)))
        for d in (1, 2, 3)
        for name, rest in (("adaptive_max_pool", ""), ("max_pool", "_with_indices"), ("max_pool", ""))
    ),
    of(lambda x: F.max_pool2d(x, 3, 1, 1, ceil_mode=True), t(2, 4, 4, 4)),
    of(lambda x: F.max_pool2d(x, (2, 1)), t(4, 4, 4)),
    of(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), t(2, 4, 4, 4)),
    of(lambda x: F.avg_pool2d(x, 2, divisor_override=3), t(2, 4, 4, 4)),
    of(lambda x: F.adaptive_avg_pool2d(x, (1, 2)), t(2, 4, 4, 4)),
)


def losses(call: Callable[..., torch.Tensor], **kwargs: Any) -> tuple[Example, ...]:
    """A loss in all its reductions."""
    return tuple(
        of(lambda x, y, r=reduction: call(x, y, reduction=r, **kwargs), u(4, 8), u(4, 8))
        for reduction in ("mean", "sum", "none")
    )


def class_losses(**kwargs: Any) -> tuple[Example, ...]:
    targets = i(8, 4)
    targets[1] = 3
    return tuple(
        of(lambda x, y, r=reduction: F.cross_entropy(x, y, reduction=r, **kwargs), t(4, 8), targets)
        for reduction in ("mean", "sum", "none")
    )


LOSS = (
    *losses(F.mse_loss),
    *losses(F.l1_loss),
    *losses(F.smooth_l1_loss, beta=0.3),
    *losses(F.huber_loss, delta=0.3),
    *losses(F.binary_cross_entropy),
    *losses(F.binary_cross_entropy_with_logits),
    *losses(F.kl_div),
    *losses(F.kl_div, log_target=True),
    *class_losses(),
    *class_losses(ignore_index=3),
    *class_losses(label_smoothing=0.1),
    of(lambda x, y: F.kl_div(x, y, reduction="batchmean"), u(4, 8), u(4, 8)),
    of(lambda x, y, w: F.binary_cross_entropy_with_logits(x, y, pos_weight=w), t(4, 8), u(4, 8), n(8)),
    of(lambda x, y, w: F.binary_cross_entropy(x, y, w), u(4, 8), u(4, 8), n(4, 8)),
    of(lambda x, y, w: F.cross_entropy(x, y, w), t(4, 8), i(8, 4), n(8)),
    of(lambda x, y: F.cross_entropy(x, y), t(4, 8, 2), i(8, 4, 2)),
    of(lambda x, y: F.cross_entropy(x, y), t(4, 8), u(4, 8)),
)

# What capture leaves out of its graphs.
UNCAPTURED = {
    "clone": single("aten.clone.default", t(4, 8)),
}

FAMILIES = {
    "elementwise": ELEMENTWISE,
    "random": RANDOM,
    "matmul": MATMUL,
    "normalization": NORMALIZATION,
    "reduction": REDUCTION,
    "view": VIEW,
    "cutting": CUTTING,
    "indexing": INDEXING,
    "attention": ATTENTION,
    "convolution": CONVOLUTION,
    "loss": LOSS,
}
