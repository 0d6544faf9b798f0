"""Signatures: the functions and methods of PyTorch that ATen calls are written as.

Parameters stand in the order of the ATen op. Those that equal their default are left out; those after `*` are written
by name; `_` is one that the function lacks. A key with an overload ("var.dim") goes before one without.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Parameter:
    """A parameter: `keyword` says that it is written by name."""

    name: str
    default: str | None
    keyword: bool


@dataclass(frozen=True)
class Signature:
    """A function (`F.linear`), or a `method` of the first argument."""

    callee: str
    method: bool
    parameters: tuple[Parameter, ...]


def parse(text: str) -> Signature:
    """The signature that `F.gelu(x, *, approximate="none")` or `x.sum(*, dim=None)` describes."""
    callee, _, rest = text.removesuffix(")").partition("(")
    method = callee.startswith("x.")
    parameters = [Parameter("input", None, False)] if method else []
    keyword = False
    for item in filter(None, rest.split(", ")):
        if item == "*":
            keyword = True
            continue
        name, _, default = item.partition("=")
        parameters.append(Parameter(name, default or None, keyword))
    return Signature(callee.removeprefix("x."), method, tuple(parameters))


OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@", "mm": "@", "pow": "**",
    "remainder": "%", "floor_divide": "//",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "__and__": "&", "bitwise_and": "&", "__or__": "|", "bitwise_or": "|", "__xor__": "^", "bitwise_xor": "^",
}  # fmt: skip

FUNCTIONS = """
    F.linear(input, weight, bias=None)
    F.layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-05, _=True)
    F.rms_norm(input, normalized_shape, weight=None, eps=None)
    torch.native_batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps)
    F.group_norm(input, num_groups, weight=None, bias=None, eps=1e-05, _=True)
    F.gelu(input, *, approximate="none")
    F.celu(input, alpha=1)
    F.elu(input, alpha=1)
    F.glu(input, dim=-1)
    F.hardshrink(input, lambd=0.5)
    F.hardsigmoid(input)
    F.hardswish(input)
    F.hardtanh(input, min_val=-1, max_val=1)
    F.leaky_relu(input, negative_slope=0.01)
    F.mish(input)
    F.relu(input)
    F.relu6(input)
    F.selu(input)
    F.silu(input)
    F.softplus(input, beta=1, threshold=20)
    F.softshrink(input, lambd=0.5)
    F.threshold(input, threshold, value)
    F.dropout(input, p, training=True)
    F.one_hot(input, num_classes)
    F.pad(input, pad, mode="constant", value=None)
    F.conv1d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)
    F.conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)
    F.conv3d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1)
    F.max_pool1d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False)
    F.max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False)
    F.max_pool3d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False)
    F.avg_pool1d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True)
    F.avg_pool2d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True)
    F.avg_pool3d(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True)
    F.adaptive_avg_pool1d(input, output_size)
    F.adaptive_avg_pool2d(input, output_size)
    F.adaptive_avg_pool3d(input, output_size)
    F.mse_loss(input, target, *, reduction="mean")
    F.l1_loss(input, target, *, reduction="mean")
    F.smooth_l1_loss(input, target, *, reduction="mean", beta=1)
    F.huber_loss(input, target, *, reduction="mean", delta=1)
    F.kl_div(input, target, *, reduction="mean", log_target=False)
    F.binary_cross_entropy(input, target, *, weight=None, reduction="mean")
    F.binary_cross_entropy_with_logits(input, target, *, weight=None, pos_weight=None, reduction="mean")
    torch.cat(tensors, dim=0)
    torch.stack(tensors, dim=0)
    torch.where(condition, input, other)
    torch.bmm(input, mat2)
    torch.addmm(input, mat1, mat2, *, beta=1, alpha=1)
    torch.baddbmm(input, batch1, batch2, *, beta=1, alpha=1)
    torch.add(input, other, *, alpha=1)
    torch.sub(input, other, *, alpha=1)
    torch.div(input, other, *, rounding_mode=None)
    torch.addcdiv(input, tensor1, tensor2, *, value=1)
    torch.addcmul(input, tensor1, tensor2, *, value=1)
    torch.atan2(input, other)
    torch.bernoulli(input)
    torch.copysign(input, other)
    torch.fmod(input, other)
    torch.heaviside(input, values)
    torch.hypot(input, other)
    torch.isclose(input, other, rtol=1e-05, atol=1e-08, equal_nan=False)
    torch.lerp(input, end, weight)
    torch.logaddexp(input, other)
    torch.logical_and(input, other)
    torch.logical_not(input)
    torch.logical_or(input, other)
    torch.logical_xor(input, other)
    torch.maximum(input, other)
    torch.minimum(input, other)
    torch.xlogy(input, other)
    torch.ones_like(input, *, dtype=None, device=None)
    torch.zeros_like(input, *, dtype=None, device=None)
    torch.full_like(input, fill_value, *, dtype=None, device=None)
    torch.rand_like(input, *, dtype=None, device=None)
    torch.randn_like(input, *, dtype=None, device=None)
