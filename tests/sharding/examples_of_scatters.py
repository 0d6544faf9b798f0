"""Examples of scattering, of lookups with several indices, of diagonals, repetitions and grids."""

import torch

from autopart.probe.traced import single
from tests.sharding.tensors import aten, b, i, n, of, t, with_last

SPOTS = torch.tensor([5, 0, 3, 6])
ROWS = torch.tensor([[0, 1], [2, 3], [1, 0], [3, 2]])

SCATTERING = (
    of(lambda x, j, s: x.scatter(1, j, s), t(4, 8), ROWS, t(4, 2)),
    of(lambda x, j, s: x.scatter(0, j, s), t(8, 4), SPOTS[:, None].expand(4, 4), t(4, 4)),
    of(lambda x, j: x.scatter(1, j, 1.5), t(4, 8), i(8, 4, 2)),
    of(lambda x, j: x.scatter(-1, j, 0), t(4, 8), i(8, 4, 2)),
    of(lambda x, j: x.scatter(1, j, True), b(4, 8), i(8, 4, 2)),
    of(lambda x, j, s: aten.scatter.reduce(x, 1, j, s, reduce="add"), n(4, 8), i(8, 4, 2), n(4, 2)),
    of(lambda x, j: aten.scatter.value_reduce(x, 1, j, 2.0, reduce="multiply"), n(4, 8), i(8, 4, 2)),
    of(lambda x, j, s: x.scatter_add(1, j, s), t(4, 8), i(8, 4, 8), t(4, 8)),
    of(lambda x, j, s: x.scatter_add(0, j, s), t(8, 8), i(8, 4, 4), t(4, 4)),
    of(lambda x, j, s: x.scatter_add(0, j, s), t(8, 4), i(8, 16, 4), t(16, 4)),
    of(lambda x, j, s: x.scatter_reduce(1, j, s, "amax"), t(4, 8), i(8, 4, 2), t(4, 2)),
    of(lambda x, j, s: x.scatter_reduce(1, j, s, "sum", include_self=False), t(4, 8), i(8, 4, 2), t(4, 2)),
    of(lambda x, j, s: x.index_add(1, j, s, alpha=3), t(4, 8), i(8, 4), t(4, 4)),
    of(lambda x, j, s: x.index_add(0, j, s), t(8, 4), i(8, 4), t(4, 4)),
    of(lambda x, j, s: x.index_copy(1, j, s), t(4, 8), SPOTS, t(4, 4)),
    of(lambda x, j: x.index_fill(1, j, 2.0), t(4, 8), i(8, 2)),
    of(lambda x, j, v: x.index_fill(1, j, v), t(4, 8), i(8, 2), t()),
    of(lambda x, j, s: x.index_reduce(1, j, s, "amax"), t(4, 8), SPOTS, t(4, 4)),
    of(lambda x, j, s: x.index_put((j,), s), t(8, 4), SPOTS, t(4, 4)),
    of(lambda x, j, s: x.index_put((j,), s, accumulate=True), t(8, 4), i(8, 4), t(4, 4)),
    of(lambda x, j, s: x.index_put((j,), s, accumulate=True), t(8, 4), i(8, 4), t(4)),
    of(lambda x, j, s: x.index_put((j,), s, accumulate=True), t(8, 4), i(8, 4), t(4, 1)),
    of(lambda x, j, k, s: x.index_put((j, k), s), t(4, 8, 4), torch.tensor([[0], [2]]), SPOTS, t(2, 4, 4)),
    of(lambda x, j, k, s: x.index_put((j, k), s, accumulate=True), t(4, 8), i(4, 4), i(8, 4), t(4)),
    of(lambda x, j, s: aten.index_put.default(x, (None, j), s), t(4, 8), SPOTS, t(4, 4)),
    of(lambda x, j, s: x.index_put((j,), s), t(8, 4), SPOTS, t()),
    of(lambda x, j, s: x.index_put((j,), s), i(9, 8), SPOTS, i(9, 4)),
    of(lambda x, m, s: x.index_put((m,), s), t(4, 8), b(4, 8), t()),
    of(lambda x, m, s: x.index_put((m,), s), t(4, 8), b(4), t(8)),
    of(lambda x, m, s: x.index_put((m,), s), t(4, 8), b(4), t(1, 1)),
    of(lambda x, s: torch.select_scatter(x, s, 1, 2), t(4, 8), t(4)),
    of(lambda x, s: torch.select_scatter(x, s, -2, 1), t(2, 4, 8), t(2, 8)),
    of(lambda x, s: torch.slice_scatter(x, s, 1, 2, 6), t(4, 8), t(4, 4)),
    of(lambda x, s: torch.slice_scatter(x, s, 0, 1, None, 2), t(8, 4), t(4, 4)),
    of(lambda x, s: torch.diagonal_scatter(x, s), t(4, 4), t(4)),
    of(lambda x, s: torch.diagonal_scatter(x, s, 1, 2, 0), t(4, 8, 4), t(8, 3)),
)

