"""Examples of further products: vectors, tensor dots, linear algebra, experts, recurrent layers."""

import torch
import torch.nn.functional as F

from autopart.probe.traced import Traced, single
from tests.sharding.captured import Example
from tests.sharding.tensors import n, of, t, with_last

PRODUCTS = (
    of(torch.mv, t(4, 8), t(8)),
    of(torch.dot, t(8), t(8)),
    of(torch.vdot, t(8), t(8)),
    of(torch.outer, t(4), t(8)),
    of(torch.ger, t(4), t(8)),
    of(torch.inner, t(2, 4, 8), t(4, 8)),
    of(torch.inner, t(8), t(8)),
    of(lambda c, x, y: torch.addmv(c, x, y, beta=0.5, alpha=2.0), t(4), t(4, 8), t(8)),
    of(torch.addmv, t(1), t(4, 8), t(8)),
    of(torch.addr, t(4, 8), t(4), t(8)),
    of(lambda c, x, y: torch.addr(c, x, y, beta=0.5, alpha=2.0), t(4, 1), t(4), t(8)),
    of(torch.addbmm, t(4, 8), t(2, 4, 6), t(2, 6, 8)),
    of(lambda c, x, y: torch.addbmm(c, x, y, beta=0.5, alpha=2.0), t(1, 8), t(4, 4, 2), t(4, 2, 8)),
    of(torch.cdist, t(2, 4, 8), t(2, 8, 8)),
    of(lambda x, y: torch.cdist(x, y, p=1.0), t(4, 2), t(8, 2)),
    of(torch.kron, t(2, 4), t(4, 2)),
    of(torch.kron, t(4), t(2, 4)),
    of(lambda x, y: torch.tensordot(x, y, dims=2), t(2, 4, 8), t(4, 8, 2)),
    of(lambda x, y: torch.tensordot(x, y, dims=([0], [-1])), t(4, 2, 8), t(2, 4)),
    of(F.bilinear, t(4, 2), t(4, 8), t(8, 2, 8), t(8)),
    of(F.bilinear, t(2, 4, 2), t(2, 4, 4), t(8, 2, 4)),
    of(lambda x, y, z: torch.linalg.multi_dot((x, y, z)), t(2, 4), t(4, 8), t(8, 2)),
    of(torch.matmul, t(8), t(8)),
    of(torch.matmul, t(2, 4, 8), t(8)),
    of(torch.matmul, t(8), t(4, 8, 2)),
    of(lambda x, y: torch.einsum("...ij,...jk->...ik", x, y), t(2, 4, 4, 2), t(4, 2, 8)),
    of(lambda x, y: torch.einsum("b...d,d->b...", x, y), t(2, 4, 4), t(4)),
    of(lambda x, y: torch.einsum("ij,jk", x, y), t(4, 8), t(8, 2)),
    of(lambda x, y: torch.einsum("ij,ij->ij", x, y), t(4, 8), t(1, 8)),
)


def spread(*shape: int) -> torch.Tensor:
    """Matrices with a large diagonal."""
    return (t(*shape).detach() * 0.2 + torch.eye(shape[-1], dtype=torch.float64) * 2).requires_grad_()


LINEAR_ALGEBRA = (
    *(
        of(getattr(torch.linalg, name), spread(4, 3, 3))
        for name in ("inv", "det", "slogdet", "matrix_exp", "qr", "solve")
        if name != "solve"
    ),
    of(torch.logdet, spread(4, 2, 3, 3)),
    of(lambda x: torch.linalg.cholesky(x @ x.mT), spread(4, 3, 3)),
    of(lambda x: torch.linalg.eigh(x + x.mT), t(4, 3, 3)),
    of(torch.linalg.solve, spread(4, 3, 3), t(4, 3, 8)),
    of(with_last(torch.linalg.solve_triangular, upper=False), spread(4, 3, 3), t(4, 3, 8)),
    of(with_last(torch.linalg.solve_triangular, upper=True, unitriangular=True), spread(3, 3), t(3, 4)),
    of(torch.linalg.cross, t(4, 8, 3), t(4, 8, 3)),
    of(lambda x, y: torch.linalg.cross(x, y, dim=0), t(3, 4), t(3, 4)),
)

