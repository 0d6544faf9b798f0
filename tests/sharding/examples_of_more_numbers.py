"""Examples of rarer elementwise functions, complex numbers, reductions, random ops and losses."""

import torch
import torch.nn.functional as F

from autopart.probe.traced import single
from tests.sharding.tensors import aten, b, i, n, of, of_aten, t, u, with_last

UNARY = """
    absolute arccos arcsin arctan arctanh arcsinh deg2rad digamma erfinv fix i0 isneginf isposinf isreal lgamma negative
    positive rad2deg sgn signbit special_entr special_erfcx special_expit special_i0e special_i1 special_i1e
    special_log1p special_log_ndtr special_ndtr special_ndtri zero
"""

RARE = (
    *(of(of_aten(name, "default"), u(4, 8)) for name in UNARY.split() if not name.startswith("special_i1")),
    of(lambda x: torch.arccosh(x + 1), u(4, 8)),
    *(
        of(of_aten(name, "default"), u(4, 8), u(8))
        for name in ("arctan2", "fmax", "fmin", "logaddexp2", "nextafter", "special_xlog1py")
    ),
    *(of(of_aten(name, "default"), i(9, 4, 8) + 1, i(9, 8) + 1) for name in ("gcd", "lcm")),
    *(
        of(of_aten(name, "Tensor"), u(4, 8), u(4, 1))
        for name in (
            *("divide", "true_divide", "multiply", "subtract", "greater", "greater_equal"),
            *("less", "less_equal", "not_equal", "ldexp"),
        )
    ),
    *(of(of_aten(f"__{name}__", "Tensor"), i(9, 4, 8), i(3, 8)) for name in ("lshift", "rshift")),
    *(of(with_last(of_aten(f"__{name}__", "Scalar"), 2), i(9, 4, 8)) for name in ("lshift", "rshift")),
    *(of(of_aten(f"bitwise_{name}_shift", "Tensor"), i(9, 4, 8), i(3, 8)) for name in ("left", "right")),
    *(of(with_last(of_aten(f"bitwise_{name}_shift", "Tensor_Scalar"), 2), i(9, 4, 8)) for name in ("left", "right")),
    of(with_last(torch.float_power, 2), u(4, 8)),
    of(torch.float_power, u(4, 8), u(8)),
    of(with_last(aten.fill.Scalar, 2.0), t(4, 8)),
    of(aten.fill.Tensor, t(4, 8), t()),
)


def complex_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.complex(x, y)


COMPLEX = (
    of(lambda x: torch.view_as_real(torch.view_as_complex(x) * 2), t(4, 8, 2)),
    of(lambda x, y: complex_of(x, y).real, t(4, 8), t(4, 8)),
    of(lambda x, y: complex_of(x, y).imag, t(4, 8), t(4, 1)),
    of(lambda x, y: complex_of(x, y).conj().resolve_conj(), t(4, 8), t(4, 8)),
    of(lambda x, y: complex_of(x, y).angle(), t(4, 8), t(4, 8)),
    of(lambda x, y: complex_of(x, y).sgn().abs(), t(4, 8), t(4, 8)),
    of(lambda x, y: torch.polar(x, y), u(4, 8), t(4, 8)),
    of(lambda x, y: torch.conj_physical(complex_of(x, y)).resolve_neg(), t(4, 8), t(4, 8)),
    # rotary embeddings as Llama's reference code writes them
    of(
        lambda x, a: torch.view_as_real(
            torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(a), a)
        ).flatten(-2),
        t(2, 4, 8),
        n(4, 4),
    ),
    of(lambda x, y: complex_of(x, y).mH @ complex_of(x, y), t(4, 8), t(4, 8)),
    of(lambda x, y: (complex_of(x, y) + complex_of(y, x)).sum(-1), t(4, 8), t(4, 8)),
)