LOOKUP = (
    of(lambda x, j, k: x[j, k], t(4, 8, 4), i(4, 4), i(8, 4)),
    of(lambda x, j, k: x[j, k], t(4, 8), i(4, 4, 1), i(8, 8)),
    of(lambda x, j, k: x[:, j, k], t(2, 4, 8, 4), i(4, 4), i(8, 4)),
    of(lambda x, j, k: x[j, :, k], t(4, 4, 8), i(4, 4), i(8, 4)),
    of(lambda x, j, k, m: x[j, k, :, m], t(4, 8, 4, 4), i(4, 4, 1), i(8, 1, 4), i(4, 4, 4)),
    of(lambda x, j: torch.take_along_dim(x, j, 1), t(4, 8), i(8, 4, 4)),
    of(lambda x, j: torch.take_along_dim(x, j, -1), t(4, 4, 8), i(8, 4, 1, 4)),
    of(lambda x, j: torch.take_along_dim(x, j, -1), t(1, 8), i(8, 4, 4)),
    of(torch.searchsorted, torch.arange(8.0), n(4, 8).float() * 8),
    of(torch.searchsorted, n(4, 8).sort().values, n(4, 8)),
    of(with_last(torch.searchsorted, right=True), n(4, 8).sort().values, n(4, 4)),
    of(with_last(torch.bucketize, right=True), n(4, 8), n(4).sort().values),
    of(torch.isin, i(9, 4, 8), i(9, 3)),
    of(with_last(torch.sort, stable=True, dim=0), t(4, 8)),
    of(with_last(torch.argsort, stable=True, descending=True), t(4, 8)),
    of(torch.msort, t(4, 8)),
    of(lambda x: x.diagonal(), t(4, 4, 8)),
    of(lambda x: x.diagonal(1, -2, -1), t(4, 4, 4)),
    of(torch.diag_embed, t(4, 4)),
    of(lambda x: torch.diag_embed(x, 1, 0, 2), t(4, 4)),
    of(with_last(torch.histc, 4, 0, 8), i(8, 16).double()),
)

REPETITION = (
    of(lambda x: x.repeat_interleave(4, 1), t(4, 2, 4)),
    of(lambda x: x.repeat_interleave(3, -1), t(4, 8)),
    of(lambda x: x.repeat_interleave(2), t(8)),
    of(lambda x: x.repeat_interleave(4, 0), b(2, 4)),
    of(lambda x: x.tile(2, 2), t(4, 8)),
    of(lambda x: x.tile(4), t(2, 8)),
    of(lambda x: x.tile(2, 1, 1), t(4, 8)),
    of(with_last(torch.meshgrid, indexing="ij"), t(4), t(8)),
    of(with_last(torch.meshgrid, indexing="xy"), t(4), t(8), t(2)),
    of(lambda x, y: aten.meshgrid.default((x, y)), t(4), t(8)),
    of(lambda x, y: torch.hstack((x, y)), t(4, 8), t(4, 4)),
    of(lambda x, y: torch.hstack((x, y)), t(8), t(4)),
    of(lambda x, y: torch.vstack((x, y)), t(4, 8), t(4, 8)),
    of(lambda x, y: torch.dstack((x, y)), t(4, 2, 8), t(4, 2, 4)),
    of(torch.diff, t(4, 8)),
    of(lambda x, y: torch.diff(x, 2, 0, prepend=y), t(4, 8), t(1, 8)),
    of(lambda x: x.narrow(1, 2, 4), t(4, 8)),
    of(lambda x: x.ravel(), t(4, 8)),
    of(lambda x, y: x.view_as(y), t(4, 8), n(4, 2, 4)),
    of(lambda x, y: x.reshape_as(y), t(2, 4, 8), n(8, 8)),
    of(torch.atleast_1d, t()),
    of(torch.atleast_1d, t(8)),
    of(torch.atleast_2d, t(8)),
    of(torch.atleast_3d, t(4, 8)),
    of(lambda x: x.mH, t(2, 4, 8)),
    of(lambda x: x.H, t(4, 8)),
    of(lambda x: x.adjoint(), t(2, 4, 8)),
    of(lambda x: x.moveaxis(0, 2), t(2, 4, 8)),
    of(lambda x: x.moveaxis((0, 1), (2, 0)), t(2, 4, 8)),
    of(lambda x: x.new_empty(4, 8), n(2)),
    of(lambda x: x.new_zeros(4, 8), t(2, 4)),
    of(lambda x: torch.empty(4, 8, dtype=x.dtype, device=x.device), n(2)),
    of(torch.empty_like, t(4, 8)),
)

# Kept by capture for old models alone (T5): an empty tensor of one dim among those joined.
EMPTIED = {
    "cat with an empty one": single("aten.cat.default", [t(0), t(4, 8), t(4, 4)], 1),
    "cat of one": single("aten.cat.default", [t(0), t(4, 8)], -1),
}
