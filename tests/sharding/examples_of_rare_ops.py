"""Examples of ops that few models call, among them what torch.nn has and no popular architecture uses."""

import torch
import torch.nn.functional as F

from tests.sharding.tensors import aten, i, n, of, t, u, with_last

CUTS = (
    of(lambda x, y: torch.column_stack([x, y]), t(4, 8), t(4, 4)),
    of(with_last(torch.tensor_split, 3, -1), t(4, 12)),
    of(with_last(torch.tensor_split, 3), t(8, 4)),
    of(with_last(torch.tensor_split, (4, 8), 1), t(2, 16)),
    of(with_last(torch.tensor_split, 1, 1), t(2, 4)),
    of(with_last(torch.hsplit, 2), t(4, 8)),
    of(with_last(torch.hsplit, 2), t(8)),
    of(with_last(torch.hsplit, (4,)), t(4, 8)),
    of(with_last(torch.vsplit, 2), t(8, 4)),
    of(with_last(torch.vsplit, (4,)), t(8, 4)),
    of(with_last(torch.dsplit, 2), t(2, 4, 8)),
    of(with_last(torch.dsplit, (4,)), t(2, 4, 8)),
)

PLACES = (
    of(torch.fliplr, t(4, 8)),
    of(torch.flipud, t(4, 8)),
    of(torch.rot90, t(4, 8, 4)),
    of(with_last(torch.rot90, 2, (1, 2)), t(4, 8, 2)),
    of(with_last(torch.rot90, -1, (0, -1)), t(4, 8, 2)),
    of(torch.take, t(4, 8), i(32, 4, 8)),
    of(torch.take, t(8), i(8, 4)),
    of(torch.trapezoid, t(4, 8)),
    of(with_last(torch.trapezoid, dx=2.0, dim=0), t(4, 8)),
    of(torch.cumulative_trapezoid, t(4, 8)),
    of(with_last(torch.cumulative_trapezoid, dim=0), t(4, 8)),
)

DRAWS = (
    of(torch.normal, n(4, 8), n(4, 8)),
    of(torch.normal, n(4, 1), n(8)),
    of(with_last(torch.normal, 0.5), n(4, 8)),
    of(lambda deviation: torch.normal(0.5, deviation), n(4, 8)),
    of(torch._standard_gamma, u(4, 8)),
)

FILLED = (
    of(lambda x: torch.empty_like(x).bernoulli_(x), n(4, 8)),
    of(lambda x: torch.empty_like(x).cauchy_(), n(4, 8)),
    of(lambda x: torch.empty_like(x).geometric_(0.5), n(4, 8)),
    of(lambda x: torch.empty_like(x).log_normal_(), n(4, 8)),
)

FUNCTIONS = (
    of(lambda x: torch.mvlgamma(x + 2, 2), u(4, 8)),
    of(lambda x: torch.polygamma(1, x), u(4, 8)),
    of(torch.igamma, n(4, 8), u(4, 8)),
    of(torch.igammac, n(8), u(4, 8)),
)

MATRICES = (
    of(aten.matrix_exp.default, t(4, 4, 4)),
    of(with_last(torch.linalg.matrix_power, 3), t(4, 2, 4, 4)),
    of(torch.linalg.svdvals, t(4, 2, 3)),
)

GRIDS = (
    of(with_last(F.affine_grid, (4, 2, 4, 2), align_corners=False), t(4, 2, 3)),
    of(with_last(F.affine_grid, (4, 2, 2, 2, 2), align_corners=True), t(4, 3, 4)),
)

INVERSES = (
    of(lambda x, w: torch.istft(torch.stft(x, 4, window=w, return_complex=True), 4, window=w), t(4, 16), n(4)),
    of(lambda x, w: torch.istft(torch.stft(x, 4, window=w, return_complex=True), 4, window=w), t(16), n(4)),
)

MARGINS = (
    *(
        of(with_last(F.multi_margin_loss, reduction=reduction), t(4, 8), i(8, 4))
        for reduction in ("none", "mean", "sum")
    ),
    of(lambda x, target, w: F.multi_margin_loss(x, target, 2, 0.5, w), t(4, 8), i(8, 4), n(8)),
    of(F.multi_margin_loss, t(8), i(8, 1)),
    *(
        of(with_last(F.multilabel_margin_loss, reduction=reduction), t(4, 8), i(8, 4, 8))
        for reduction in ("none", "mean", "sum")
    ),
    of(F.multilabel_margin_loss, t(8), i(8, 8)),
)
