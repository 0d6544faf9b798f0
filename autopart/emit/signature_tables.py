"""Tables of how PyTorch's functions are called, for the ATen ops; `signatures` reads them and says how."""

OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "matmul": "@", "mm": "@", "pow": "**",
    "remainder": "%", "floor_divide": "//",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
    "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "subtract": "-", "multiply": "*", "divide": "/", "true_divide": "/",
    "__lshift__": "<<", "bitwise_left_shift": "<<", "__rshift__": ">>", "bitwise_right_shift": ">>",
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
    F.conv_transpose1d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    F.conv_transpose2d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    F.conv_transpose3d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    F.bilinear(input1, input2, weight, bias=None)
    F.pixel_shuffle(input, upscale_factor)
    F.pixel_unshuffle(input, downscale_factor)
    F.channel_shuffle(input, groups)
    F.prelu(input, weight)
    F.rrelu(input, lower=0.125, upper=0.3333333333333333, training=False)
    F.alpha_dropout(input, p, training=False)
    F.cosine_similarity(x1, x2, dim=1, eps=1e-08)
    F.pairwise_distance(x1, x2, p=2, eps=1e-06, keepdim=False)
    F.soft_margin_loss(input, target, *, reduction="mean")
    F.poisson_nll_loss(input, target, *, log_input, full, eps, reduction)
    F.cosine_embedding_loss(input1, input2, target, *, margin=0, reduction="mean")
    F.hinge_embedding_loss(input, target, *, margin=1, reduction="mean")
    F.margin_ranking_loss(input1, input2, target, *, margin=0, reduction="mean")
    F.triplet_margin_loss(anchor, positive, negative, *, margin=1, p=2, eps=1e-06, swap=False, reduction="mean")
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
    torch.addbmm(input, batch1, batch2, *, beta=1, alpha=1)
    torch.addmv(input, mat, vec, *, beta=1, alpha=1)
    torch.addr(input, vec1, vec2, *, beta=1, alpha=1)
    torch.mv(input, vec)
    torch.dot(input, tensor)
    torch.vdot(input, other)
    torch.inner(input, other)
    torch.outer(input, vec2)
    torch.kron(input, other)
    torch.cdist(x1, x2, p=2, _=None)
    torch.hstack(tensors)
    torch.vstack(tensors)
    torch.dstack(tensors)
    torch.column_stack(tensors)
    torch.diff(input, n=1, dim=-1, prepend=None, append=None)
    torch.diag_embed(input, offset=0, dim1=-2, dim2=-1)
    torch.diagonal_scatter(input, src, offset=0, dim1=0, dim2=1)
    torch.select_scatter(input, src, dim, index)
    torch.slice_scatter(input, src, dim=0, start=None, end=None, step=1)
    torch.take(input, index)
    torch.take_along_dim(input, indices, dim)
    torch.fliplr(input)
    torch.flipud(input)
    torch.rot90(input, k=1, dims=(0,1))
    torch.trapezoid(y, *, dx=1, dim=-1)
    torch.cumulative_trapezoid(y, *, dx=1, dim=-1)
    torch.matrix_exp(input)
    torch.igamma(input, other)
    torch.igammac(input, other)
    torch.mvlgamma(input, p)
    torch.polygamma(n, input)
    torch._standard_gamma(input)
    F.multi_margin_loss(input, target, p=1, margin=1.0, weight=None, *, reduction="mean")
    F.multilabel_margin_loss(input, target, *, reduction="mean")
    torch.searchsorted(sorted_sequence, input, *, out_int32=False, right=False, side=None, sorter=None)
    torch.bucketize(input, boundaries, *, out_int32=False, right=False)
    torch.isin(elements, test_elements, *, assume_unique=False, invert=False)
    torch.grid_sampler(input, grid, interpolation_mode, padding_mode, align_corners)
    torch.feature_dropout(input, p, train)
    torch.feature_alpha_dropout(input, p, train)
    torch.multinomial(input, num_samples, replacement=False)
    torch.poisson(input)
    torch.randint_like(input, high, *, dtype=None, device=None)
    torch.empty_like(input, *, dtype=None, device=None)
    torch.fill(input, value)
    torch.count_nonzero(input, dim=None)
    torch.renorm(input, p, dim, maxnorm)
    torch._weight_norm(v, g, dim=0)
    torch.complex(real, imag)
    torch.polar(abs, angle)
    torch.view_as_complex(input)
    torch.view_as_real(input)
    torch.arctan2(input, other)
    torch.float_power(input, exponent)
    torch.fmax(input, other)
    torch.fmin(input, other)
    torch.gcd(input, other)
    torch.lcm(input, other)
    torch.ldexp(input, other)
    torch.logaddexp2(input, other)
    torch.nextafter(input, other)
    torch.lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    torch.gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    torch.rnn_tanh(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    torch.rnn_relu(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    torch.lstm_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None)
    torch.gru_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None)
    torch.rnn_tanh_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None)
    torch.rnn_relu_cell(input, hx, w_ih, w_hh, b_ih=None, b_hh=None)
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
    abs absolute acos acosh angle arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh ceil conj_physical
    cos cosh deg2rad detach digamma erf erfc erfinv exp exp2 expm1 fix floor frac i0 isfinite isinf isnan isneginf
    isposinf isreal lgamma log log10 log1p log2 logdet msort negative positive rad2deg reciprocal resolve_conj
    resolve_neg round rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt square t tan tanh trunc