"""

METHODS = """
    abs acos acosh asin asinh atan atanh ceil cos cosh detach erf erfc exp exp2 expm1 floor frac isfinite isinf isnan
    log log10 log1p log2 reciprocal round rsqrt sigmoid sign sin sinc sinh sqrt square t tan tanh trunc
"""

METHODS_WITH_PARAMETERS = """
    x.argsort(dim=-1, descending=False)
    x.chunk(chunks, dim=0)
    x.clamp(*, min=None, max=None)
    x.clamp_max(max)
    x.clamp_min(min)
    x.clone(*, memory_format=None)
    x.contiguous(*, memory_format=torch.contiguous_format)
    x.cumprod(dim, *, dtype=None)
    x.cumsum(dim, *, dtype=None)
    x.expand_as(other)
    x.flip(dims)
    x.gather(dim, index)
    x.index_select(dim, index)
    x.logit(eps=None)
    x.masked_fill(mask, value)
    x.movedim(source, destination)
    x.nan_to_num(*, nan=0.0, posinf=None, neginf=None)
    x.roll(shifts, dims=())
    x.sort(dim=-1, descending=False)
    x.squeeze(dim)
    x.swapaxes(axis0, axis1)
    x.swapdims(dim0, dim1)
    x.topk(k, dim=-1, largest=True, sorted=True)
    x.transpose(dim0, dim1)
    x.tril(diagonal=0)
    x.triu(diagonal=0)
    x.type_as(other)
    x.unbind(dim=0)
    x.unsqueeze(dim)
    x.all(*, dim, keepdim=False)
    x.amax(*, dim=(), keepdim=False)
    x.amin(*, dim=(), keepdim=False)
    x.any(*, dim, keepdim=False)
    x.argmax(*, dim=None, keepdim=False)
    x.argmin(*, dim=None, keepdim=False)
    x.logsumexp(*, dim, keepdim=False)
    x.max(*, dim, keepdim=False)
    x.mean(*, dim, keepdim=False, dtype=None)
    x.min(*, dim, keepdim=False)
    x.prod(*, dim, keepdim=False, dtype=None)
    x.sum(*, dim, keepdim=False, dtype=None)
"""

# ATen ops whose function has another name, and overloads that differ from one another.
RENAMED = {
    "concat": "torch.cat(tensors, dim=0)",
    "cross_entropy_loss": "F.cross_entropy(input, target, *, weight=None, "
    'reduction="mean", ignore_index=-100, label_smoothing=0)',
    "scaled_dot_product_attention": "F.scaled_dot_product_attention(query, key, value, *, attn_mask=None, "
    "dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False)",
    "clip": "x.clamp(*, min=None, max=None)",
    "log_sigmoid": "F.logsigmoid(input)",
    "softmax": "F.softmax(input, *, dim, dtype=None)",
    "log_softmax": "F.log_softmax(input, *, dim, dtype=None)",
    "linalg_vector_norm": "torch.linalg.vector_norm(input, ord=2, *, dim=None, keepdim=False, dtype=None)",
    "all.default": "x.all()",
    "any.default": "x.any()",
    "max.default": "x.max()",
    "min.default": "x.min()",
    "max.other": "torch.maximum(input, other)",
    "min.other": "torch.minimum(input, other)",
    "mean.default": "x.mean(*, dtype=None)",
    "prod.default": "x.prod(*, dtype=None)",
    "sum.default": "x.sum(*, dtype=None)",
    "std.default": "x.std(*, unbiased=True)",
    "std.dim": "x.std(*, dim, unbiased=True, keepdim=False)",
    "std.correction": "x.std(*, dim=None, correction=1, keepdim=False)",
    "var.default": "x.var(*, unbiased=True)",
    "var.dim": "x.var(*, dim, unbiased=True, keepdim=False)",
    "var.correction": "x.var(*, dim=None, correction=1, keepdim=False)",
}


def _table() -> dict[str, Signature]:
    listed = [line.strip() for line in (FUNCTIONS + METHODS_WITH_PARAMETERS).splitlines() if line.strip()]
    texts = {text.partition("(")[0].rpartition(".")[2]: text for text in listed}
    texts |= {name: f"x.{name}()" for name in METHODS.split()} | RENAMED
    return {name: parse(text) for name, text in texts.items()}


SIGNATURES: Mapping[str, Signature] = _table()
