"""Examples of attention, convolutions, pooling and losses."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from tests.sharding.captured import Example
from tests.sharding.tensors import i, n, of, of_aten, t, u, with_last


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
        of(with_last(f, padding="same"), t(2, 4, *([3] * d)), t(4, 4, *([3] * d)))
        for d, f in enumerate((F.conv1d, F.conv2d, F.conv3d), 1)
    ),
    *(
        of(with_last(getattr(F, f"{kind}_pool{d}d"), 2), t(2, 4, *([4] * d)))
        for d in (1, 2, 3)
        for kind in ("max", "avg", "adaptive_avg")
    ),
    *(
        of(with_last(of_aten(f"{name}{d}d{rest}", "default"), [2] * d), t(2, 4, *([4] * d)))
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