"""

METHODS_WITH_PARAMETERS = """
    x.aminmax(*, dim=None, keepdim=False)
    x.cummax(dim)
    x.cummin(dim)
    x.diagonal(offset=0, dim1=0, dim2=1)
    x.histc(bins=100, min=0, max=0)
    x.index_add(dim, index, source, *, alpha=1)
    x.index_copy(dim, index, source)
    x.index_fill(dim, index, value)
    x.index_put(indices, values, accumulate=False)
    x.index_reduce(dim, index, source, reduce, *, include_self=True)
    x.kthvalue(k, dim=-1, keepdim=False)
    x.logcumsumexp(dim)
    x.median(dim, keepdim=False)
    x.mode(dim=-1, keepdim=False)
    x.moveaxis(source, destination)
    x.nanmean(*, dim=None, keepdim=False, dtype=None)
    x.nanmedian(dim, keepdim=False)
    x.nansum(*, dim=None, keepdim=False, dtype=None)
    x.narrow(dim, start, length)
    x.quantile(q, dim=None, keepdim=False, *, interpolation="linear")
    x.repeat_interleave(repeats, dim=None, *, output_size=None)
    x.scatter(dim, index, src)
    x.scatter_add(dim, index, src)
    x.scatter_reduce(dim, index, src, reduce, *, include_self=True)
    x.tile(dims)
    x.unfold(dimension, size, step)
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
    "std_mean.dim": "torch.std_mean(input, *, dim, unbiased=True, keepdim=False)",
    "std_mean.correction": "torch.std_mean(input, *, dim=None, correction=1, keepdim=False)",
    "var_mean.dim": "torch.var_mean(input, *, dim, unbiased=True, keepdim=False)",
    "var_mean.correction": "torch.var_mean(input, *, dim=None, correction=1, keepdim=False)",
    "argsort.stable": "x.argsort(*, stable, dim=-1, descending=False)",
    "sort.stable": "x.sort(*, stable, dim=-1, descending=False)",
    "bernoulli.p": "torch.bernoulli(input, p)",
    "normal.Tensor_Tensor": "torch.normal(mean, std)",
    "normal.Tensor_float": "torch.normal(mean, std=1.0)",
    "normal.float_Tensor": "torch.normal(mean, std)",
    "affine_grid_generator": "F.affine_grid(theta, size, align_corners)",
    "scatter.value": "x.scatter(dim, index, value)",
    "scatter.reduce": "x.scatter(dim, index, src, *, reduce)",
    "scatter.value_reduce": "x.scatter(dim, index, value, *, reduce)",
    "ger": "torch.outer(input, vec2)",
    "zero": "torch.zeros_like(input)",
    "_conj": "x.conj()",
    "im2col": "F.unfold(input, kernel_size, dilation=1, padding=0, stride=1)",
    "col2im": "F.fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1)",
    "nll_loss_nd": 'F.nll_loss(input, target, *, weight=None, reduction="mean", ignore_index=-100)',
    "special_xlog1py": "torch.special.xlog1py(input, other)",
    "linalg_cholesky": "torch.linalg.cholesky(A, *, upper=False)",
    "linalg_cross": "torch.linalg.cross(input, other, *, dim=-1)",
    "linalg_det": "torch.linalg.det(A)",
    "linalg_eigh": 'torch.linalg.eigh(A, UPLO="L")',
    "linalg_inv": "torch.linalg.inv(A)",
    "linalg_matrix_exp": "torch.linalg.matrix_exp(A)",
    "linalg_matrix_power": "torch.linalg.matrix_power(A, n)",
    "linalg_svdvals": "torch.linalg.svdvals(A)",
    "linalg_matrix_norm": 'torch.linalg.matrix_norm(A, ord="fro", *, dim=(-2,-1), keepdim=False, dtype=None)',
    "linalg_multi_dot": "torch.linalg.multi_dot(tensors)",
    "linalg_norm": "torch.linalg.norm(input, ord=None, *, dim=None, keepdim=False, dtype=None)",
    "linalg_qr": 'torch.linalg.qr(A, mode="reduced")',
    "linalg_slogdet": "torch.linalg.slogdet(A)",
    "linalg_solve": "torch.linalg.solve(A, B, *, left=True)",
    "linalg_solve_triangular": "torch.linalg.solve_triangular(A, B, *, upper, left=True, unitriangular=False)",
}


SPECIAL = "entr erfcx expit i0e i1 i1e log1p log_ndtr ndtr ndtri"
FFT = {
    "fft ifft rfft irfft hfft ihfft": "input, n=None, dim=-1, norm=None",
    "fft2 ifft2 rfft2 irfft2": "input, s=None, dim=(-2,-1), norm=None",
    "fftn ifftn rfftn irfftn": "input, s=None, dim=None, norm=None",
    "fftshift ifftshift": "input, dim=None",
}