OFFSETS = torch.tensor([2, 4, 4, 8], dtype=torch.int32)
EARLY = torch.tensor([2, 3, 3, 6], dtype=torch.int32)  # what comes after the last group belongs to none


def grouped(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> Traced:
    """Transformers' own op, which takes float64 where PyTorch's does not."""
    import transformers.integrations.moe  # noqa: F401  registers the op

    return single("transformers.grouped_mm_fallback.default", x, weight, offsets)


def single_precision(x: torch.Tensor) -> torch.Tensor:
    return x.detach().float().requires_grad_()


GROUPED = {
    "grouped": grouped(t(8, 4), t(4, 4, 8), OFFSETS),
    "grouped early": grouped(t(8, 8), t(4, 8, 4), EARLY.long()),
} | {
    name: single("aten._grouped_mm.default", single_precision(x), single_precision(weight), *offsets)
    for name, x, weight, offsets in (
        ("rows of groups", t(8, 4), t(4, 4, 8), (OFFSETS,)),
        ("columns of groups", t(4, 8, 4), t(4, 8), (OFFSETS,)),
        ("groups contracted", t(8, 8), t(8, 4), (OFFSETS,)),
        ("groups in a row", t(4, 8, 4), t(4, 4, 8), ()),
    )
}


def recurrent(name: str, gates: int, states: int, batch_first: bool = True, **options: float) -> Example:
    """A layer of 4 features and 2 units on 4 samples of 3 steps."""
    weights = (t(2 * gates, 4), t(2 * gates, 2), t(2 * gates), t(2 * gates))
    x = t(4, 3, 4) if batch_first else t(3, 4, 4)

    def call(x: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = rest[:2] if states == 2 else rest[0]
        dropout, train = options.get("dropout", 0.0), "dropout" in options
        result: tuple[torch.Tensor, ...] = getattr(torch, name)(
            x, state, rest[states:], True, 1, dropout, train, False, batch_first
        )
        return result

    return of(call, x, *(t(1, 4, 2) for _ in range(states)), *weights)


def cell(name: str, gates: int, states: int) -> Example:
    weights = (t(2 * gates, 4), t(2 * gates, 2), t(2 * gates), t(2 * gates))

    def call(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        result: torch.Tensor = getattr(torch, name)(x, rest[:2] if states == 2 else rest[0], *rest[states:])
        return result

    return of(call, t(4, 4), *(t(4, 2) for _ in range(states)), *weights)


RECURRENT = (
    recurrent("lstm", 4, 2),
    recurrent("lstm", 4, 2, batch_first=False),
    recurrent("gru", 3, 1),
    recurrent("rnn_tanh", 1, 1),
    recurrent("rnn_relu", 1, 1),
    cell("lstm_cell", 4, 2),
    cell("gru_cell", 3, 1),
    cell("rnn_tanh_cell", 1, 1),
    cell("rnn_relu_cell", 1, 1),
)

SIGNALS = (
    *(
        of(getattr(torch.fft, name), t(4, 4, 8))
        for name in ("fft", "ifft", "rfft", "hfft", "fft2", "ifft2", "rfft2", "fftshift")
    ),
    *(
        of(with_last(getattr(torch.fft, name), dim=(0, 2)), t(4, 4, 8))
        for name in ("fftn", "ifftn", "rfftn", "fftshift")
    ),
    of(torch.fft.fftn, t(4, 8)),
    of(lambda x: torch.fft.fft(x, 6, 1, "ortho"), t(2, 8, 4)),
    of(lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), 8, dim=1), t(4, 8, 2)),
    of(lambda x: torch.fft.irfft2(torch.fft.rfft2(x)), t(4, 4, 6)),
    of(lambda x: torch.fft.irfftn(torch.fft.rfftn(x, dim=(1, 2)), dim=(1, 2)), t(4, 4, 6)),
    of(lambda x: torch.fft.fftn(x, s=(4, 4)), t(4, 8, 8)),
    of(lambda x: torch.fft.ihfft(x), t(4, 8)),
    of(lambda x: torch.fft.ifftshift(x, dim=1), t(4, 8)),
    of(lambda x, w: torch.stft(x, 4, window=w, return_complex=True, center=False), t(4, 16), n(4)),
)