# Before torch 2.13 its quantile looks at the value of the number, which torch.export cannot.
QUANTILES = (
    (
        of(lambda x: x.quantile(0.3, 1), t(4, 8)),
        of(lambda x: x.quantile(0.5, -1, keepdim=True, interpolation="lower"), t(4, 8)),
    )
    if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
    else ()
)
MORE_REDUCTION = (
    of(with_last(torch.linalg.norm, dim=-1), t(4, 8)),
    of(torch.linalg.matrix_norm, t(4, 2, 8)),
    of(with_last(torch.linalg.matrix_norm, 2, (0, 1), True), t(2, 4, 8)),
    of(lambda x: x.aminmax(dim=1), t(4, 8)),
    of(lambda x: x.median(1), t(4, 7)),
    of(lambda x: x.nanmedian(1, True), t(4, 7)),
    of(lambda x: x.kthvalue(2, 1), t(4, 8)),
    of(lambda x: x.kthvalue(2), t(4, 8)),
    of(lambda x: x.mode(1), i(3, 4, 8)),
    *QUANTILES,
    of(lambda x: x.nansum(1), t(4, 8)),
    of(lambda x: x.nanmean(1, keepdim=True), t(4, 8)),
    of(lambda x: x.count_nonzero(1), i(3, 4, 8)),
    of(lambda x: x.count_nonzero(), b(4, 8)),
    of(lambda x: x.count_nonzero((0, 1)), i(3, 4, 8, 2)),
    of(lambda x: torch.var_mean(x, 1), t(4, 8)),
    of(lambda x: torch.std_mean(x, 1), t(4, 8)),
    of(lambda x: torch.var_mean(x, dim=(0, 2), correction=0, keepdim=True), t(4, 8, 2)),
    of(lambda x: torch.std_mean(x, dim=-1, correction=0), t(4, 8)),
    of(F.cosine_similarity, t(4, 8), t(4, 8)),
    of(lambda x, y: F.cosine_similarity(x, y, -1), t(4, 1, 8), t(8, 8)),
    of(F.pairwise_distance, t(4, 8), t(4, 8)),
    of(lambda x, y: F.pairwise_distance(x, y, 1.0, keepdim=True), t(4, 8), t(1, 8)),
)

MORE_RANDOM = (
    of(with_last(torch.randint_like, 3), t(4, 8)),
    of(with_last(torch.bernoulli, 0.3), t(4, 8)),
    of(torch.poisson, u(4, 8)),
    of(with_last(aten.uniform.default, 0.0, 1.0), n(4, 8)),
    of(with_last(aten.exponential.default, 2.0), n(4, 8)),
    of(with_last(aten.normal_functional.default, 1.0, 2.0), n(4, 8)),
    of(with_last(F.alpha_dropout, 0.5, True), t(4, 8)),
    of(with_last(F.rrelu, training=True), t(4, 8)),
    of(with_last(F.dropout2d, 0.5, True), t(4, 8, 2, 2)),
    of(with_last(F.feature_alpha_dropout, 0.5, True), t(4, 8, 2)),
    of(with_last(torch.multinomial, 2, True), u(4, 8)),
)

# Drawn in place: all of a graph is then functionalized, which takes dropout apart.
IN_PLACE = (of(F.gumbel_softmax, t(4, 8)), of(lambda x: torch.empty_like(x).uniform_() + x, t(4, 8)))

REDUCTIONS = ("mean", "sum", "none")
SIGNS = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)

MORE_LOSS = tuple(
    example
    for r in REDUCTIONS
    for example in (
        of(with_last(F.nll_loss, reduction=r), t(4, 8), i(8, 4)),
        of(with_last(F.nll_loss, reduction=r, ignore_index=3), t(4, 8, 2), i(8, 4, 2)),
        of(with_last(F.nll_loss, reduction=r), t(4, 8, 2, 2), i(8, 4, 2, 2)),
        of(with_last(F.nll_loss, reduction=r), t(4, 8), i(8, 4), n(8)),
        of(with_last(F.cross_entropy, reduction=r), t(4, 8, 2), i(8, 4, 2)),
        of(with_last(F.cross_entropy, reduction=r), t(4, 8), u(4, 8)),
        of(with_last(F.cross_entropy, reduction=r, label_smoothing=0.2), t(4, 8, 2), u(4, 8, 2)),
        of(with_last(F.cross_entropy, reduction=r, label_smoothing=0.2), t(4, 8), i(8, 4), n(8)),
        of(with_last(F.cross_entropy, reduction=r), t(4, 8), u(4, 8), n(8)),
        of(with_last(F.soft_margin_loss, reduction=r), t(4, 8), n(4, 8)),
        of(with_last(F.poisson_nll_loss, reduction=r), t(4, 8), u(4, 8)),
        of(with_last(F.poisson_nll_loss, log_input=False, full=True, reduction=r), u(4, 8), n(4, 8) * 4),
        of(with_last(F.cosine_embedding_loss, margin=0.2, reduction=r), t(4, 8), t(4, 8), SIGNS),
        of(with_last(F.margin_ranking_loss, margin=0.2, reduction=r), t(4), t(4), SIGNS),
        of(with_last(F.hinge_embedding_loss, margin=0.5, reduction=r), t(4, 4), SIGNS.expand(4, 4)),
        of(with_last(F.triplet_margin_loss, swap=True, reduction=r), t(4, 8), t(4, 8), t(4, 8)),
        of(with_last(F.binary_cross_entropy, reduction=r), u(4, 8), u(4, 8), n(8)),
        of(
            lambda x, y, w, p, r=r: F.binary_cross_entropy_with_logits(x, y, w, None, None, r, p),
            t(4, 8),
            u(4, 8),
            n(4, 1),
            n(8),
        ),
    )
)

# Of these, export cannot trace the derivative.
ALONE = {name: single(f"aten.special_{name}.default", n(4, 8)) for name in ("i1", "i1e")}
