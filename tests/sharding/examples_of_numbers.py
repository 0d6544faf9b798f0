"""Examples of ops that compute: elementwise, products, norms, reductions."""

import torch
import torch.nn.functional as F

from tests.sharding.tensors import aten, b, i, n, of, of_aten, t, u, with_last

UNARY = """
    abs acos acosh asin asinh atan atanh ceil celu cos cosh detach elu erf erfc exp exp2 expm1 floor frac gelu
    hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan leaky_relu log log10 log1p log2 log_sigmoid
    logical_not logit mish nan_to_num ones_like reciprocal relu relu6 round rsqrt selu sigmoid sign silu sin
    sinc sinh softplus softshrink sqrt square tan tanh trunc zeros_like neg contiguous
"""
BINARY = "atan2 floor_divide heaviside hypot isclose logaddexp maximum minimum"
TENSOR_AND_SCALAR = "eq fmod ge gt le lt ne remainder rsub copysign add sub mul div"
BITS = "__and__ __or__ __xor__ bitwise_and bitwise_or bitwise_xor"


ELEMENTWISE = (
    *(of(of_aten(name, "default"), u(4, 8)) for name in UNARY.split()),
    *(of(of_aten(name, "default"), u(2, 4, 8), u(4, 8)) for name in BINARY.split()),
    *(of(of_aten(name, "default"), u(2, 4, 1), u(4, 8)) for name in BINARY.split()),
    *(of(of_aten(name, "Tensor"), u(4, 8), u(4, 8)) for name in TENSOR_AND_SCALAR.split()),
    *(of(of_aten(name, "Tensor"), u(4, 8), u(8)) for name in TENSOR_AND_SCALAR.split()),
    *(of(with_last(of_aten(name, "Scalar"), 0.3), u(4, 8)) for name in TENSOR_AND_SCALAR.split()),
    *(of(of_aten(name, "Tensor"), i(9, 4, 8), i(9, 8)) for name in BITS.split()),
    *(of(of_aten(name, "Tensor"), b(4, 8), b(4, 1)) for name in BITS.split()),
    *(of(with_last(of_aten(name, "Scalar"), 5), i(9, 4, 8)) for name in BITS.split()),
    *(of(of_aten(name, "default"), b(4, 8), b(8)) for name in ("logical_and", "logical_or", "logical_xor")),
    *(of(of_aten(name, "default"), i(3, 4, 8), i(3, 8)) for name in ("logical_and", "logical_or", "logical_xor")),
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
    of(lambda x, w, c: torch.native_batch_norm(x, w, c, None, None, True, 0.1, 1e-5), t(4, 8, 2), t(8), t(8)),
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
        of(with_last(getattr(torch, name), dim, keepdim=keep), t(2, 4, 8))
        for name in ["sum", "mean", "amax", "amin", "argmax", "argmin", "max", "min", "prod", "std", "var", "logsumexp"]
        for dim, keep in ((-1, False), (1, True), (0, False))
    ),
    *(
        of(with_last(getattr(torch, name), (0, 2), keepdim=keep), t(2, 4, 8))
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
