"""Examples of what vision, audio and diffusion models do to positions and channels."""

import torch
import torch.nn.functional as F

from tests.sharding.tensors import of, t, u, with_last

CHANNELS = (
    of(with_last(F.conv1d, groups=4), t(2, 8, 4), t(8, 2, 3), t(8)),
    of(with_last(F.conv1d, padding=2, groups=8), t(2, 8, 4), t(8, 1, 3), t(8)),
    of(with_last(F.conv2d, groups=2), t(2, 8, 4, 4), t(4, 4, 3, 3)),
    of(with_last(F.conv2d, groups=4, padding="same"), t(2, 4, 4, 4), t(8, 1, 3, 3)),
    of(F.conv1d, t(8, 6), t(4, 8, 3), t(4)),
    of(F.conv_transpose1d, t(2, 4, 6), t(4, 8, 3), t(8)),
    of(with_last(F.conv_transpose1d, groups=4, stride=2), t(2, 8, 4), t(8, 2, 3), t(8)),
    of(with_last(F.conv_transpose2d, None, 2, 1, 1), t(2, 4, 4, 4), t(4, 8, 3, 3)),
    of(with_last(F.conv_transpose2d, groups=2), t(2, 4, 4, 4), t(4, 2, 3, 3)),
    of(F.conv_transpose3d, t(2, 4, 3, 3, 3), t(4, 8, 2, 2, 2), t(8)),
    of(with_last(F.channel_shuffle, 2), t(2, 8, 4, 2)),
    of(with_last(F.channel_shuffle, 3), t(2, 12, 2)),
    of(with_last(F.pixel_shuffle, 2), t(2, 16, 4, 2)),
    of(with_last(F.pixel_unshuffle, 2), t(2, 4, 4, 8)),
    of(F.prelu, t(2, 8, 4), t(8)),
    of(F.prelu, t(2, 8), t(1)),
    of(with_last(F.unfold, 2), t(2, 4, 4, 4)),
    of(with_last(F.unfold, (1, 2), padding=1, stride=2), t(8, 4, 4)),
    of(with_last(F.fold, (4, 4), 2, stride=2), t(2, 16, 4)),
    of(with_last(F.fold, (4, 5), (2, 3)), t(24, 9)),
    of(lambda x: x.unfold(1, 4, 2), t(4, 8, 2)),
    of(lambda x: x.unfold(-1, 3, 1), t(4, 8)),
    of(lambda x, g: F.grid_sample(x, g, align_corners=False), t(2, 4, 4, 4), u(2, 8, 4, 2)),
    of(lambda x, g: F.grid_sample(x, g, "nearest", "border", True), t(2, 4, 2, 2, 2), u(2, 4, 2, 4, 3)),
    *(
        of(lambda x, s=scale, m=mode: F.interpolate(x, scale_factor=s, mode=m), t(2, 4, *([4] * dims)))
        for mode, dims in (
            *(("nearest", d) for d in (1, 2, 3)),
            *(("nearest-exact", d) for d in (1, 2, 3)),
            *(("linear", 1), ("bilinear", 2), ("bicubic", 2), ("trilinear", 3)),
        )
        for scale in (2, 1.5)
    ),
    of(with_last(F.interpolate, size=(2, 6), mode="bilinear", align_corners=True), t(2, 4, 4, 4)),
    of(with_last(F.interpolate, size=(2, 6), mode="bilinear", antialias=True), t(2, 4, 4, 4)),
    of(with_last(F.interpolate, scale_factor=0.5, mode="bicubic", antialias=True), t(2, 4, 4, 4)),
    of(lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), t(2, 4, 4, 4)),
    of(lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), t(2, 4, 2, 2, 4)),
)

CHANNEL_NORMS = (
    of(lambda x, w, c: F.group_norm(x, 4, w, c, 1e-3), t(2, 8, 2, 2), t(8), t(8)),
    of(lambda x: F.group_norm(x, 8), t(2, 16, 4)),
    of(lambda x, w, c: F.group_norm(x, 2, w, c), t(4, 8), t(8), t(8)),
    of(F.instance_norm, t(2, 4, 6)),
    of(lambda x, w, c: F.instance_norm(x, weight=w, bias=c, eps=1e-3), t(2, 4, 6, 2), t(4), t(4)),
    of(with_last(F.local_response_norm, 2), t(2, 4, 6)),
    of(torch._weight_norm, t(4, 8), t(4, 1)),
    of(lambda v, g: torch._weight_norm(v, g, 1), t(4, 8), t(1, 8)),
    of(lambda x: torch.renorm(x, 2, 0, 1.0), t(4, 8)),
    of(lambda x: x.logcumsumexp(1), t(4, 8)),
    of(lambda x: x.cummax(1), t(4, 8)),
    of(lambda x: x.cummin(0), t(4, 8)),
)
