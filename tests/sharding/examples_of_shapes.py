"""Examples of ops that move numbers: views, cuts, lookups."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from tests.sharding.tensors import aten, b, i, n, of, t

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


def sliced(*bounds: tuple[int, int]) -> Callable[..., list[torch.Tensor]]:
    """Slices of what one weight makes, as a fused projection is sliced."""

    def call(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        made = F.linear(x, weight)
        return [made[..., start:stop] for start, stop in bounds]

    return call


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
    of(lambda x: x.unbind(1), t(4, 1, 8)),
    of(lambda x: x.chunk(1, 1), t(4, 8)),
    of(lambda x: x.split(8, 1), t(4, 8)),
    of(lambda x: x.split_with_sizes((8,), 1), t(4, 8)),
    of(lambda x: F.pad(x, (1, 2)), t(4, 8)),
    of(lambda x: F.pad(x, (-1, 1)), t(4, 8)),
    of(lambda x: F.pad(x, (0, 0, 1, 0), value=2.5), t(2, 4, 8)),
    of(lambda x: F.pad(x, (2, 1), mode="reflect"), t(2, 4, 8)),
    of(lambda x: F.pad(x, (0, 1), value=-100), i(9, 4, 8)),
    of(lambda x: aten.constant_pad_nd.default(x, (0, 1)), t(4, 8)),
    of(lambda x: aten.constant_pad_nd.default(x, (0, 1), 2.5), t(4, 8)),
    of(lambda x: x[:, 4:12], t(2, 12)),
    of(sliced((0, 16), (16, 20), (20, 24)), t(2, 4, 4), t(24, 4)),
    of(sliced((4, 12), (16, 24)), t(2, 4), t(24, 4)),
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
    *(of(lambda x, w, m=mode: F.embedding_bag(x, w, mode=m), i(8, 4, 6), t(8, 4)) for mode in ("sum", "mean", "max")),
    of(lambda x, w: F.embedding_bag(x, w, mode="mean", padding_idx=5), i(8, 4, 8), t(8, 4)),
    of(lambda x, w, s: F.embedding_bag(x, w, mode="sum", per_sample_weights=s), i(8, 4, 6), t(8, 4), t(4, 6)),
    of(lambda x, w, o: F.embedding_bag(x, w, o), i(8, 10), t(8, 4), torch.tensor([0, 3, 3, 8])),
    of(
        lambda x, w, o: F.embedding_bag(x, w, o, include_last_offset=True, padding_idx=2),
        i(8, 10),
        t(8, 4),
        torch.tensor([0, 3, 3, 10]),
    ),
)
